"""Reports of a study folder: Markdown, one HTML page, JSON, a table for the terminal.

They are made from the files that the commands wrote, without running a model.
"""

import json
import os
from pathlib import Path

from jaxunlearn.files import sealed, write_text
from jaxunlearn.studies.report.aggregate import make_table, to_json
from jaxunlearn.studies.report.extras import read_extras
from jaxunlearn.studies.report.grids import sample_grid
from jaxunlearn.studies.report.markdown import render_markdown
from jaxunlearn.studies.report.page import render_page
from jaxunlearn.studies.report.samples import read_samples, samples_file
from jaxunlearn.studies.report.study import Study, check_study_folder, read_study
from jaxunlearn.studies.report.terminal import render_table
from jaxunlearn.studies.report.verdict import headline
from jaxunlearn.studies.workspace import Workspace

__all__ = ["Study", "read_study", "render_table", "write_report"]


def write_report(
    study_folder: str | os.PathLike[str], rank_by: str | None = None
) -> dict[str, Path]:
    """Writes `report.md`, `report.html` and `results.json` into a study folder.

    Unfinished and diverged runs are listed. The files depend on the records of the runs alone, and
    are replaced only when all of them could be made.

    Args:
        study_folder: the folder with `study.json` and the runs.
        rank_by: the metric that ranks the methods; by default the five-part gap, if there are
            enough seeds.

    Returns:
        The written paths, by "markdown", "html" and "json".

    Raises:
        InputError: the folder holds no study, a file is malformed (it is named), runs or the
            shadow models of U-LiRA come from different protocols, or the methods cannot be ranked
            by this metric.
    """
    folder = Path(study_folder)
    check_study_folder(folder)  # a folder of something else gets no lock
    with Workspace(folder, "study", "study.json").in_turn("report"):  # the last writer reads last
        return _write(folder, rank_by)


def _write(folder: Path, rank_by: str | None) -> dict[str, Path]:
    study = read_study(folder)
    tables = [make_table(study, request, rank_by) for request in study.requests]
    samples = {table.request: read_samples(study, table) for table in tables}
    for request, found in samples.items():
        if found is not None:
            file = samples_file(study, request)
            sample_grid(file, found.rows, found.columns, found.title, found.forgotten)
    extras = read_extras(study)
    results = {"headline": headline(study)} | to_json(study, tables)
    texts = {
        "markdown": ("report.md", render_markdown(study, tables, extras)),
        "html": ("report.html", render_page(study, tables, extras, samples)),
        "json": ("results.json", json.dumps(sealed(results), indent=2) + "\n"),
    }
    paths = {kind: study.folder / name for kind, (name, _) in texts.items()}
    for kind, (_, text) in texts.items():
        write_text(paths[kind], text)
    return paths
