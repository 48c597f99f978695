"""Compiled programs: where they are kept, how many were read, how long others took, how many fit.

The cache is JAX's own. A folder that cannot be read or written costs a warning and time, never a
run. Importing the library changes nothing: only the command does.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from jaxunlearn.home import user_cache

_READING = "/jax/compilation_cache/cache_retrieval_time_sec"
_COMPILING = "/jax/core/compile/"  # tracing, lowering, and XLA's compiling or reading
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|[Oo]ut of memory")  # in XLA's errors, by device
_MAPS, _MOST_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def keep_compiled_programs() -> None:
    """Makes the second start of a command fast; JAX reads this when it is imported.

    The folder is `jaxunlearn/xla` in the user's cache, if that is known, unless
    JAX_COMPILATION_CACHE_DIR names another one. JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    cache = user_cache()
    if cache is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jaxunlearn" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    own_process()


_own_process = False


def own_process() -> None:
    """Says that nobody else's programs are in this process, so that all may be let go."""
    global _own_process
    _own_process = True


def make_room() -> bool:
    """Lets all compiled programs go, JAX's too, where they come to be too many for the process.

    In a process that is not a command's nothing happens: programs there belong to others.

    Returns:
        Whether they were let go; who needs one again compiles it again.
    """
    if not (_own_process and too_many()):
        return False
    import jax

    jax.clear_caches()
    return True


_MOST_EXECUTABLES = 64
_executables: dict[Any, Any] = {}  # the one that was used last stands last


def executable_for(function: Any, *args: Any) -> tuple[Any, float]:
    """The executable of a jitted function for arguments like these, compiled once.

    The 64 that were used last are kept. In the process of a command, programs that come to be too
    many for it are all let go first (`make_room`).

    Args:
        function: from `jax.jit`.
        *args: its arguments; what counts is their shapes, types and devices.

    Returns:
        The executable, and the seconds it took to compile: 0 if it was at hand.
    """
    import jax

    leaves, structure = jax.tree.flatten(args)
    signature = (function, structure, *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves))
    if signature in _executables:
        _executables[signature] = _executables.pop(signature)
        return _executables[signature], 0.0
    if make_room():
        _executables.clear()
    while len(_executables) >= _MOST_EXECUTABLES:
        del _executables[next(iter(_executables))]
    clock = time.perf_counter()
    _executables[signature] = function.lower(*args).compile()
    return _executables[signature], time.perf_counter() - clock


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no memory left, as XLA says it.

    Example:
        >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."))
        True
    """
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def too_many() -> bool:
    """Whether the programs of this process come near the limit that Linux sets to memory maps.

    On CPUs a program takes some two hundred of them, and one map too many ends the process. Here it
    is half of the limit; where there is none that can be read, programs are never too many.
    """
    try:
        limit = int(_MOST_MAPS.read_text())
        with _MAPS.open("rb") as maps:
            return 2 * sum(1 for _ in maps) > limit
    except (OSError, ValueError):
        return False


def programs_read() -> AbstractContextManager[list[float]]:
    """Notes which compiled programs are read from the cache meanwhile: the seconds of each."""
    return _durations(_READING)


def compilation_seconds() -> AbstractContextManager[list[float]]:
    """Notes how long compiling takes meanwhile: one entry for each of its stages.

    For times that are told without compilation where `training.executable_for` is out of reach.
    """
    return _durations(_COMPILING)


@contextmanager
def _durations(of_events: str) -> Iterator[list[float]]:
    """A list that grows by the seconds of each of JAX's events whose name begins so."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if event.startswith(of_events):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
