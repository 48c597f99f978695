"""The report of a sweep: the front of forgetting against utility, from the cells' files.

Both are measured on data that a blind choice may use: the utility is the validation accuracy, the
forget error the distance of the forget accuracy to the accuracy on unseen data,

    |FA - U|,   U = the original's validation accuracy, or 0 where whole classes are forgotten,

in percentage points, means over the seeds. The hypervolume is measured from the original model's
forget error and a validation accuracy 10 points below the original's: a setting that is worse in
either adds nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jaxunlearn.evaluation.pareto import hypervolume, pareto_front
from jaxunlearn.files import read_json, write_record, write_text
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.report.plots import draw_front, svg
from jaxunlearn.studies.runs.schema import SweepCell, SweepRecord, check_record, with_entries
from jaxunlearn.types import InputError

_LOSS_ALLOWED = 10.0
_BEYOND = 3.0  # points of the worse side that the picture still shows
_SHOWN = {
    "forget_accuracy": "FA",
    "retain_accuracy": "RA",
    "validation_accuracy": "VA",
    "test_accuracy": "TA",
    "five_part_gap": "five-part gap",
    "js_to_retrained": "JS",
}


def cell_file(settings: Mapping[str, float], seed: int) -> str:
    """The file name of a run: its settings and its seed determine it.

    Example:
        >>> cell_file({"alpha": 1.0, "momentum": 0.9}, seed=7)
        'setting-41c9261c7a0d-seed-7.json'
    """
    numbers = {name: float(value) for name, value in settings.items()}
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()
    return f"setting-{digest[:12]}-seed-{seed}.json"


def write_sweep_report(folder: Path) -> dict[str, Path]:
    """Writes `report.md`, `results.json` and `front.svg` for a sweep, finished or not."""
    plan = read_json(folder / "sweep.json")
    check_record(folder / "sweep.json", plan, SweepRecord)
    found = aggregate(folder, plan)
    paths = {
        "markdown": folder / "report.md",
        "json": folder / "results.json",
        "picture": folder / "front.svg",
    }
    write_text(paths["picture"], svg(draw_front, *_front(found), height=2.9))
    write_record(paths["json"], found)
    write_text(paths["markdown"], render_sweep(found))
    return paths


def _front(found: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of `draw_front` for a sweep."""
    shown = [row for row in found["settings"] if row["in_picture"]]
    points = [(row["validation_accuracy"], row["forget_error"]) for row in shown]
    references = {"original": found["original"], "retrain": found["retrained"]}
    places = {
        name: (each["validation_accuracy"], abs(each["forget_accuracy"] - found["unseen_accuracy"]))
        for name, each in references.items()
        if each is not None
    }
    front = {i for i, row in enumerate(shown) if row["on_front"]}
    worst = (found["reference"]["validation_accuracy"], found["reference"]["forget_error"])
    return points, front, places, "validation accuracy", worst


