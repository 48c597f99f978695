"""The journey of a network of the user's own: from its loop to the commands and back."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.files import read_json
from tests.data.pictures import write_pictures
from tests.shell.commands import done, weights
from tests.test_docs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "journey-own-loop.md"
FEW = {"num_steps": 2, "forget_batch_size": 3, "retain_batch_size": 8, "num_fast_steps": 1}


@pytest.mark.long
def test_the_page(tmp_path, monkeypatch):
    """Its commands and code in their order, on small images and with few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    write_pictures(tmp_path / "photos", count=12)
    Path("forget.txt").write_text("".join(f"train/cat/cat {number}.png\n" for number in (2, 5, 7)))
    page = PAGE.read_text("utf-8")
    nets, loop, back = blocks(PAGE)
    Path("nets.py").write_text(nets)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    own: dict = {}
    exec(loop.replace("700", "20").replace("128", "8"), own)
    (study,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    few = "".join(f"{name} = {number}\n" for name, number in FEW.items())
    Path("study.toml").write_text(study.replace("700", "6") + few)
    flags = [f"--{name.replace('_', '-')}={number}" for name, number in FEW.items()]
    for line in "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).splitlines():
        _, command, *words = shlex.split(line)
        printed = done(command, *words, *(flags if command == "unlearn" else []))
        if command == "adopt":
            own["model"].eval()
            right = (own["model"](own["images"]).argmax(-1) == own["labels"]).mean()
            assert f"accuracy: {100 * right:.2f} % on training data" in printed
    assert read_json(Path("runs/forgot/results.json"))["counts"]["forget"] == 3
    names: dict = {}
    exec(back, names)
    forgotten = np.asarray(names["model"].head.kernel[...])
    assert any(np.array_equal(forgotten, leaf) for leaf in weights(Path("runs/forgot")))
    assert not np.array_equal(forgotten, own["model"].head.kernel[...])
    # The model that was not unlearned comes back with all its bits.
    done("export", "runs/original", "same")
    exec(back.replace("forgotten", "same"), names)
    for one, other in zip(*(flat(each["model"]) for each in (names, own)), strict=True):
        np.testing.assert_array_equal(one, other)
    (run,) = Path("study").glob("seed-0/names-3-*/eupmu_sfron")
    done("export", run, "again")
    exec(back.replace("forgotten", "again"), names)


def flat(model) -> list[np.ndarray]:
    """Parameters and statistics of a module."""
    from flax import nnx

    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return [np.asarray(leaf.get_value()) for _, leaf in nnx.to_flat_state(state)]
