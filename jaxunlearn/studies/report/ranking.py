"""The ranking of the methods by a distance to the retrained model."""

from dataclasses import dataclass

from jaxunlearn.evaluation.comparison import Ranked, rank
from jaxunlearn.studies.report.columns import Column
from jaxunlearn.studies.report.study import Study
from jaxunlearn.types import InputError

METRIC = "five_part_gap"


@dataclass(frozen=True)
class Ranking:
    """The methods in order, by one column of the table."""

    column: Column
    places: tuple[Ranked, ...]


def make_ranking(study: Study, request: str, metric: str = METRIC) -> Ranking:
    """Ranks the methods of a study."""
    columns = {
        column.key: column for column in study.columns if column.direction in ("low", "high")
    }
    if metric not in columns:
        raise InputError(
            f"the metric to rank by is {metric!r}, but must be one of {', '.join(columns)}, which "
            "are better when lower or higher."
        )
    values = {}
    for name in study.methods:
        by_seed = {
            run.seed: run.metrics[metric]
            for run in study.select(request, name)
            if metric in run.metrics
        }
        if by_seed:
            values[name] = by_seed
    column = columns[metric]
    bounds = (column.unit.low, column.unit.high)
    return Ranking(column, rank(values, lowest_first=column.direction == "low", bounds=bounds))


def can_rank(study: Study, request: str) -> bool:
    """Whether there is something to rank: two methods, and two seeds of one of them."""
    seeds = [
        sum(METRIC in run.metrics for run in study.select(request, name)) for name in study.methods
    ]
    return sum(count > 0 for count in seeds) > 1 and max(seeds) > 1
