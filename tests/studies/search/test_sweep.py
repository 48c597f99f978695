"""Sweeps: cells that equal single runs, shards, resumption, divergence, and all refusals."""

import json

import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.report.sweep import cell_file
from jaxunlearn.studies.search import sweep as sweeps
from jaxunlearn.studies.search.space import Choices, Range
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import groups as memory
from jaxunlearn.types import InputError
from tests.shell.commands import QUICK, assert_refused, call, copy, done, rewrite, snapshot

pytest_plugins = ["tests.shell.fixtures"]

RATES = "learning_rate=0.001,0.1,1e30"


@pytest.fixture(scope="module")
def words(pretrained):
    given = ["--pretrained", pretrained, "--fraction", 0.1, "finetune"]
    return [*given, *QUICK]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, words, retrained):
    """A finished sweep of three rates, one of which diverges, and two seeds: groups of four."""
    folder = tmp_path_factory.mktemp("sweep") / "swept"
    more = ["--vary", RATES, "--seeds", 0, 7, "--retrained", retrained, "--group-size", 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "at_once", lambda most: most)  # as on accelerators
        printed = partly("sweep", folder, *words, *more)
    assert read(folder, 0.1, 0)["group_size"] == 4
    return folder, printed


def partly(*given):
    """Runs a sweep some cells of which diverge; what it printed, and which ones it named."""
    result = call(*given)
    assert result.status == 3 and result.err.startswith("jaxunlearn: diverged: setting-")
    assert "seed-0 (learning_rate=1e+30)" in result.err or "seed-7 (learning_rate=1" in result.err
    assert "All other cells are in the report" in result.err and "0.001" not in result.err
    return result.out


@pytest.fixture
def ran(monkeypatch):
    """The rates and seeds of the runs since."""
    seen = []
    run_many = sweeps.run_many

    def noting(program, members, **keywords):
        seen.extend((member.numbers["learning_rate"], member.seed) for member in members)
        return run_many(program, members, **keywords)

    monkeypatch.setattr(sweeps, "run_many", noting)
    return seen


def read(folder, rate, seed):
    name = cell_file({"learning_rate": rate}, seed)
    return json.loads((folder / "cells" / name).read_text())


def test_a_cell_is_the_run_that_the_commands_would_make(swept, words, retrained, tmp_path):
    folder, _ = swept
    for rate in (0.001, 0.1):
        run = tmp_path / str(rate)
        done("unlearn", run, *words, f"--learning-rate={rate}")  # of the pretraining's seed, 0
        done("evaluate", run, "--retrained", retrained, "--micro-batch", 64)
        expected = json.loads((run / "results.json").read_text())["metrics"]
        cell = read(folder, rate, 0)
        assert cell["settings"] == {"learning_rate": rate} and cell["seed"] == 0
        assert cell["metrics"] == pytest.approx(expected, abs=1e-3)
        assert {"five_part_gap", "kl_to_retrained", "validation_accuracy"} <= expected.keys()
        assert cell["metrics"] != read(folder, rate, 7)["metrics"]
    assert read(folder, 0.001, 0)["metrics"] != read(folder, 0.1, 0)["metrics"]


def test_a_diverged_cell_names_itself_and_stops_nobody(swept):
    folder, printed = swept
    assert printed.startswith("6 cells, 0 of them already finished\n")
    for seed in (0, 7):
        assert "metrics" not in read(folder, 1e30, seed)
        assert read(folder, 1e30, seed)["diverged"] <= 4
        assert f"-seed-{seed} (learning_rate=1e+30): a loss or a weight" in printed
        assert f"-seed-{seed} (learning_rate=0.1): accuracy: forget" in printed
    found = json.loads((folder / "results.json").read_text())
    assert [row["settings"]["learning_rate"] for row in found["settings"]] != []
    assert {row["settings"]["learning_rate"] for row in found["settings"]} == {0.001, 0.1}
    assert all(row["seeds"] == 2 for row in found["settings"])
    assert len(found["diverged"]) == 2 and (found["cells"], found["finished"]) == (6, 6)
    assert "-seed-7 (learning_rate=1e+30)" in (folder / "report.md").read_text()
    assert (folder / "front.svg").read_text().startswith("<svg")


