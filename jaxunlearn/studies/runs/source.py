"""Small files of an adopted model: configurations, scheduler and tokenizer, as they came.

They are copied to the folder `source` of its run and of every run that starts from it. So the
tokenizer is at hand when the checkpoint has gone, and an export has the same files again.
"""

import shutil
from pathlib import Path
from typing import Any

from jaxunlearn.files import file_digest, write_json
from jaxunlearn.models.checkpoints import SMALL
from jaxunlearn.models.published import is_pipeline, read_json
from jaxunlearn.studies.config import Problem

FOLDER = "source"
TOKENIZER = f"{FOLDER}/tokenizer"
_INDEX = "model_index.json"
_PLAIN = ("tokenizer", "feature_extractor")  # parts without weights


def copy(run: Path, problem: Problem) -> dict[str, str]:
    """Copies the small files of a checkpoint to the folder of its run; returns their digests."""
    assert problem.checkpoint is not None
    place, here = Path(problem.checkpoint).expanduser(), run / FOLDER
    found = {}
    if is_pipeline(place):
        files = [*place.glob("*"), *place.glob("*/*")]
        found = {file.relative_to(place): file for file in files if _is_small(file)}
    if problem.tokenizer is not None:
        files = list(Path(problem.tokenizer).expanduser().glob("*"))
        found |= {Path("tokenizer", file.name): file for file in files if _is_small(file)}
    for name, file in found.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, here / name)
    return {f"{FOLDER}/{name.as_posix()}": file_digest(here / name) for name in sorted(found)}


def inherit(pretrained: Path, run: Path) -> None:
    """Copies these files to a run that starts from another one."""
    if (pretrained / FOLDER).is_dir():
        shutil.copytree(pretrained / FOLDER, run / FOLDER, dirs_exist_ok=True)


def restore(run: Path, dest: Path) -> None:
    """Puts the small files into an exported pipeline.

    A configuration that has changed since, such as its type of weights, stays as it is. Parts
    without weights here, such as a safety checker, are left out of the index.
    """
    here = run / FOLDER
    if not (here / _INDEX).is_file() and not (here / "text_encoder").is_dir():
        return
    if (here / "tokenizer").is_dir():
        shutil.rmtree(dest / "tokenizer", ignore_errors=True)
    for file in sorted(here.glob("*/*")):
        there, part = dest / file.relative_to(here), file.parent.name
        if there.exists() and read_json(there) != read_json(file):
            continue
        if part in _PLAIN or (dest / part).is_dir():
            there.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, there)
    if (here / _INDEX).is_file():
        _write_index(here / _INDEX, dest)


def _write_index(source: Path, dest: Path) -> None:
    """Writes the index as it came, but for parts that are not there."""
    index: dict[str, Any] = read_json(source)
    absent = {
        name: [None, None]
        for name, entry in index.items()
        if isinstance(entry, list) and entry != [None, None] and not (dest / name).is_dir()
    }
    if not absent:
        shutil.copyfile(source, dest / _INDEX)
        return
    if "safety_checker" in absent:
        index["requires_safety_checker"] = False
    write_json(dest / _INDEX, index | absent)


def _is_small(file: Path) -> bool:
    return file.suffix in SMALL and not file.name.endswith(".index.json")
