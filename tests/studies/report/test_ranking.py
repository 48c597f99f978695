"""The ranking in every form of the report, and the studies that cannot be ranked or mixed."""

import json

import pytest

from jaxunlearn.evaluation.comparison import paired_difference
from jaxunlearn.studies.report import read_study, write_report
from jaxunlearn.studies.report.aggregate import make_table
from jaxunlearn.studies.report.wording import ranking_cells, ranking_sentence
from jaxunlearn.types import InputError
from tests.shell.commands import assert_refused, call, snapshot
from tests.studies.report.conftest import make_study

pytestmark = pytest.mark.long

GAPS = {"fine-tune": [9.0, 9.4, 9.2, 9.2], "sfron": [2.0, 2.6, 1.9, 2.2], "eupmu": [2.2, 2.4, 1.8]}


@pytest.fixture
def study(tmp_path):
    """Four seeds of one request, with five-part gaps written by hand; eupmu lacks the last seed."""
    folder = make_study(tmp_path / "study", seeds=(0, 1, 2, 3), requests=("random-0.1",))
    for name, gaps in GAPS.items():
        for seed in range(4):
            path = folder / f"seed-{seed}" / "random-0.1" / name / "results.json"
            if seed < len(gaps):
                results = json.loads(path.read_text())
                results["metrics"]["five_part_gap"] = gaps[seed]
                path.write_text(json.dumps(results))
            else:
                path.unlink()
    return folder


def write_config(run, problem, **more):
    (run / "config.json").write_text(json.dumps({"problem": problem, "method": "sfron"} | more))


def test_the_ranking_shows_what_is_settled(study):
    ranking = make_table(read_study(study), "random-0.1").ranking
    assert [place.name for place in ranking.places] == ["eupmu", "sfron", "fine-tune"]
    assert [place.letters for place in ranking.places] == ["a", "a", "b"]
    assert ranking_sentence(ranking) == "eupmu cannot be told apart from sfron."
    behind = paired_difference(GAPS["fine-tune"][:3], GAPS["eupmu"])
    last = ranking_cells(ranking)[-1]
    assert last[:2] == ["3", "fine-tune"] and last[2].startswith("9.20 ± ")
    assert last[3] == f"{behind.mean:.2f} ± {behind.half_width:.2f}"
    assert last[5] == "b" and float(last[4].replace("< ", "")) < 0.05
    assert ranking_cells(ranking)[0][3:5] == ["", ""]


def test_every_form_of_the_report_has_it(study):
    paths = write_report(study)
    markdown, page = (paths[kind].read_text() for kind in ("markdown", "html"))
    for text in (markdown, page):
        assert "Ranking: Five-part gap" in text and "Holm" in text
        assert "cannot be told apart from sfron" in text
    assert "| 1 | eupmu | 2.13 ± " in markdown and "| a |" in markdown
    assert '<td>1</td><th scope="row">eupmu</th><td>2.13 ± ' in page
    plain = json.loads(paths["json"].read_text())["requests"]["random-0.1"]["ranking"]
    assert plain["metric"] == "five_part_gap"
    assert plain["places"][0]["cannot_be_told_apart_from"] == ["sfron"]
    assert len(plain["places"][2]["to_first"]["values"]) == 3


def test_it_can_go_by_another_metric(study):
    ranking = make_table(read_study(study), "random-0.1", "tow").ranking
    means = [place.value.mean for place in ranking.places]
    assert means == sorted(means, reverse=True) and ranking.column.key == "tow"


def test_what_cannot_be_ranked_is_refused(study, small_study):
    before = snapshot(study)
    words = ("report", study, "--rank-by", "forget_accuracy")
    assert_refused(call(*words), "the metric to rank by is 'forget_accuracy'", "five_part_gap, ")
    words = ("report", small_study, "--rank-by", "five_part_gap")
    assert_refused(call(*words), "has two or more seeds; run the study with more seeds")
    assert before == {k: v for k, v in snapshot(study).items() if k != ".lock-report"}
    assert make_table(read_study(small_study), "random-0.1").ranking is None


def test_runs_of_different_problems_are_not_mixed(study):
    problem = {"data": "digits", "training": {"num_steps": 200}}
    one, other = (study / f"seed-{seed}" / "random-0.1" for seed in (0, 2))
    write_config(one / "sfron", problem)
    write_config(other / "sfron", problem)
    write_config(study / "seed-1" / "pretrain", problem, method="retrain")
    assert len(read_study(study).runs) == 4 * 6 - 1
    write_config(other / "eupmu", problem | {"training": {"num_steps": 300}})
    with pytest.raises(InputError) as caught:
        read_study(study)
    for words in (f"{one / 'sfron'} and {other / 'eupmu'}", "problem.training.num_steps", "200"):
        assert words in str(caught.value)
    assert_refused(call("report", study), "come from different protocols")


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        (("seed-0", "sfron", {"aim": {"trainable": "head"}}), ("seed-1", "sfron", {}), "aim"),
        (
            ("seed-0", "sfron", {"request": {"fraction": 0.1}}),
            ("seed-1", "eupmu", {"request": {"fraction": 0.2}}),
            "request.fraction",
        ),
        (
            ("seed-0", "sfron", {"earlier": [{"classes": [1]}]}),
            ("seed-0", "eupmu", {"earlier": None}),
            "earlier",
        ),
        (("seed-0", "sfron", {"seed": 0}), ("seed-0", "eupmu", {"seed": 1}), "seed"),
    ],
)
def test_runs_of_another_aim_request_or_seed_are_not_mixed(study, one, other, field):
    for seed, name, more in (one, other):
        write_config(study / seed / "random-0.1" / name, {}, **more)
    with pytest.raises(InputError, match=f"different protocols, .*: {field} is "):
        read_study(study)


def test_runs_of_one_method_with_different_settings_are_not_mixed(study):
    one, other = (study / f"seed-{seed}" / "random-0.1" / "sfron" for seed in (0, 1))
    write_config(one, {}, settings={"alpha": 1.0})
    write_config(other, {}, settings={"alpha": 2.0})
    with pytest.raises(InputError, match="settings.alpha is 1.0 in the first, but 2.0 in"):
        read_study(study)