def test_finished_cells_never_run_twice(swept, words, retrained, ran, tmp_path):
    folder = copy(swept[0], tmp_path / "sweep")
    given = ["--vary", RATES, "--retrained", retrained, "--group-size", 4]
    again = partly("sweep", folder, *words, *given, "--seeds", 0, 7)
    assert again.startswith("6 cells, 6 of them already finished\n") and ran == []
    before = snapshot(folder / "cells")
    lost = cell_file({"learning_rate": 0.1}, 0)
    (folder / "cells" / lost).unlink()
    partly("sweep", folder, *words, *given, "--seeds", 0, 7, 8)
    assert ran == [(0.001, 8), (0.1, 0), (0.1, 8), (1e30, 8)]  # the lost one and the new seed
    after = snapshot(folder / "cells")
    assert all(after[name] == before[name] for name in before if name != lost)
    metrics = json.loads(after[lost])["metrics"]
    assert metrics == pytest.approx(json.loads(before[lost])["metrics"], abs=1e-3)


@pytest.mark.parametrize("trials", [[], ["--trials", 5]])
def test_the_order_of_words_does_not_matter(words, ran, tmp_path, trials):
    """A cell that was lost is all that is run, and no other cell twice."""
    folder, first = tmp_path / "sweep", ["learning_rate=0.1,0.01", "weight_decay=0,1e-4"]
    swapped = ["weight_decay=1e-4,0,0", "learning_rate=0.01,0.1"]
    done("sweep", folder, *words, "--vary", *first, *trials, "--seeds", 3, 1)
    cells = snapshot(folder / "cells")
    points = [tuple(sorted(json.loads(cell)["settings"].items())) for cell in cells.values()]
    assert len(set(points)) == len(points) / 2 <= 4
    if not trials:
        assert len(cells) == 8
    ran.clear()
    done("sweep", folder, *words, "--vary", *swapped, *trials, "--seeds", 1, 3)
    assert ran == [] and snapshot(folder / "cells") == cells
    lost = min(cells)
    (folder / "cells" / lost).unlink()
    done("sweep", folder, *words, "--vary", *swapped, *trials, "--seeds", 1, 3)
    assert len(ran) == 1
    entry, before = (json.loads((folder / "cells" / lost).read_text()), json.loads(cells[lost]))
    assert (entry["settings"], entry["seed"]) == (before["settings"], before["seed"])
    found = json.loads((folder / "results.json").read_text())
    assert found["finished"] == found["cells"] == len(cells)
    assert len(found["settings"]) == len(cells) / 2 and {r["seeds"] for r in found["settings"]} == {
        2
    }


def test_fewer_seeds_run_less_and_forget_nothing(swept, words, retrained, ran, tmp_path):
    folder = copy(swept[0], tmp_path / "sweep")
    given = ["--vary", RATES, "--retrained", retrained, "--group-size", 4]
    printed = partly("sweep", folder, *words, *given, "--seeds", 7)
    assert printed.startswith("3 cells, 3 of them already finished") and ran == []
    for name in ("sweep.json", "results.json"):
        ours, theirs = (json.loads((f / name).read_text())["cells"] for f in (folder, swept[0]))
        assert ours == theirs
    assert (folder / "report.md").read_text() == (swept[0] / "report.md").read_text()


def test_cells_that_are_not_what_their_names_tell_are_refused(swept, words, retrained, tmp_path):
    folder = copy(swept[0], tmp_path / "sweep")
    path = folder / "cells" / cell_file({"learning_rate": 0.1}, 0)
    rewrite(path, lambda cell: cell["settings"].update(learning_rate=0.2))
    given = ["--vary", RATES, "--seeds", 0, 7, "--retrained", retrained, "--group-size", 4]
    result = call("sweep", folder, *words, *given)
    assert_refused(
        result, str(path), "belongs to other settings or another seed, but must be setting-"
    )
    rewrite(folder / "sweep.json", lambda record: record["identity"].pop("format"))
    assert_refused(call("sweep", folder, *words, *given), "format is 'not given' there, but 2 now")


