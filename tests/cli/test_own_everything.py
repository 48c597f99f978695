"""A study of a folder of images, an own NNX model, its checkpoint and a plug-in, in a TOML file."""

import sys
from pathlib import Path

import orbax.checkpoint as ocp
import pytest
from flax import nnx

from jaxunlearn.files import read_json
from jaxunlearn.studies.problem import _dataset
from tests.data.pictures import write_pictures
from tests.shell.commands import call, done

NETS = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, num_classes, *, width=2, rngs):
        self.conv = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(width, num_classes, rngs=rngs)])

    def __call__(self, x):
        return self.heads[0](nnx.relu(self.norm(self.conv(x))).mean((1, 2)))
"""
PLUGIN = """
from jaxunlearn import evaluation

@evaluation.register_metric(direction="near")
def own_confidence(model):
    '''Mean largest probability on forget data.'''
    return model.forget.probabilities.max(axis=1).mean()
"""
PROBLEM = """
[problem]
data = "folder:../pictures"
model = "toml_nets:Net"
model_settings = {width = 3}
checkpoint = "../weights"
mean = [0.5]
std = [0.25]
validation_names = "validation.txt"
training = {num_steps = 4, retain_batch_size = 8, clip_norm = 1.0, ema = 0.5}
[[requests]]
names = "forget.txt"
"""
SEARCH = (
    "seeds = [1]\ntrials = 2\noracle = true\n"
    + PROBLEM
    + """
[search.finetune]
num_steps = 3
forget_batch_size = 2
retain_batch_size = 8
learning_rate = [0.01, 0.1]
momentum = [0.1, 0.8]
"""
)
STUDY = (
    'tuned = "../search/tuned.toml"\n'
    + PROBLEM
    + """
[methods.finetune]
num_steps = 3
forget_batch_size = 2
retain_batch_size = 8
momentum = 0.5
clip_norm = 1.0
"""
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with all that a user brings: pictures, a network, plans."""
    home = tmp_path / "home"
    write_pictures(home / "pictures", count=6)
    (home / "plans").mkdir()
    for name, text in {
        "toml_nets.py": NETS,
        "plans/search.toml": SEARCH,
        "plans/study.toml": STUDY,
        "plans/forget.txt": "cat/cat 3.png\ntrain/dog/dog 5.png\n",
        "plans/validation.txt": "cat/cat 1.png\ntrain/dog/dog 1.png\n",
    }.items():
        (home / name).write_text(text)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    yield home
    sys.modules.pop("toml_nets", None)


def _state():
    from toml_nets import Net

    return nnx.state(Net(2, width=3, rngs=nnx.Rngs(7)))


@pytest.mark.long
def test_everything_of_ones_own_in_a_study(project, tmp_path, monkeypatch):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(project / "weights", _state())
    (tmp_path / "toml_plugin.py").write_text(PLUGIN)
    plugin = ["--plugin", tmp_path / "toml_plugin.py"]
    done("tune", "search", "--config", "plans/search.toml")
    compare = [*plugin, "compare", "study", "--config", "plans/study.toml"]
    done(*compare, "--dry-run")
    assert not Path("study").exists()
    done(*compare)

    cell = next(Path("study/seed-0").glob("names-*"))
    settings = read_json(cell / "finetune" / "config.json")["settings"]
    tuned = read_json(Path("search/tuning.json"))["found"][cell.name]["finetune"]["trials"][0]
    assert settings["learning_rate"] == tuned["settings"]["learning_rate"]
    assert (settings["momentum"], settings["clip_norm"]) == (0.5, 1.0)
    assert "own_confidence" in Path("study/report.md").read_text().replace("\\", "")
    done("report", "study")
    done(*plugin, "evidence", "study")
    assert "checks of" in done(*plugin, "verify", "study")
    assert "done" in done("status", "study")

    done("export", cell / "finetune", "back")
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(project / "back", _state())
    assert nnx.to_flat_state(restored)

    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    _dataset.cache_clear()
    done(*compare)
    done("tune", "search", "--config", "plans/search.toml")
    lost = call(*plugin, "verify", "study")
    assert lost.status == 2 and lost.out.count("is not a folder") == 1
    assert "matches" in done(*plugin, "verify", "study", "--data-dir", "pictures")
