"""The metrics file: one line a step, dropped and refused as the checkpoints need it."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.training.metrics_file import MetricsFile
from jaxunlearn.types import InputError


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"loss": np.array([3.0, 2.0, np.nan, 7.0])}, first_step=4, count=3)
    return file


def lines(metrics: MetricsFile) -> list[dict[str, object]]:
    assert metrics.path is not None
    return [json.loads(line) for line in metrics.path.read_text().splitlines()]


def test_each_step_has_a_line(metrics: MetricsFile) -> None:
    """JSON knows no NaN; it is written as a word. What was not computed is left out."""
    assert lines(metrics) == [
        {"step": 5, "loss": 3.0},
        {"step": 6, "loss": 2.0},
        {"step": 7, "loss": "nan"},
    ]


def test_lines_after_a_checkpoint_are_dropped(metrics: MetricsFile) -> None:
    metrics.truncate(2)
    assert [line["step"] for line in lines(metrics)] == [5, 6]


def test_a_checkpoint_knows_its_lines(metrics: MetricsFile) -> None:
    """Lines that came later do not count; one that was altered, or is gone, does."""
    metrics.truncate(2)
    record = metrics.record(2, seconds=1.5)
    assert (record["step"], record["seconds"]) == (2, 1.5)
    metrics.append({"loss": np.array([1.0])}, first_step=6, count=1)
    assert metrics.complaint(record) is None
    assert metrics.path is not None
    metrics.path.write_text(metrics.path.read_text().replace("2.0", "2.5"))
    assert "altered" in (metrics.complaint(record) or "")
    metrics.path.unlink()
    assert "cut short" in (metrics.complaint(record) or "")


def test_without_a_file_nothing_is_kept() -> None:
    nothing = MetricsFile(None)
    nothing.append({"loss": np.array([1.0])}, first_step=0, count=1)
    nothing.truncate(0)
    assert nothing.record(1, 0.5) == {"step": 1, "seconds": 0.5}
    assert nothing.complaint({"step": 1, "seconds": 0.5, "metrics": "of another run"}) is None


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone"):
        MetricsFile(tmp_path / "gone" / "metrics.jsonl").append({}, first_step=0, count=1)