def test_a_sweep_of_an_older_version_continues(swept, words, retrained, ran, tmp_path):
    """It lacks a setting that the method has gained since."""
    folder = copy(swept[0], tmp_path / "sweep")
    given = ["--vary", RATES, "--seeds", 0, 7, "--retrained", retrained, "--group-size", 4]

    def forget_a_setting(record):
        assert record["identity"]["settings"].pop("momentum") == 0.9

    rewrite(folder / "sweep.json", forget_a_setting)
    assert partly("sweep", folder, *words, *given).startswith("6 cells, 6 of them already finished")
    assert ran == []
    assert_refused(call("sweep", folder, *words, "--momentum=0.5", *given), "momentum is 0.9")


def test_shards_share_the_cells_and_any_of_them_reports(swept, words, retrained, ran, tmp_path):
    folder = tmp_path / "sweep"
    given = [*words, "--vary", RATES, "--seeds", 0, 7, "--retrained", retrained]
    for i in (1, 2, 3):
        with Workspace(folder).locked(f"{i % 3 + 1}-of-3"):  # beside another shard
            finish = done if i == 1 else partly  # two shards have a cell that diverges
            finish("sweep", folder, *given, "--group-size", 4, "--shard", f"{i}/3")
        assert json.loads((folder / "results.json").read_text())["finished"] == 2 * i
    assert sorted(ran) == sorted((r, s) for r in (0.001, 0.1, 1e30) for s in (0, 7))
    with Workspace(folder).locked("1-of-3"):
        for refused in (given, [*given, "--shard", "1/3"]):
            assert_refused(call("sweep", folder, *refused), "another process is at work")
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, swept[0]))
    for one, other in zip(ours["settings"], theirs["settings"], strict=True):
        assert one["forget_accuracy"] == pytest.approx(other["forget_accuracy"], abs=1e-3)


def test_more_trials_begin_with_the_fewer_ones(words, ran, tmp_path):
    given = ["--vary", "learning_rate=0.01:1", "--trials", 3]
    done("sweep", tmp_path / "sweep", *words, *given)
    assert len(ran) == 3
    assert len(list((tmp_path / "sweep" / "cells").iterdir())) == 3
    more = [*given[:2], "--trials", 4, *given[4:]]
    done("sweep", tmp_path / "sweep", *words, *more)
    assert len(ran) == 4


def test_points_are_drawn_always_the_same_and_once(tmp_path):
    space = {"alpha": Choices((1.0, 2.0)), "momentum": Choices((0.0, 0.9))}
    request = ForgetRequest(fraction=0.1)
    drawn = sweeps.Sweep(tmp_path, request, "sfron", space, trials=50)
    assert sorted(p["alpha"] for p in drawn.points()) == [1.0, 1.0, 2.0, 2.0]
    turned = {name: Choices(values[0][::-1]) for name, values in reversed(space.items())}
    assert sweeps.Sweep(tmp_path, request, "sfron", turned, trials=50).points() == drawn.points()
    wide = {"alpha": Range(1.0, 100.0)}
    few, many = (sweeps.Sweep(tmp_path, request, "sfron", wide, trials=n).points() for n in (3, 9))
    assert many[:3] == few and len(many) == 9


def test_an_empty_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing varies, so the grid is empty"):
        sweeps.Sweep(tmp_path, ForgetRequest(fraction=0.1), "finetune", {})


