"""Rows of the table: means, paired differences, intervals, and which value is marked."""

import json
import math

import pytest

from jaxunlearn.studies.report import read_study
from jaxunlearn.studies.report.aggregate import make_table, shown_columns, to_json
from jaxunlearn.studies.report.columns import COLUMNS, GENERATED, LOOKS, REVIVED
from jaxunlearn.studies.report.wording import describe_request, interval_note, number, parts

CLASSIFYING = [column for column in COLUMNS if column.group not in (GENERATED, LOOKS, REVIVED)]


def find_row(table, name):
    return next(row for row in table.rows if row.name == name)


def load_metrics(folder, seed, request, name):
    path = folder / f"seed-{seed}" / request / name / "results.json"
    return json.loads(path.read_text())["metrics"]


def test_means_and_intervals_equal_the_textbook(finished_study):
    table = make_table(read_study(finished_study), "random-0.1")
    cell = find_row(table, "eupmu").cells["forget_accuracy"]
    first, second = (
        load_metrics(finished_study, seed, "random-0.1", "eupmu")["forget_accuracy"]
        for seed in (0, 1)
    )
    assert cell.value.mean == pytest.approx((first + second) / 2)
    # Two values: s = |a - b| / sqrt(2), and t = 12.706 for one degree of freedom.
    assert cell.value.half_width == pytest.approx(12.7062 * abs(first - second) / 2, rel=1e-4)
    assert cell.value.n == 2


def test_differences_are_paired_by_seed_and_signed(finished_study):
    table = make_table(read_study(finished_study), "class-3")
    pairs = [
        load_metrics(finished_study, seed, "class-3", "fine-tune")["test_forget_accuracy"]
        - load_metrics(finished_study, seed, "class-3", "retrain")["test_forget_accuracy"]
        for seed in (0, 1)
    ]
    difference = find_row(table, "fine-tune").cells["test_forget_accuracy"].difference
    assert difference.mean == pytest.approx(sum(pairs) / 2)
    assert difference.mean > 10.0
    assert difference.half_width == pytest.approx(12.7062 * abs(pairs[0] - pairs[1]) / 2, rel=1e-4)
    retrained = find_row(table, "retrain").cells
    assert all(cell.difference is None for cell in retrained.values())
    assert "tow" not in retrained
    assert find_row(table, "fine-tune").cells["tow"].difference is None


def test_the_best_distance_is_marked_among_methods_only(finished_study):
    table = make_table(read_study(finished_study), "random-0.1")
    for column in CLASSIFYING:
        cells = {row.name: row.cells[column.key] for row in table.rows if column.key in row.cells}
        marked = {name for name, cell in cells.items() if cell.best}
        if column.direction not in ("low", "high"):
            assert not marked
            continue
        best = max if column.direction == "high" else min
        methods = {name: cells[name].value.mean for name in ("fine-tune", "sfron", "eupmu")}
        assert best(methods, key=methods.get) in marked
        assert marked <= set(methods)
    gaps = {row.name: row.cells.get("average_gap_svc_non_member_rate") for row in table.rows}
    assert gaps["retrain-again"].value.mean < min(
        gaps[name].value.mean for name in ("fine-tune", "sfron", "eupmu")
    )


def test_references_come_first_and_class_columns_only_with_classes(finished_study):
    study = read_study(finished_study)
    by_class, at_random = (make_table(study, name) for name in ("class-3", "random-0.1"))
    assert [row.name for row in by_class.rows] == [
        "original",
        "retrain",
        "retrain-again",
        "fine-tune",
        "sfron",
        "eupmu",
    ]
    assert "test_forget_accuracy" in [column.key for column in by_class.columns]
    assert "test_forget_accuracy" not in [column.key for column in at_random.columns]
    assert shown_columns(study, [by_class, at_random]) == list(CLASSIFYING)


def test_the_json_form_is_strict_and_complete(finished_study):
    study = read_study(finished_study)
    tables = [make_table(study, request) for request in study.requests]
    plain = json.loads(json.dumps(to_json(study, tables), allow_nan=False))
    metric = plain["requests"]["random-0.1"]["runs"]["sfron"]["metrics"]["test_accuracy"]
    assert set(metric) == {"mean", "low", "high", "values", "difference"}
    assert len(metric["values"]) == 2
    assert math.isfinite(metric["difference"]["mean"])
    floor = plain["requests"]["class-3"]["runs"]["retrain-again"]
    assert floor["reference"] is True
    assert floor["metrics"]["tow"]["difference"] is None


def test_one_seed_has_no_interval_and_the_report_explains_it(small_study):
    study = read_study(small_study)
    table = make_table(study, "random-0.1")
    cell = find_row(table, "eupmu").cells["forget_accuracy"]
    assert cell.value.half_width is None and table.ranking is None
    _mean, width, difference = parts(cell, COLUMNS[0])
    assert width == ""
    assert difference.startswith("(")
    assert interval_note(study, table).startswith("One seed has no intervals")


def test_numbers_are_written_with_sign_and_fixed_digits():
    assert number(0.004, 2, signed=True) == "0.00"
    assert number(-0.004, 2, signed=True) == "0.00"
    assert number(1.005e4, 1, signed=True) == "+10,050.0"
    assert number(-1.25, 1) == "−1.2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random-0.05", "a random 5% of the training data"),
        ("classes-1-2", "all of classes 1, 2"),
        ("subclass-7", "subclass 7 inside its coarse class"),
        ("indices-1200-ab12cd34", "1,200 chosen training examples"),
        ("indices-1-ab12cd34", "1 chosen training example"),
        ("something", ""),
    ],
)
def test_requests_are_put_in_words(name, words):
    assert describe_request(name) == words
