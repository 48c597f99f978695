"""How a run is laid out on the machine. It is no part of a run's configuration."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """What a run may use. The numbers it computes are the same, but for rounding.

    Attributes:
        devices: how many devices share each batch.
        parameters: replicated, all of the model and its optimizer's state on each device, or
            sharded, a share of them on each.
        distributed: this process is one of several, one on each host, whose devices count together;
            docs/scaling.md has the commands.
        micro_batch: compute larger batches in shares of this many examples, one after the other, to
            save memory; 0 computes whole batches.
        parallel: how devices share a batch: jit, where XLA splits the program, or pmap, where each
            runs all of it on its share.
        chunk_steps: the most steps between two looks at the run: progress, Ctrl-C, metrics.
        checkpoint_every: the least steps between two checkpoints, which come at the end of chunks.
    """

    devices: int = 1
    parameters: Literal["replicated", "sharded"] = "replicated"
    distributed: bool = False
    micro_batch: int = 0
    parallel: Literal["jit", "pmap"] = "jit"
    chunk_steps: int = 100
    checkpoint_every: int = 1000