BAD = {
    "static": (["--vary", "num_steps=3,4"], "cannot be varied", "; vary learning"),
    "unknown": (["--vary", "rate=3,4"], "no setting 'rate'"),
    "malformed": (["--vary", "learning_rate=1:2:3"], "--vary is 'learning_rate=1:2:3'"),
    "empty": (["--vary", "learning_rate="], "--vary is 'learning_rate='"),
    "backwards": (["--vary", "learning_rate=2:1", "--trials", 3], "is 2 to 1", "end higher"),
    "value": (["--vary", "learning_rate=-1"], "learning_rate of method finetune is -1.0"),
    "no end": (["--vary", "learning_rate=1:2"], "a list of values in a grid", "number of trials"),
    "fixed": (
        ["--vary", "learning_rate=1", "momentum=0.5"],
        "momentum has a fixed value and values to vary",
    ),
    "trials": (["--vary", "learning_rate=1:2", "--trials", 0], "trials is 0"),
    "seeds": (["--vary", "learning_rate=1", "--seeds", 1, 1], "must be distinct"),
    "shard": (["--vary", "learning_rate=1", "--shard", "3/2"], "shard is '3/2'", "i from 1 to n"),
    "shards": (["--vary", "learning_rate=1", "--shard", "half"], "shard is 'half'"),
    "group": (["--vary", "learning_rate=1", "--group-size", 0], "group_size is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sweeps_are_refused_before_anything_is_written(here, words, case):
    given, *fragments = BAD[case]
    extra = ["--momentum=0.9"] if case == "fixed" else []
    assert_refused(call("sweep", "new", *words, *extra, *given), *fragments)


def test_a_budget_that_the_original_model_breaks_is_refused(here, words):
    given = [*words[:4], "eupmu_budget", "--vary", "budget=50,1e-6"]
    result = call("sweep", "new", *given)
    assert_refused(result, "budget is 1e-06 points", "for the original model")


def test_cells_run_one_by_one_where_the_memory_holds_no_more(words, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "at_once", lambda most: most)  # as on accelerators
    monkeypatch.setattr(memory, "memory_limit", lambda: 1)
    done("sweep", tmp_path / "new", *words, "--vary", "learning_rate=0.1,0.2")
    assert {read(tmp_path / "new", rate, 0)["group_size"] for rate in (0.1, 0.2)} == {1}


@pytest.mark.parametrize("size", [1, 2])
def test_the_layout_on_the_machine_changes_no_cell(swept, words, tmp_path, monkeypatch, size):
    """One by one, and as a group."""
    monkeypatch.setattr(sweeps, "at_once", lambda most: size)
    layout = ["--devices", 2, "--micro-batch", 16, "--chunk-steps", 3]
    done("sweep", tmp_path / "new", *words, "--vary", "learning_rate=0.001,0.1", *layout)
    for rate in (0.001, 0.1):
        cell, before = read(tmp_path / "new", rate, 0), read(swept[0], rate, 0)["metrics"]
        same = {name: before[name] for name in cell["metrics"]}
        assert cell["group_size"] == size and cell["metrics"] == pytest.approx(same, abs=1e-3)


def test_an_objective_that_no_example_is_unseen_for_is_refused(here, words):
    given = [*words[:2], "eupmu", "--classes", 3, "--vary", "tolerance=0,1"]
    result = call("sweep", "new", *given, "--objective=match_unseen")
    assert_refused(result, "there is none if whole classes are forgotten")


def test_folders_of_anything_else_are_refused(here, words, swept, pretrained, retrained, unlearned):
    vary = ["--vary", RATES]
    assert_refused(call("sweep", "full", *words, *vary), "full is not empty and holds no sweep")
    assert_refused(call("sweep", "a-file", *words, *vary), "a-file is a file")
    assert_refused(call("sweep", pretrained, *words, *vary), "holds no sweep")
    result = call("sweep", "new", *words, *vary, "--retrained", unlearned)
    assert_refused(result, "but must be a run of retrain")
    larger = [0.2 if word == 0.1 else word for word in words]
    result = call("sweep", "new", *larger, *vary, "--retrained", retrained)
    assert_refused(result, "of another problem, seed or forget request than new")
    folder = swept[0]
    before = snapshot(folder)
    given = ["--retrained", retrained, "--group-size", 4]
    result = call("sweep", folder, *words, *given, "--vary", "learning_rate=0.001,0.2")
    assert_refused(result, "varied.learning_rate is")
    assert_refused(call("sweep", folder, *larger, *vary, *given), "retrained model of another")
    assert_refused(call("sweep", folder, *words, *vary), "retrained is")
    assert_refused(
        call("sweep", folder, *words, "--momentum=0.5", *vary, *given), "momentum is 0.9"
    )
    assert snapshot(folder) == before
