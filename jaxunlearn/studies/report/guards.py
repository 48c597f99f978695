"""The utility budgets of a study's guarded runs, one line for each run."""

from jaxunlearn.studies.report.numerals import number
from jaxunlearn.studies.report.study import Study

GUARD_NOTE = (
    "Mean loss on held-out retain data, with the same examples and noise at each audit. Steps that "
    "exceeded the limit were rolled back to the last audit that passed, and later steps were "
    "halved. The loss at the end is the audit of the final weights."
)


def guard_rows(study: Study, request: str) -> tuple[list[str], list[list[str]]]:
    """The titles of the table of guarded runs after the first one, and its rows, names first."""
    titles = ["at the start", "limit", "at the end", "rollbacks", "budget"]
    rows = []
    for name in study.methods:
        for run in study.select(request, name):
            if run.guard:
                start, limit, end = (run.guard[key] for key in ("start", "limit", "end"))
                losses = [number(value, 4) for value in (start, limit, end)]
                held = "held" if end <= limit else "broken"
                seed = f"{name}, seed {run.seed}" if len(study.seeds) > 1 else name
                rows.append([seed, *losses, f"{run.guard['rollbacks']:g}", held])
    return titles, rows
