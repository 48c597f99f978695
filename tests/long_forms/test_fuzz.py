"""A few damaged inputs of every kind; `experiments/verification/fuzz.py` draws thousands."""

import pytest

from jaxunlearn.types import InputError
from tests.fuzzing import give, kinds, sound

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

SLOW = {"study folders": 4, "sweep folders": 10}
KINDS = [name for name in kinds.KINDS if name not in kinds.FOLDERS]


@pytest.fixture(autouse=True)
def prepared(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))  # so that it is set back
    give.prepare(tmp_path, data_dir)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_in_one_sentence_and_leaves_nothing(name):
    found = kinds.fuzz(name, SLOW.get(name, 25), 0)
    assert found.failures == {}
    assert found.counts["refused"] > 0


def test_what_is_sound_is_accepted_and_what_breaks_is_reported():
    for name, case in (
        ("studies", sound.STUDY),
        ("searches", sound.SEARCH),
        ("saved requests", sound.SAVED),
        ("idx files", sound.IDX),
    ):
        assert kinds.judge(kinds.KINDS[name].give, case) == ("accepted", "")

    def broken(case):
        raise KeyError(case)

    def half(case):
        open("half", "w").close()
        raise InputError("this is refused, but late.")

    assert kinds.judge(broken, "x") == ("failed", "KeyError in test_fuzz.py:broken: 'x'")
    assert kinds.judge(half, "x") == ("failed", "refused, but left ['half']")
