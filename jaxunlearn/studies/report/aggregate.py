"""From single runs to the rows of a table: means over seeds, paired differences, best values.

A difference is taken between a run and the retrained model of the same seed, and then averaged over
seeds. The best values are marked among methods only: reference rows take no part.
"""

from dataclasses import dataclass
from typing import Any

from jaxunlearn.evaluation import PairedDifference, Summary, summarize
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.studies.report.columns import COLUMNS, DISTANCE, REFERENCES, Column
from jaxunlearn.studies.report.diagnosis import diagnose
from jaxunlearn.studies.report.ranking import METRIC, Ranking, can_rank, make_ranking
from jaxunlearn.studies.report.study import Study

_TO_RETRAINED = {column.key for column in COLUMNS if column.group == DISTANCE}


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        value: mean over seeds.
        difference: mean over seeds of the signed difference to the retrained model of the same
            seed; None without a retrained model, and for columns without such a difference.
        best: whether the value is the best of its column among the methods.
    """

    value: Summary
    difference: Summary | None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: "original", "retrain", "retrain-again" or a method.
        reference: whether the row is one of the three models to compare with.
        seeds: number of seeds.
        cells: cells by the keys of their columns; a column without a number is absent.
    """

    name: str
    reference: bool
    seeds: int
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """All rows for one request, the columns that any of them fills, and the ranking, if any."""

    request: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    counts: dict[str, int]
    ranking: Ranking | None = None

    @property
    def has_retrained(self) -> bool:
        """Whether there is a retrained model to compare with."""
        return any(row.name == "retrain" for row in self.rows)


def _summaries(study: Study, request: str, name: str) -> dict[str, Cell]:
    runs = study.select(request, name)
    oracle = {run.seed: run.metrics for run in study.select(request, "retrain")}
    compared = {column.key for column in study.columns if column.direction == "near"}
    units, cells = {column.key: column.unit for column in study.columns}, {}
    for key in dict.fromkeys(key for run in runs for key in run.metrics):
        if key in _TO_RETRAINED and name == "retrain":
            continue
        values = [run.metrics[key] for run in runs if key in run.metrics]
        pairs = [
            run.metrics[key] - oracle[run.seed][key]
            for run in runs
            if key in run.metrics and key in oracle.get(run.seed, {})
        ]
        shown = key in {*compared, "validation_accuracy"} and name != "retrain" and pairs
        _, low, high = units.get(key) or unit_of(key)
        difference = summarize(pairs, (low - high, high - low)) if shown else None
        cells[key] = Cell(summarize(values, (low, high)), difference)
    return cells


def _mark_best(rows: list[Row], column: Column) -> None:
    cells = [row.cells[column.key] for row in rows if column.key in row.cells]
    if column.direction not in ("low", "high") or len(cells) < 2:
        return
    rounded = [round(cell.value.mean, column.decimals) for cell in cells]
    best = min(rounded) if column.direction == "low" else max(rounded)
    for row in rows:
        cell = row.cells.get(column.key)
        if cell and round(cell.value.mean, column.decimals) == best:
            row.cells[column.key] = Cell(cell.value, cell.difference, best=True)


def make_table(study: Study, request: str, rank_by: str | None = None) -> Table:
    """Collects the rows of one request, references first, and ranks the methods if possible.

    `rank_by` is the key of a column, by default the five-part gap. The best value of each column is
    marked among the methods, ties included.
    """
    rows = []
    for name in (*REFERENCES, *study.methods):
        runs = study.select(request, name)
        if runs:
            cells = _summaries(study, request, name)
            rows.append(Row(name, name in REFERENCES, len(runs), cells))
    methods = [row for row in rows if not row.reference]
    for column in study.columns:
        _mark_best(methods, column)
    columns = tuple(
        column for column in study.columns if any(column.key in row.cells for row in rows)
    )
    counts = next((dict(run.counts) for run in study.runs if run.request == request), {})
    ranking = None
    if rank_by is not None or can_rank(study, request):
        ranking = make_ranking(study, request, rank_by or METRIC)
    return Table(request, columns, tuple(rows), counts, ranking)


def _plain(summary: Summary) -> dict[str, Any]:
    low, high = summary.interval or (None, None)
    return {"mean": summary.mean, "low": low, "high": high, "values": list(summary.values)}


def _plain_difference(found: PairedDifference) -> dict[str, Any]:
    summary = Summary(found.mean, found.half_width, found.n, found.values)
    return _plain(summary) | {"p_value": found.p_value}


def _plain_ranking(ranking: Ranking) -> dict[str, Any]:
    places = [
        {
            "method": place.name,
            **_plain(place.value),
            "to_first": None if place.to_best is None else _plain_difference(place.to_best),
            "p_holm": place.p_adjusted,
            "letters": place.letters,
            "cannot_be_told_apart_from": list(place.like),
        }
        for place in ranking.places
    ]
    return {"metric": ranking.column.key, "places": places}


def shown_columns(study: Study, tables: list[Table]) -> list[Column]:
    """The columns that at least one table shows, in their order."""
    return [column for column in study.columns if any(column in table.columns for table in tables)]


def to_json(study: Study, tables: list[Table]) -> dict[str, Any]:
    """The aggregated results as plain objects, for `results.json`.

    Every metric of a run has its mean, the ends of its 95% interval (null for one seed), the value
    of each seed, and the same for the difference to the retrained model.
    """
    requests = {}
    for table in tables:
        runs = {}
        for row in table.rows:
            runs[row.name] = {
                "reference": row.reference,
                "seeds": row.seeds,
                "metrics": {
                    key: _plain(cell.value)
                    | {"difference": None if cell.difference is None else _plain(cell.difference)}
                    for key, cell in row.cells.items()
                },
            }
        requests[table.request] = {
            "counts": table.counts,
            "runs": runs,
            "settings": {k: dict(v) for k, v in study.settings(table.request).items()},
            "diagnoses": diagnose(study, table.request),
        }
        if table.ranking is not None:
            requests[table.request]["ranking"] = _plain_ranking(table.ranking)
    return {
        "title": study.title,
        "dataset": study.dataset,
        "model": study.model,
        "seeds": list(study.seeds),
        "machines": [dict(machine) for machine in study.machines],
        "interval": "95% t-interval over seeds, from low to high, cut at the possible values",
        "requests": requests,
        **{
            kind: [
                {"seed": run.seed, "request": run.request, "run": run.name, "step": run.step}
                for run in study.unfinished
                if run.diverged == (kind == "diverged")
            ]
            for kind in ("diverged", "unfinished")
        },
    }
