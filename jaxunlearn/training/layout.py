"""The layout of a run on the machine, which is no part of its configuration."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Devices and memory of a run. Results do not depend on them, up to rounding.

    Attributes:
        devices: number of devices that share each batch.
        parameters: replicated, the whole model and optimizer state on each device, or sharded, a
            share of them on each.
        distributed: whether this process is one of several, one on each host, whose devices count
            together; docs/scaling.md has the commands.
        micro_batch: number of examples computed at once, to save memory; 0 computes whole batches.
        parallel: how devices share a batch: jit, where XLA splits the program, or pmap, where each
            device runs all of it on its share.
        chunk_steps: largest number of steps between two looks at the run: progress, Ctrl-C,
            metrics.
        checkpoint_every: least number of steps between two checkpoints, which come at the end of
            chunks.
    """

    devices: int = 1
    parameters: Literal["replicated", "sharded"] = "replicated"
    distributed: bool = False
    micro_batch: int = 0
    parallel: Literal["jit", "pmap"] = "jit"
    chunk_steps: int = 100
    checkpoint_every: int = 1000
