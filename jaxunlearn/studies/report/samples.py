"""What the models of a study generate, side by side: the same noise in every column."""

import base64
from html import escape
from pathlib import Path

import numpy as np

from jaxunlearn.files import read_arrays
from jaxunlearn.studies.report.aggregate import Table
from jaxunlearn.studies.report.grids import sample_grid
from jaxunlearn.studies.report.study import Run, Study, read_json
from jaxunlearn.types import InputError

_OF_FORGOTTEN, _MOST_OTHERS = 6, 9  # columns


def samples_file(study: Study, request: str) -> Path:
    """Where the picture of a request lies."""
    return study.folder / f"samples-{request}.png"


def draw_samples(study: Study, table: Table) -> None:
    """Draws what the models of the first seed generate, if they do, into the study's folder.

    Raises:
        InputError: a damaged file.
    """
    seeds = [seed for seed in study.seeds if _runs(study, table, seed)]
    if not seeds:
        return
    rows, columns, forgotten = {}, None, set()
    for run in _runs(study, table, seeds[0]):
        record = read_json(run.folder / "results.json")
        arrays = read_arrays(run.folder / "samples.npz", "image", "label")
        names, gone = record.get("class_names"), record.get("forgotten")
        if not isinstance(names, list) or not isinstance(gone, list):
            raise InputError(
                f"{run.folder / 'results.json'} has no class_names or forgotten; delete it and run "
                "jaxunlearn compare again."
            )
        places, asked = _chosen(arrays["label"], gone)
        rows[run.name] = arrays["image"][places]
        columns = [names[label] for label in asked]
        forgotten = {names[label] for label in gone}
    title = f"{study.dataset}, seed {seeds[0]}: the same noise in each column"
    sample_grid(samples_file(study, table.request), rows, columns or [], title, forgotten)


def samples_section(study: Study, table: Table) -> str:
    """The picture for the page, or "" where there is none."""
    path = samples_file(study, table.request)
    if not path.exists():
        return ""
    text = base64.b64encode(path.read_bytes()).decode()
    label = escape(f"Images that the models generate, for {table.request}")
    return (
        "<h3>Generated images</h3><p>Before, after each method, and retrained without the forget "
        "data. All models begin with the same noise in a column, so what differs between rows is "
        f'what they learned.</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{label}"><img class="samples" alt="{label}" '
        f'src="data:image/png;base64,{text}"></div>'
    )


def _runs(study: Study, table: Table, seed: int) -> list[Run]:
    """The runs of a seed that kept generated images, in the order of the table."""
    return [
        run
        for row in table.rows
        for run in study.select(table.request, row.name)
        if run.seed == seed and (run.folder / "samples.npz").exists()
    ]


def _chosen(labels: np.ndarray, forgotten: list[int]) -> tuple[np.ndarray, list[int]]:
    """Some images of the forgotten classes, and one each of others, spread over all of them."""
    share = max(_OF_FORGOTTEN // max(len(forgotten), 1), 1)
    others = np.setdiff1d(labels, forgotten)
    spread = np.linspace(0, len(others) - 1, min(len(others), _MOST_OTHERS)).round().astype(int)
    others = others[spread]
    places = [np.flatnonzero(labels == label)[:share] for label in forgotten]
    places += [np.flatnonzero(labels == label)[:1] for label in others]
    chosen = np.concatenate(places)
    return chosen, [int(label) for label in labels[chosen]]
