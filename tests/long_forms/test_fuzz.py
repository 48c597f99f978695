"""A few damaged inputs of every kind; `experiments/verification/fuzz.py` draws thousands."""

import pytest

from experiments.verification import fuzz

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

SLOW = {"study folders": 4, "sweep folders": 10}
KINDS = [name for name in fuzz.KINDS if name not in fuzz.FOLDERS]


@pytest.fixture(autouse=True)
def prepared(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))  # so that it is set back
    fuzz.prepare(tmp_path, data_dir)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_in_one_sentence_and_leaves_nothing(name):
    found = fuzz.fuzz(name, SLOW.get(name, 25), 0)
    assert found.failures == {}
    assert found.counts["refused"] > 0


def test_what_is_sound_is_accepted_and_what_breaks_is_told():
    for name, case in (
        ("studies", fuzz._STUDY),
        ("searches", fuzz._SEARCH),
        ("saved requests", fuzz._SAVED),
        ("idx files", fuzz._IDX),
    ):
        assert fuzz.judge(fuzz.KINDS[name].give, case) == ("accepted", "")

    def broken(case):
        raise KeyError(case)

    def half(case):
        open("half", "w").close()
        raise fuzz.InputError("this is refused, but late.")

    assert fuzz.judge(broken, "x") == ("failed", "KeyError in test_fuzz.py:broken: 'x'")
    assert fuzz.judge(half, "x") == ("failed", "refused, but left ['half']")
