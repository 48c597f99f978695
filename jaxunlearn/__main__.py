"""`python -m jaxunlearn`, and the `jaxunlearn` command: the process around the command line."""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

from jaxunlearn.compiled import keep_compiled_programs


def main() -> None:
    """Runs the command line, or says what to install."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    keep_compiled_programs()
    try:
        from jaxunlearn.cli import main as command_line

        command_line()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as in `jaxunlearn list | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(
            f"jaxunlearn: the command line needs the package {error.name}, which is not installed; "
            "install jaxunlearn[pipeline].",
            file=sys.stderr,
        )
        sys.exit(2)


def _stop(number: int, frame: Any) -> NoReturn:
    """Ends the process at once. While it trains, training handles these signals instead.

    Every file survives a kill at any moment, so nothing needs to be unwound; and unwinding the
    import of a compiled module can crash.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
    os.write(2, f"{cursor}jaxunlearn: stopped; the same command continues.\n".encode())
    os._exit(130)


if __name__ == "__main__":
    main()
