"""The metrics of a run: a JSON-lines file with one line per step, consistent with checkpoints.

A checkpoint records the digest of the lines so far. A run that resumes from it drops the lines of
later steps and writes them again. No run resumes from a checkpoint whose lines were altered.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.files import file_digest, is_first, sync, unwritable, write_text
from jaxunlearn.training.loggers import Write


class MetricsFile(NamedTuple):
    """The file, which only the first host writes; `path` None keeps no metrics.

    Loggers receive each line that is kept or appended, by `log(step, values)`.
    """

    path: Path | None
    log: Write | None = None

    def append(
        self,
        history: dict[str, np.ndarray],
        first_step: int,
        count: int,
        more: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Appends the lines of `count` steps after `first_step`, from metrics `[count or more]`.

        The last line has `more` values.
        """
        if self.path is None or not is_first():
            return
        lines = []
        for i in range(count):
            values = {name: float(values[i]) for name, values in history.items()}
            values |= more if i == count - 1 else {}
            if self.log is not None:
                self.log(first_step + i + 1, values)
            line = {"step": first_step + i + 1} | {
                name: value if np.isfinite(value) else str(value) for name, value in values.items()
            }
            lines.append(json.dumps(line) + "\n")
        try:
            with self.path.open("a") as file:
                file.writelines(lines)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def truncate(self, step: int) -> None:
        """Drops the lines of steps after `step`, which a resumed run writes again."""
        if self.path is not None and self.path.exists():
            kept = b"".join(self._lines()[:step]).decode("utf-8", "replace")
            write_text(self.path, kept)
            if self.log is not None:
                for line in map(json.loads, kept.splitlines()):
                    self.log(line.pop("step"), {name: float(x) for name, x in line.items()})

    def record(self, step: int, seconds: float) -> dict[str, Any]:
        """The record of a checkpoint: the seconds and the digest of the lines so far.

        The lines are on the disk before the checkpoint is written.
        """
        record: dict[str, Any] = {"step": step, "seconds": seconds}
        if self.path is None or not is_first():
            return record
        sync(self.path)
        return record | {"metrics": file_digest(self.path)}

    def complaint(self, record: dict[str, Any]) -> str | None:
        """The fault of the lines up to a checkpoint, given its `record`, or None."""
        if self.path is None or "metrics" not in record:
            return None
        lines = self._lines()[: record["step"]]
        if hashlib.sha256(b"".join(lines)).hexdigest() == record["metrics"]:
            return None
        return f"{self.path} was cut short or altered in the lines up to there"

    def _lines(self) -> list[bytes]:
        """The lines, one per step; a kill may have cut the last one short."""
        assert self.path is not None
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
