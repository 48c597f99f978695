"""`python -m jaxunlearn`, and the `jaxunlearn` command: the process around the command line."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Runs the command line, or says what to install."""
    _prepare_environment()
    try:
        from jaxunlearn.cli import main as command_line

        command_line()
    except ModuleNotFoundError as error:
        print(
            f"jaxunlearn: the command line needs the package {error.name}, which is not installed; "
            "install jaxunlearn[pipeline].",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("jaxunlearn: stopped; the same command continues.", file=sys.stderr)
        sys.exit(130)


def _prepare_environment() -> None:
    """SIGTERM stops like Ctrl-C, and a cache of compiled programs makes the second start fast.

    The cache is chosen by environment variables, which JAX reads if and when it is imported.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jaxunlearn" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


if __name__ == "__main__":
    main()
