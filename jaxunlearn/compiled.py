"""Compiled programs: where the commands keep them, how many were read, how long the others took.

The cache is JAX's own. A folder that cannot be read or written costs a warning and time, never a
run. Importing the library changes nothing: only the command does.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HIT = "/jax/compilation_cache/cache_hits"
_COMPILING = "/jax/core/compile/"  # tracing, lowering, and XLA's compiling or reading


def keep_compiled_programs() -> None:
    """Makes the second start of a command fast; JAX reads this when it is imported.

    The folder is `jaxunlearn/xla` in the user's cache, unless JAX_COMPILATION_CACHE_DIR names
    another one. JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jaxunlearn" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@contextmanager
def programs_read() -> Iterator[list[str]]:
    """Notes which compiled programs are read from the cache meanwhile: one entry for each.

    Yields:
        A list that grows.
    """
    import jax

    hits: list[str] = []

    def listen(event: str, **details: Any) -> None:
        if event == _HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


@contextmanager
def compilation_seconds() -> Iterator[list[float]]:
    """Notes how long compiling takes meanwhile: one entry for each of its stages.

    For times that are told without compilation where `training.executable_for` is out of reach.

    Yields:
        A list that grows.
    """
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if event.startswith(_COMPILING):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