def aggregate(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The content of `results.json`: settings, the front and the hypervolume, of finished cells."""
    unseen, identity = plan["unseen_accuracy"], plan["identity"]
    by_setting: dict[str, list[dict[str, Any]]] = {}
    diverged: list[str] = []
    names: tuple[str, ...] = ()  # names of the metrics, the same in all cells
    finished = 0
    for name in plan["cells"]:
        if not (folder / "cells" / name).exists():
            continue
        cell = read_json(folder / "cells" / name)
        check_record(folder / "cells" / name, cell, SweepCell)
        if cell_file(cell["settings"], cell["seed"]) != name:
            raise InputError(
                f"the name of {folder / 'cells' / name} belongs to other settings or another seed, "
                f"but must be {cell_file(cell['settings'], cell['seed'])}; delete it and run the "
                "sweep again."
            )
        finished += 1
        if cell.get("metrics"):
            kind = Annotated[dict[str, float], with_entries(*names)]
            check_record(folder / "cells" / name, cell["metrics"], kind)
            names = tuple(cell["metrics"])
        else:
            diverged.append(cell_label(name, cell["settings"]))
        by_setting.setdefault(json.dumps(cell["settings"], sort_keys=True), []).append(cell)
    rows: list[dict[str, Any]] = []
    for cells in by_setting.values():
        metrics = [cell["metrics"] for cell in cells if cell.get("metrics")]
        if len(metrics) < len(cells):  # a setting that diverges for any seed is left out
            continue
        means = {key: float(np.mean([each[key] for each in metrics])) for key in metrics[0]}
        errors = [abs(each["forget_accuracy"] - unseen) for each in metrics]
        seconds = float(np.mean([cell["seconds"] for cell in cells]))
        settings = {"settings": cells[0]["settings"], "seeds": len(cells), "seconds": seconds}
        rows.append(settings | {"forget_error": float(np.mean(errors))} | means)
    rows.sort(key=lambda row: row["forget_error"])
    places = [(row["forget_error"], -row["validation_accuracy"]) for row in rows]
    front = set(pareto_front(places).tolist())
    reference = {
        "forget_error": abs(plan["original"]["forget_accuracy"] - unseen),
        "validation_accuracy": plan["original"]["validation_accuracy"] - _LOSS_ALLOWED,
    }
    worst = reference["validation_accuracy"], reference["forget_error"]
    area = hypervolume(places, (worst[1], -worst[0]))
    return {
        "method": identity["method"],
        "request": plan["request"],
        "dataset": identity["problem"]["data"],
        "model": identity["problem"]["model"],
        "varied": identity["varied"],
        "search": identity["search"],
        "machine": plan["machine"],
        "unseen_accuracy": unseen,
        "original": plan["original"],
        "retrained": plan.get("retrained"),
        "cells": len(plan["cells"]),
        "finished": finished,
        "diverged": diverged,
        "hypervolume": area,
        "reference": reference,
        "settings": [
            row
            | {
                "on_front": i in front,
                "in_picture": row["validation_accuracy"] >= worst[0] - _BEYOND
                and row["forget_error"] <= worst[1] + _BEYOND,
            }
            for i, row in enumerate(rows)
        ],
    }


def render_sweep(found: dict[str, Any]) -> str:
    """The report as Markdown, from the result of `aggregate`."""
    reference, rows = found["reference"], found["settings"]
    front = [row for row in rows if row["on_front"]]
    outside = sum(not row["in_picture"] for row in rows) or "none"
    ranges = [
        f"{name} from {values['low']:g} to {values['high']:g}"
        if isinstance(values, dict)
        else f"{name} {', '.join(f'{value:g}' for value in values)}"
        for name, values in found["varied"].items()
    ]
    lines = [
        f"# Sweep of {found['method']}: {', '.join(found['varied'])}",
        "",
        f"- **Data, model, request:** {found['dataset']}, {found['model']}, {found['request']}",
        f"- **Varied:** {'; '.join(ranges)} ({found['search']})",
        f"- **Cells finished:** {found['finished']} of {found['cells']}, of which "
        f"{len(found['diverged'])} diverged",
        f"- **On the front:** {len(front)} of {len(rows)} settings",
        f"- **Hypervolume:** {found['hypervolume']:.2f} squared percentage points, measured from a "
        f"forget error of {reference['forget_error']:.2f} (the original model's) and a validation "
        f"accuracy of {reference['validation_accuracy']:.2f} ({_LOSS_ALLOWED:g} below the "
        "original's)",
        "",
        "![Forget error against validation accuracy](front.svg)",
        "",
        "To the right: validation accuracy, higher is better. Upwards: forget error, the distance "
        f"of the forget accuracy to {found['unseen_accuracy']:.2f}%, the accuracy on unseen data; "
        "lower is better. Filled: settings that no other setting beats in both. Hollow: the others."
        f" Shaded: the hypervolume. Cross: the original model. Outside the picture: {outside}."
        + (" Diamond: the retrained model." if found["retrained"] is not None else ""),
        "",
    ]
    if front:
        names = list(found["varied"])
        shown = {key: title for key, title in _SHOWN.items() if key in front[0]}
        titles = [*names, "forget error", *shown.values(), "seeds", "s"]
        rows = []
        for row in front:
            digits = [f"{row['settings'][name]:g}" for name in names]
            digits += [f"{row['forget_error']:.2f}"]
            digits += [f"{row[key]:.{3 if key.startswith('js') else 2}f}" for key in shown]
            rows.append([*digits, str(row["seeds"]), f"{row['seconds']:.2f}"])
        lines += markdown_table(titles, rows, left=0)
        lines += ["", "Means over the seeds; seconds are the time of a group over its runs."]
    if found["diverged"]:
        lines += ["", f"Diverged: {'; '.join(found['diverged'])}."]
    return "\n".join(lines) + "\n"


def cell_label(file: str, settings: Mapping[str, float]) -> str:
    """A cell in words, by its file and its settings."""
    words = ", ".join(f"{name}={value:g}" for name, value in settings.items())
    return f"{Path(file).stem} ({words})"
