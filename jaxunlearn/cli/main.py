"""The command line: runs a command, and ends every failure with one sentence and a status.

JAX takes a second to import: only commands import it, not the help below.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import NoReturn

from jaxunlearn.cli.plugins import load_plugins, without_plugins
from jaxunlearn.names import closest
from jaxunlearn.version import __version__

HELP = """\
Make a trained model forget, and measure how well it did.

  jaxunlearn pretrain RUN --data digits --model mlp                 the original model
  jaxunlearn adopt RUN --checkpoint PATH --model mlp                the same, of given weights
  jaxunlearn retrain RUN --pretrained RUN --fraction 0.1            the oracle
  jaxunlearn select FILE --pretrained RUN --by influence            a worst-case request
  jaxunlearn unlearn RUN METHOD --pretrained RUN --fraction 0.1     a model that forgets
  jaxunlearn evaluate RUN --retrained RUN                           accuracies, attacks, gaps
  jaxunlearn sample FILE --run RUN                                  images of a generative model
  jaxunlearn export RUN DEST                                        weights for other programs
  jaxunlearn compare STUDY --config FILE                            all of this, and a report
  jaxunlearn report STUDY                                           the report again
  jaxunlearn evidence STUDY                                         relearning, probes, damage
  jaxunlearn revive FOLDER                                          attacks on forgotten images
  jaxunlearn ulira SHADOWS --config FILE                            an attack with shadow models
  jaxunlearn sweep SWEEP METHOD --pretrained RUN --fraction 0.1 --vary tolerance=0.01,0.1
  jaxunlearn tune SEARCH --config FILE                              settings from a blind search
  jaxunlearn verify FOLDER                                          a check of all fingerprints
  jaxunlearn status FOLDER                                          done, running, failed and why
  jaxunlearn list [methods|recipes|models|data|metrics|METHOD]      names and settings
  jaxunlearn schema [study|search]                                  the fields of TOML files

  jaxunlearn COMMAND --help, jaxunlearn unlearn METHOD --help       all flags
  jaxunlearn --plugin FILE_OR_MODULE COMMAND ...                    with methods of your own
  jaxunlearn --version                                              the version
  jaxunlearn --tyro-print-completion bash                           completion; also zsh, tcsh

Every command can be stopped and run again: it continues where it stopped and repeats nothing.
Exit status: 0 done, 1 an unexpected error, 2 bad input, 3 a loss diverged, 4 out of memory, 130
stopped by Ctrl-C or SIGTERM."""
COMMANDS = tuple(re.findall(r"^  jaxunlearn ([a-z]+) ", HELP, re.MULTILINE))


def main(arguments: list[str] | None = None) -> None:
    """Runs a command (default: `sys.argv`); the help documents the exit status."""
    words, plugins = without_plugins(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(HELP)
    elif first == "--version":
        print(f"jaxunlearn {__version__}")
    elif first not in COMMANDS and not first.startswith("--tyro-"):
        _fail(
            f"the command is {first!r}{closest(first, COMMANDS)}, but must be one of "
            f"{', '.join(COMMANDS)}.",
            2,
        )
    else:
        with one_sentence():
            from jaxunlearn.cli import commands

            load_plugins(plugins)
            copy_context().run(commands.run, words)  # the folder of the data is a context variable


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the process with a sentence and a status if it fails in a foreseen way."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("stopped; the same command continues.", 130)
    except Exception as error:
        foreseen = _foreseen(error)
        if foreseen is None:
            raise
        _fail(*foreseen)


def _foreseen(error: Exception) -> tuple[str, int] | None:
    """The sentence and the status of a failure that is not a bug; None for a bug."""
    if "jax" not in sys.modules:  # it could not be imported
        sentence = f"JAX cannot start ({error}); correct the environment variable that it names."
        return (sentence, 2) if isinstance(error, ValueError) else None
    from jaxunlearn.training import Diverged, Interrupted
    from jaxunlearn.training.compilation import is_out_of_memory
    from jaxunlearn.types import InputError

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, Diverged):
        return str(error), 3
    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written ({error.strerror}).", 2
    if isinstance(error, FileNotFoundError):  # without a name, it is the working folder
        return "the working folder no longer exists; change to one that does.", 2
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; write it with fewer brackets.", 2
    if is_out_of_memory(error):
        return (
            "the device is out of memory; compute batches in parts (--micro-batch 16), or choose "
            "smaller batches, a smaller model or more devices.",
            4,
        )
    if isinstance(error, MemoryError):
        return "this machine is out of memory; use a smaller model or less data.", 4
    return None


def _fail(sentence: str, status: int) -> NoReturn:
    with suppress(OSError):
        print(f"jaxunlearn: {sentence}", file=sys.stderr)
    if "jax" not in sys.modules:
        sys.exit(status)
    from jaxunlearn.training import hosts

    hosts.leave(status)
