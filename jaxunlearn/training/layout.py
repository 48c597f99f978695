"""The layout of a run on the machine, and its logs: no part of its configuration."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Devices, memory and logs of a run. Results do not depend on them, up to rounding.

    Attributes:
        devices: number of devices that share each batch.
        parameters: replicated (all of the model and optimizer state on each device) or sharded (a
            part on each device).
        distributed: whether this process is one of several, one per host, that pool their devices;
            docs/scaling.md has the commands.
        micro_batch: number of examples computed at once, to save memory; 0 computes whole batches.
        parallel: how devices share a batch: jit (XLA splits the program) or pmap (each device runs
            the whole program on its part of the batch).
        chunk_steps: largest number of steps between two updates of progress and metrics, and
            between two checks for Ctrl-C.
        checkpoint_every: smallest number of steps between two checkpoints, which are saved at the
            end of chunks.
        log: loggers of all metrics besides the JSON lines, in logs/ in the folder of the run: csv,
            tensorboard, wandb.
        validate_every: number of steps between two measurements on validation data, which are
            logged; 0 measures nothing.
        stream: whether training examples are read from the disk when they are visited, for data
            larger than memory; the forget data of a request are kept in memory.
    """

    devices: int = 1
    parameters: Literal["replicated", "sharded"] = "replicated"
    distributed: bool = False
    micro_batch: int = 0
    parallel: Literal["jit", "pmap"] = "jit"
    chunk_steps: int = 100
    checkpoint_every: int = 1000
    log: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ()
    validate_every: int = 0
    stream: bool = False
