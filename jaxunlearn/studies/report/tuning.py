"""Results of the blind tuner: the settings as TOML, and a table with the cost of blindness."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.files import read_json
from jaxunlearn.studies.runs.schema import TuningRecord, check_record

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FILE = "tuning.json"


def read_tuning(folder: Path) -> dict[str, Any]:
    """The content of the `tuning.json` of a search, finished or not."""
    record = read_json(folder / FILE)
    check_record(folder / FILE, record, TuningRecord)
    return record


def regret(trials: list[dict[str, Any]]) -> tuple[float, float] | None:
    """The five-part gaps of the setting chosen blind and of the best; None if they are unknown.

    Their difference is the regret. The trial with the best target comes first.

    Example:
        >>> regret([{"target": 1.0, "five_part_gap": 3.0}, {"target": 2.0, "five_part_gap": 2.5}])
        (3.0, 2.5)
    """
    if any(trial.get("five_part_gap") is None for trial in trials):
        return None
    return trials[0]["five_part_gap"], min(trial["five_part_gap"] for trial in trials)


def without_choice(record: dict[str, Any]) -> list[str]:
    """The runs, as "REQUEST NAME", whose best trial diverged for any seed."""
    return [
        f"{request} {name}"
        for request, runs in record["found"].items()
        for name, found in runs.items()
        if _best_diverged(found["trials"])
    ]


def chosen_toml(record: dict[str, Any]) -> str:
    """The settings chosen blind, as TOML overrides for the configuration of a study.

    Targets, known gaps and the runs without a choice are in comments.
    """
    import tomli_w

    lines = []
    for request, runs in record["found"].items():
        for name, found in runs.items():
            trials = found["trials"]
            if _best_diverged(trials):
                lines += [f"# {request} {name}: the best trial diverged or broke its budget", ""]
                continue
            comment = f"# target {trials[0]['target']:.2f}, median {_median(trials):.2f}"
            gaps = regret(trials)
            if gaps is not None:
                comment += f"; five-part gap {gaps[0]:.2f}, tuned by the oracle {gaps[1]:.2f}"
            chosen = {"overrides": {request: {name: trials[0]["settings"]}}}
            lines += [comment, tomli_w.dumps(chosen)]
    return "\n".join(lines)


def render_tuning(folder: Path) -> "RichTable":
    """The targets of a search, and the five-part gaps of blind and oracle tuning if known."""
    from rich import box
    from rich.table import Table

    found = read_tuning(folder)["found"]
    rendered = Table(
        caption="tuned: number of tuned settings; target: |RA - RA0| + |VA - VA0| + |FA - U| "
        "in points, known to the tuner; gap: five-part gap to the retrained model, unknown to it; "
        "regret: the cost of blindness",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for heading in ("request", "run"):
        rendered.add_column(heading)
    for heading in ("tuned", "trials", "target", "median", "gap, blind", "gap, oracle", "regret"):
        rendered.add_column(heading, justify="right")
    for request, runs in found.items():
        for index, (name, entry) in enumerate(runs.items(), start=1):
            trials, gaps = entry["trials"], regret(entry["trials"])
            numbers = [trials[0]["target"], _median(trials)]
            numbers += [] if gaps is None else [*gaps, gaps[0] - gaps[1]]
            texts = [f"{value:.2f}" for value in numbers] + ["–"] * (5 - len(numbers))
            tuned = sum(isinstance(values, list) for values in entry["ranges"].values())
            counts = (str(tuned), str(len(trials)))
            rendered.add_row(request, name, *counts, *texts, end_section=index == len(runs))
    return rendered


def _best_diverged(trials: list[dict[str, Any]]) -> bool:
    return "diverged" in trials[0]


def _median(trials: list[dict[str, Any]]) -> float:
    return float(np.median([trial["target"] for trial in trials]))
