"""Several hosts, by `jax.distributed`: one process on each, all running the same command.

Every process reads the same folder, makes the same decisions and computes its share of each batch.
Only the first one prints and writes files; orbax writes checkpoints from all of them. A process
that ends with an error ends all others.
"""

import os
import platform
import sys
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxunlearn.files import is_first
from jaxunlearn.types import InputError

_SECONDS_TO_NOTICE = 30  # that a host is gone
# JAX options that can stop compiled programs, and their allowed values; the default comes last.
_GUARDS = dict.fromkeys(
    ("", "_host_to_device", "_device_to_device", "_device_to_host"), ("log", None, "allow")
)
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "jax_disable_jit": (False,),
    "jax_numpy_dtype_promotion": ("standard",),
    **{f"jax_transfer_guard{part}": allowed for part, allowed in _GUARDS.items()},
}


def join() -> None:
    """Joins the processes of the other hosts; call it before anything else asks for devices.

    On TPU pods, under SLURM and under Kubernetes, JAX finds the others by itself. Elsewhere it
    needs `JAX_COORDINATOR_ADDRESS` (host:port of the first process), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`.
    """
    jax.config.update("jax_enable_preemption_service", False)  # the training loop handles SIGTERM
    try:
        jax.distributed.initialize(
            num_processes=_number("JAX_NUM_PROCESSES"),
            process_id=_number("JAX_PROCESS_ID"),
            heartbeat_timeout_seconds=_SECONDS_TO_NOTICE,
            shutdown_timeout_seconds=_SECONDS_TO_NOTICE,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the other hosts cannot be found ({str(error).splitlines()[0]}); start one process on "
            "each host with SLURM, Kubernetes or a TPU pod, or set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    return None if value is None else int(value)


def check_devices() -> None:
    """Raises an InputError if JAX finds no device or has an option that stops compiled programs."""
    for name, allowed in _ALLOWED.items():
        value = getattr(jax.config, name)
        if value not in allowed:
            raise InputError(
                f"{name.upper()} is {value}, but must be {allowed[-1]} for the commands; unset it."
            )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a missing plugin
        raise InputError(
            f"JAX finds no device for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} "
            f"({str(error).partition('. ')[0] or 'no such plugin'}); name a platform that this "
            "machine has, such as cpu, or unset it."
        ) from error


def barrier(name: str) -> None:
    """Waits for all processes, and so for files that the first one writes; all give one name."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in one of the processes; all must call this."""
    if not jax.distributed.is_initialized():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def leave(status: int) -> NoReturn:
    """Ends this process; immediately if there are others, so that they notice."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def machine() -> dict[str, Any]:
    """Facts about the machine, for records."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": len(jax.devices()),
        "hosts": jax.process_count(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
