"""What a Python user imports from `jaxunlearn.studies`."""

import subprocess
import sys

import pytest

from jaxunlearn import studies
from jaxunlearn.data import ForgetRequest
from tests.shell.commands import snapshot

pytest_plugins = ["tests.shell.fixtures"]


def test_every_name_is_there_and_is_no_module():
    assert set(studies.__all__) <= set(dir(studies))
    for name in studies.__all__:
        assert callable(getattr(studies, name)), name
    with pytest.raises(AttributeError, match="no attribute 'uneval'"):
        _ = studies.uneval


def test_importing_the_door_imports_no_jax():
    code = "import sys, jaxunlearn.studies as s; dir(s); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_done_is_not_done_again(pretrained, retrained, unlearned):
    """The functions find the runs of the commands finished; the folders stay as they are."""
    request = ForgetRequest(fraction=0.1)
    before = [snapshot(run) for run in (pretrained, retrained, unlearned)]
    studies.retrain(retrained, pretrained, request)
    settings = {"num_steps": 4, "forget_batch_size": 32, "retain_batch_size": 32}
    studies.unlearn(unlearned, pretrained, request, "finetune", settings)
    assert [snapshot(run) for run in (pretrained, retrained, unlearned)] == before
