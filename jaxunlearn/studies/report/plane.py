"""All methods in the plane of forgetting against utility, and the Pareto front.

Utility is the test accuracy; the forget error is the distance of the forget accuracy to the forget
accuracy of the retrained model of the same seed,

    |FA - FA_retrained|,

in percentage points, both as means over the seeds.
"""

from typing import NamedTuple

import numpy as np

from jaxunlearn.evaluation.pareto import pareto_front
from jaxunlearn.studies.report.aggregate import Table
from jaxunlearn.studies.report.study import Study

_UTILITY_SHOWN = 10.0  # points below the best method that the picture still shows
_BEYOND = 1.0


class Point(NamedTuple):
    """A model in the plane: test accuracy in percent, forget error in percentage points."""

    utility: float
    error: float


class Plane(NamedTuple):
    """All models of a request in the plane, and the methods that no other method beats in both."""

    methods: dict[str, Point]
    references: dict[str, Point]
    front: frozenset[str]

    def is_shown(self, name: str) -> bool:
        """Whether a method is in the picture: not far beyond the best and the original."""
        point = self.methods[name]
        best = max(each.utility for each in self.methods.values())
        worst = max(each.error for each in self.references.values())
        worst = max(worst, *(self.methods[each].error for each in self.front))
        return point.utility >= best - _UTILITY_SHOWN and point.error <= 2 * worst + _BEYOND


def make_plane(study: Study, table: Table) -> Plane | None:
    """The models of one request; None without two methods and a retrained model of their seeds."""
    oracle = {
        run.seed: run.metrics["forget_accuracy"]
        for run in study.select(table.request, "retrain")
        if "forget_accuracy" in run.metrics
    }
    points = {}
    for row in table.rows:
        pairs = [
            (run.metrics["test_accuracy"], abs(run.metrics["forget_accuracy"] - oracle[run.seed]))
            for run in study.select(table.request, row.name)
            if run.seed in oracle and {"test_accuracy", "forget_accuracy"} <= run.metrics.keys()
        ]
        if pairs:
            points[row.name] = Point(*map(float, np.mean(pairs, axis=0)))
    methods = {name: points.pop(name) for name in study.methods if name in points}
    if len(methods) < 2 or not points:
        return None
    chosen = pareto_front([(point.error, -point.utility) for point in methods.values()])
    return Plane(methods, points, frozenset(list(methods)[i] for i in chosen))
