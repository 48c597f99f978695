"""`python -m jaxunlearn` and the `jaxunlearn` command: the process around the command line."""

import codecs
import contextlib
import io
import os
import signal
import sys
from typing import Any, NoReturn

from jaxunlearn import EXTRAS
from jaxunlearn.training.compilation import keep_compiled_programs

# Plain characters for an output whose encoding lacks these; all others become "?".
_PLAIN = str.maketrans(
    {"…": "...", "•": "*", "±": "+-", "×": "x", "→": "->", "↑": "^", "↓": "v", "≤": "<=", "≥": ">="}
    | dict.fromkeys("‐‑–—−─━", "-")
    | dict.fromkeys("│┃", "|")
    | dict.fromkeys("╭╮╰╯├┤┬┴┼┏┓┗┛", "+")
)


def main() -> None:
    """Runs the command line, or names the missing package."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, whatever the user has set
    if any(word.startswith("--shard") for word in sys.argv):  # others may share the GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        keep_compiled_programs()
        try:
            from jaxunlearn.cli.main import main as command_line

            command_line()
        finally:
            sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        _say(
            f"the command needs the package {error.name}, which is not installed; install "
            f"jaxunlearn[{EXTRAS.get(package, 'pipeline')}]."
        )
        sys.exit(2)
    except OSError as error:
        if not _is_stdout_broken():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has exited, as in `... list | head`
            sys.exit(128 + signal.SIGPIPE)
        _say(f"the output cannot be written ({error.strerror}); the same command continues.")
        sys.exit(2)


def _open_streams() -> None:
    """Makes standard output and standard error accept any text.

    A closed stream is redirected to nothing; otherwise the next file would get its number, and with
    it the output of libraries. Characters that a stream cannot encode become plain ones.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free number: this one
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: plain characters replace the ones that cannot be encoded."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in text), error.end


def _is_stdout_broken() -> bool:
    """Whether standard output accepts nothing any more, not even a newline."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"jaxunlearn: {sentence}", file=sys.stderr)


def _stop(number: int, frame: Any) -> NoReturn:
    """Ends the process at once. While it trains, training handles these signals instead.

    Every file survives a kill at any moment, so nothing needs cleaning up, and unwinding the import
    of a compiled module can crash.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        os.write(2, f"{cursor}jaxunlearn: stopped; the same command continues.\n".encode())
    os._exit(130)


if __name__ == "__main__":
    main()
