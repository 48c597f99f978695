"""Compiled programs: their cache on disk, their number in a process, and their compilation times.

The cache is JAX's own. A folder that cannot be read or written costs a warning and time, but never
a run. Only the command line enables the cache; importing the library changes nothing.
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
    """Makes the second start of a command fast; call it before JAX is imported.

    The folder is `jaxunlearn/xla` in the user's cache folder, if there is one, unless
    JAX_COMPILATION_CACHE_DIR names another. JAX_ENABLE_COMPILATION_CACHE=false disables the cache.
    """
    cache = user_cache()
    if cache is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jaxunlearn" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    own_process()


_own_process = False


def own_process() -> None:
    """Declares that all programs of this process belong to the library, which may drop them."""
    global _own_process
    _own_process = True


def make_room() -> bool:
    """Drops all compiled programs, including JAX's, if the process has too many of them.

    Nothing happens unless `own_process` was called, since the process may have other programs.
    Returns whether they were dropped; a dropped program is compiled again when it is needed.
    """
    if not (_own_process and too_many()):
        return False
    import jax

    jax.clear_caches()
    return True


_MOST_EXECUTABLES = 64
_executables: dict[Any, Any] = {}  # in the order of their last use


def executable_for(function: Any, *args: Any) -> tuple[Any, float]:
    """The executable of a jitted function for arguments like these, and its seconds of compilation.

    The 64 most recently used executables are kept, and take 0 seconds; `make_room` may drop all of
    them before a compilation.
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
    """Whether an error is XLA's report that a device is out of memory."""
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def too_many() -> bool:
    """Whether the programs of this process use half of the memory maps that Linux allows.

    On CPUs a program takes about two hundred of them, and one map too many ends the process. False
    if the limit cannot be read.
    """
    try:
        limit = int(_MOST_MAPS.read_text())
        with _MAPS.open("rb") as maps:
            return 2 * sum(1 for _ in maps) > limit
    except (OSError, ValueError):
        return False


def programs_read() -> AbstractContextManager[list[float]]:
    """Records the seconds of each compiled program that is read from the cache in the block."""
    return _durations(_READING)


def compilation_seconds() -> AbstractContextManager[list[float]]:
    """Records the seconds of each stage of compilation in the block."""
    return _durations(_COMPILING)


@contextmanager
def _durations(prefix: str) -> Iterator[list[float]]:
    """A list that collects the seconds of each JAX event whose name begins with a prefix."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if event.startswith(prefix):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
