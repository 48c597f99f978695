"""Metrics of plug-ins in the reports of a study, which need no plug-in."""

import json

import pytest

from jaxunlearn.studies.report import read_study, render_table, write_report
from jaxunlearn.types import InputError
from tests.shell.commands import copy
from tests.studies.report.conftest import make_study

OWN = {
    "spread": {"direction": "low", "kind": "metric", "about": "Spread of <b>scores</b>."},
    "caught": {"direction": "near", "kind": "attack", "about": "Share of members."},
}
RECORDS = {
    "spread": {**OWN["spread"], "unit": "nats", "low": 0.0, "high": None},
    "caught": {**OWN["caught"], "unit": "%", "low": 0.0, "high": 100.0},
}
VALUES = {"retrain": 1.0, "fine-tune": 2.0, "sfron": 1.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds of a study whose runs have two more metrics, all but those of one method."""
    names = tuple(VALUES)
    folder = make_study(tmp_path_factory.mktemp("own") / "study", (0, 1), ("random-0.1",), names)
    for path in folder.glob("seed-*/random-0.1/*/results.json"):
        results = json.loads(path.read_text())
        if path.parent.name != "fine-tune":
            value = VALUES[path.parent.name] + 0.01 * results["seed"]
            results["metrics"] |= {"spread": value, "caught": 10 * value}
            results["own_metrics"] = RECORDS
        path.write_text(json.dumps(results))
    return folder


@pytest.fixture
def study(made, tmp_path):
    """A copy of the study, to be written to."""
    return copy(made, tmp_path / "study")


def test_own_metrics_are_columns_with_direction_interval_and_difference(study):
    paths = write_report(study)
    text = paths["markdown"].read_text()
    assert "| entropy\\_member\\_rate | caught | KL, nats |" in text
    assert "| Tug of war (ToW) | spread, nats | Seconds |" in text
    assert "- **caught** (near retrained): Share of members." in text
    assert "- **spread, nats** (lower is better): Spread of " in text
    page = paths["html"].read_text()
    assert "Spread of &lt;b&gt;scores&lt;/b&gt;." in page and "Metrics of plug-ins" in page
    found = json.loads(paths["json"].read_text())["requests"]["random-0.1"]["runs"]
    assert found["sfron"]["metrics"]["caught"]["difference"]["mean"] == pytest.approx(5.0)
    assert found["sfron"]["metrics"]["spread"]["difference"] is None
    own = found["retrain"]["metrics"]["spread"]
    assert own["mean"] == pytest.approx(1.005) and 0 < own["low"] < 1.0 < 1.01 < own["high"]
    assert "spread" not in found["fine-tune"]["metrics"]
    render_table(read_study(study))


def test_methods_can_be_ranked_by_an_own_metric_with_a_direction(study):
    path = study / "seed-0" / "random-0.1" / "fine-tune" / "results.json"
    results = json.loads(path.read_text())
    results["metrics"]["spread"] = 9.0
    path.write_text(json.dumps(results))
    paths = write_report(study, "spread")
    ranking = json.loads(paths["json"].read_text())["requests"]["random-0.1"]["ranking"]
    assert [place["method"] for place in ranking["places"]] == ["sfron", "fine-tune"]
    with pytest.raises(InputError, match="the metric to rank by is 'caught', but must be one of"):
        write_report(study, "caught")


def test_a_damaged_record_of_an_own_metric_is_refused(study):
    path = study / "seed-0" / "random-0.1" / "sfron" / "results.json"
    results = json.loads(path.read_text())
    results["own_metrics"] = {"spread": RECORDS["spread"] | {"direction": "up"}}
    path.write_text(json.dumps(results))
    with pytest.raises(
        InputError, match=r"own_metrics.spread.direction is 'up', but must be 'near"
    ):
        read_study(study)
