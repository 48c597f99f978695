"""Shared by benchmarks that run two programs in turns: the clock, ratios, kinds of devices.

A turn is a whole job of both programs, and ratios are taken turn by turn: of wall time, and of the
processor time of the whole process, which a busy machine disturbs less. Results on CPUs and on GPUs
are in separate files, one for each kind of device.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
TURNS, TOLERANCE = 5, 1e-3  # two programs are compared if their weights agree to the latter


def prepare() -> str:
    """Prepares JAX, and returns its platform: "cpu" or "gpu".

    On CPUs one thread does everything: two that wait for each other measure who else is at work on
    the machine. On GPUs products are of full float32 numbers.
    """
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(every)})  # XLA makes a thread for each core
    kind = jax.default_backend()
    if kind == "gpu":
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                os.sched_setaffinity(int(thread.name), every)
        jax.config.update("jax_default_matmul_precision", "highest")
    return kind


def prepare_torch(kind: str) -> dict[str, Any]:
    """Prepares PyTorch likewise, and returns its version, for the record."""
    import torch
    import torch_models

    torch.set_num_threads(1)
    if kind == "gpu":
        torch_models.DEVICE = "cuda"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return {"torch": torch.__version__}


def clock() -> np.ndarray:
    """Wall time, and the processor time of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def quartiles(values: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile."""
    return [round(float(v), 4) for v in statistics.quantiles(values, n=4)]


def spread(values: Sequence[float]) -> str:
    """Quartiles as a table shows them."""
    return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Norm of the difference of two lists of weights, divided by the norm of `theirs`."""
    distance = sum(np.sum((a - b) ** 2) for a, b in zip(ours, theirs, strict=True))
    return float(np.sqrt(distance / sum(np.sum(b**2) for b in theirs)))


def recorded(path: Path) -> dict[str, Any]:
    """The result file, or an empty one."""
    return json.loads(path.read_text()) if path.exists() else {"rows": {}}
