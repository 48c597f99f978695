"""Numbers in reports: one unit a name, intervals among the possible values, times from records."""

import json
import re
import shutil
from importlib.resources import files

import pytest

from jaxunlearn.evaluation.units import UNITS, unit_of
from jaxunlearn.studies.report import read_study, render_table, write_report
from jaxunlearn.studies.report.aggregate import make_table
from jaxunlearn.studies.report.columns import COLUMNS
from jaxunlearn.studies.report.verdict import headline
from jaxunlearn.studies.report.wording import facts, parts, ranking_cells
from tests.studies.report.conftest import make_study
from tests.studies.report.test_report import Page

pytestmark = pytest.mark.long

# Names that are no measurements: numbers of examples, seeds and steps.
COUNTS = {"forget", "retain", "validation", "test", "test_forget", "seed", "seeds", "steps"}


def numbers(value, name=""):
    """All numbers of a JSON value with the name that says what they are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_column_and_every_number_of_a_run_has_a_unit(finished_study):
    assert {column.key for column in COLUMNS} <= set(UNITS)
    for path in finished_study.glob("seed-*/*/*/results.json"):
        for name, value in numbers(json.loads(path.read_text())):
            if name not in COUNTS:
                assert name in UNITS, f"{name} of {path} has no unit"
                assert unit_of(name).low <= value <= unit_of(name).high


def test_a_name_means_the_same_in_the_results_of_a_run_and_of_a_study(small_study):
    write_report(small_study)
    table = json.loads((small_study / "results.json").read_text())["requests"]["random-0.1"]
    for name, row in table["runs"].items():
        run = json.loads((small_study / "seed-0/random-0.1" / name / "results.json").read_text())
        own = dict(numbers(run))
        shared = own.keys() & row["metrics"].keys()
        assert {"forget_accuracy", "seconds"} <= shared
        assert name == "retrain" or "share_of_retraining" in shared
        for key in shared:
            assert row["metrics"][key]["mean"] == pytest.approx(own[key], rel=1e-6), key


@pytest.fixture(params=[2, 3])
def spread_study(request, tmp_path):
    """Two or three seeds that are far apart, as small data sets give them."""
    seeds = range(request.param)
    folder = make_study(tmp_path / "study", seeds=tuple(seeds), requests=("random-0.1",))
    for path in folder.glob("seed-*/random-0.1/*/results.json"):
        seed = int(path.parts[-4].removeprefix("seed-"))
        results = json.loads(path.read_text())
        for key in results["metrics"]:
            low, high = unit_of(key).low, min(unit_of(key).high, 100.0)
            results["metrics"][key] = (low, high, (low + high) / 2)[seed]
        results["seconds"] = (0.0312, 190.0, 2.0)[seed]
        path.write_text(json.dumps(results))
    return folder


def test_intervals_keep_to_the_possible_values_in_every_form(spread_study):
    paths, study = write_report(spread_study), read_study(spread_study)
    table = make_table(study, "random-0.1")
    results = json.loads(paths["json"].read_text())["requests"]["random-0.1"]["runs"]
    for row in table.rows:
        for column in table.columns:
            if column.key not in row.cells:
                continue
            found, unit = results[row.name]["metrics"][column.key], column.unit
            assert unit.low <= found["low"] <= found["mean"] <= found["high"] <= unit.high
            mean, spread, _ = parts(row.cells[column.key], column)
            assert len(found["values"]) == len(study.seeds)
            if "±" in spread:
                middle, width = (float(t.strip("± ").replace(",", "")) for t in (mean, spread))
                assert unit.low <= middle - width and middle + width <= unit.high
    for kind in ("markdown", "html"):
        text = paths[kind].read_text()
        if len(study.seeds) == 2:
            assert "[0.00 and 100.00]" in text and "±" not in text
            assert "both values in square brackets" in text
        else:
            assert "[0.00 to 100.00]" in text
            assert (
                "the interval in square brackets if it is cut at the smallest or largest possible "
                "value" in text
            )
        assert not re.search(r"\bnan\b|\binf\b", text)
    if len(study.seeds) == 2:
        assert all("±" not in cell for row in ranking_cells(table.ranking) for cell in row)
    assert not any("overlap" in paths[kind].read_text() for kind in ("markdown", "html"))


def test_short_times_are_no_zeros(small_study):
    edit(small_study / "seed-0/random-0.1/eupmu/results.json", seconds=0.0312)
    edit(small_study / "seed-0/random-0.1/retrain/results.json", seconds=1536.3)
    markdown = write_report(small_study)["markdown"].read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| eupmu"))
    assert row.split("|")[-4:-1] == [" 0.031 ", " 0.002 ", " 1.50 "]
    assert "| 1,536 |" in markdown


def test_a_copy_of_a_study_has_the_same_report(finished_study, tmp_path):
    first = shutil.copytree(finished_study, tmp_path / "first")
    for i, path in enumerate(sorted(first.glob("seed-*/*/*/results.json"))):
        edit(path, finished=f"2026-03-0{1 + i % 2}T10:0{i % 6}:59+00:00")
    paths = write_report(first)
    copy = shutil.copytree(first, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    for kind, path in write_report(copy).items():
        assert path.read_bytes() == paths[kind].read_bytes()
    told = dict(facts(read_study(copy)))["Finished runs"]
    assert told == "24, 2026-03-01 10:00 to 2026-03-02 10:05 UTC"


def test_runs_without_a_recorded_time_have_none(small_study):
    assert dict(facts(read_study(small_study)))["Finished runs"] == "2"


def test_figures_of_the_judge_are_rounded(small_study):
    judge = {"model": "mlp", "test_accuracy": 96.61971830985917}
    for path in small_study.glob("seed-*/*/*/results.json"):
        edit(path, judge=judge)
    paths = write_report(small_study)
    for kind in ("markdown", "html"):
        text = Page(paths[kind].read_text()).text if kind == "html" else paths[kind].read_text()
        assert "96.62%" in text and "96.6197" not in text


SETTINGS = {"learning_rate": 0.00312, "num_steps": 30, "optimizer": "adam"}


def test_the_headline_opens_every_form(finished_study):
    paths, sentence = write_report(finished_study), headline(read_study(finished_study))
    assert sentence.startswith("Forgetting a random 10% of the training data, ")
    assert json.loads(paths["json"].read_text())["headline"] == sentence
    assert paths["markdown"].read_text().splitlines()[2] == f"**{sentence}**"
    assert f'<p class="headline">{sentence}</p>' in paths["html"].read_text()


def test_the_settings_of_every_run_are_shown(small_study):
    group = small_study / "seed-0" / "random-0.1"
    for name, method in {"eupmu": "eupmu_own", "retrain": "pretrain"}.items():
        config = {"method": method, "settings": SETTINGS, "aim": {"anchor": 0, "adapter_rank": 0}}
        (group / name / "config.json").write_text(json.dumps(config))
    paths = write_report(small_study)
    page = paths["html"].read_text()
    folded = page[page.index("<details>") : page.index("</details>") + 10]
    assert "open" not in folded.split("<dl")[0]
    for text in (Page(folded).text, paths["markdown"].read_text().replace("\\", "")):
        assert "eupmu_own: learning_rate 0.00312, num_steps 30, optimizer adam; anchor 0" in text
        assert "adapter_rank" not in text
    told = json.loads(paths["json"].read_text())["requests"]["random-0.1"]["settings"]
    assert told["eupmu"] == {"method": "eupmu_own", "settings": SETTINGS, "aim": {"anchor": 0}}


def test_a_diverged_run_is_said_to_have_diverged(small_study, capsys):
    for name, record in {"sfron": {"reason": "a loss became NaN."}, "scrub": None}.items():
        folder = small_study / "seed-0" / "random-0.1" / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 4, "retain_loss": "nan"}\n')
        if record:
            (folder / "diverged.json").write_text(json.dumps(record))
    paths = write_report(small_study)
    found = json.loads(paths["json"].read_text())
    place = {"seed": 0, "request": "random-0.1", "step": 4}
    assert found["diverged"] == [place | {"run": "sfron"}]
    assert found["unfinished"] == [place | {"run": "scrub"}]
    markdown, page = paths["markdown"].read_text(), Page(paths["html"].read_text()).text
    assert "**Diverged:**\n\n- seed 0, random-0.1, sfron: at step 4\n" in markdown
    assert "**Not finished:**\n\n- seed 0, random-0.1, scrub: last logged step 4\n" in markdown
    assert "Diverged seed 0, random-0.1, sfron: at step 4" in page
    from rich.console import Console

    Console(width=200).print(render_table(read_study(small_study)))
    assert "Diverged: seed 0, random-0.1, sfron: at step 4" in capsys.readouterr().out


def test_pictures_are_no_wider_than_the_page():
    """Pictures keep to the width of the element around them, and generated images scroll."""
    folder = files("jaxunlearn.studies.report") / "templates"
    style = (folder / "report.css").read_text()
    chart = re.search(r"\.chart \{([^}]*)\}", style)
    assert chart and "width: 100%" in chart[1] and "height: auto" in chart[1]
    section = (folder / "section.html").read_text()
    assert 'call scroll("Generated images' in section.split('<table class="samples"')[0]
