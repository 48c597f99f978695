"""The words of a command as a call of its function, by tyro; each error of tyro as a sentence."""

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import Any

import tyro

from jaxunlearn import methods
from jaxunlearn.cli import flags
from jaxunlearn.names import closest
from jaxunlearn.studies.console import Output, shown
from jaxunlearn.types import InputError

CONFIG = (tyro.conf.CascadeSubcommandArgs,)
_CHANGED = {"--file": "--indices"}  # flags of earlier versions, and the flags of today
_TYPES = {"int()": "a whole number", "to float": "a number"}  # in the errors of Python


def parsed(name: str, command: Callable[..., None], given: list[str]) -> Callable[[], None]:
    """The call of a command's function that its words stand for.

    Raises:
        InputError: a flag is unknown, missing or given twice, or a value is not allowed.
    """
    bound = _bound(command)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            return tyro.cli(bound, prog=f"jaxunlearn {name}", args=given, config=CONFIG)
        except SystemExit as end:
            if not end.code:  # the help
                raise
    raise _sentence(name, given, errors.getvalue(), bound)


def _bound(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function with the flags of a command, and those of the output, that returns the call."""
    signature, hints = inspect.signature(command), dict(command.__annotations__)
    if not {"json", "kind"} & hints.keys():  # `list` and `schema` print nothing else
        last = inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, annotation=flags.Shown)
        signature = signature.replace(parameters=[*signature.parameters.values(), last])
        hints["output"] = flags.Shown

    @functools.wraps(command)
    def bound(*args: Any, output: Output = Output(), **named: Any) -> Callable[[], None]:
        shown.set(output)
        return functools.partial(command, *args, **named)

    del bound.__wrapped__  # tyro would look at it
    bound.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(command) or "")  # no breaks in entries
    bound.__signature__, bound.__annotations__ = signature, hints  # type: ignore[attr-defined]
    return bound


def _sentence(name: str, given: Sequence[str], box: str, bound: Callable[..., Any]) -> InputError:
    """The sentence for a box in which tyro explains an error."""
    lines = (line.strip("│| ") for line in box.splitlines()[1:])  # without the title
    rows = list(dropwhile(_is_rule, lines))
    end = next((i for i, row in enumerate(rows) if _is_rule(row)), len(rows))
    text, more = " ".join(rows[:end]), f"; see jaxunlearn {name} --help."
    for old, new in _CHANGED.items():
        if old in {word.split("=")[0] for word in given}:
            return InputError(f"{old} is now {new}{more}")
    if found := re.match(r"Unrecognized (?:or misplaced )?options: (.*)", text):
        tokens = re.split(r", | \(applied to .*?\) ?", found[1])  # a flag of another method
        return InputError(_unknown(name, given, tokens, bound) + more)
    if text.startswith("Missing from"):
        missing = [row for row in rows[1:end] if re.fullmatch(r"(--\S+ )?[A-Z{][^a-z ].*", row)]
        names = " and ".join(row.split()[0] for row in missing)
        return InputError(f"{names} {'are' if len(missing) > 1 else 'is'} not given{more}")
    if text.startswith("Missing required argument group"):
        group = text.partition("•")[2].strip()
        return InputError(f"no forget request is given; give one of {group}.")
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        return InputError(f"{found[1]} has no value, but needs one{more}")
    if found := re.match(
        r"invalid choice '(.*)' for argument '(.*?)'\. Expected one of (.*)", text
    ):
        value, flag, choices = found[1], found[2], re.findall(r"'(.*?)'", found[3])
        return InputError(
            f"{flag} is {value!r}{closest(value, choices)}, but must be one of "
            f"{', '.join(choices)}."
        )
    if found := re.match(r"Arguments (\S+) and (\S+) are not allowed together", text):
        return InputError(f"{found[1]} and {found[2]} are given, but only one may be; drop one.")
    if found := re.match(r"Error parsing (\S+): (.*)", text):
        kind = next((words for part, words in _TYPES.items() if part in found[2]), None)
        value = re.search(r"'.*'", found[2])
        if kind and value:
            return InputError(f"{found[1]} is {value[0]}, but must be {kind}.")
        if value and "Could not find valid parse" in found[2]:
            return InputError(f"{found[1]} is {value[0]}, which does not fit it{more}")
        return InputError(f"{found[1]} is not valid ({found[2].rstrip('.')}){more}")
    if text.startswith("Expected one of {"):
        return InputError("no method is given; see jaxunlearn list.")
    return InputError(f"{text.rstrip('.!')}{more}")


def _is_rule(row: str) -> bool:
    return set(row) <= {"─", "-"}


def _unknown(
    name: str, given: Sequence[str], tokens: Sequence[str], bound: Callable[..., Any]
) -> str:
    """The beginning of a sentence on unknown words."""
    flag = next((token.split("=")[0] for token in tokens if token.startswith("-")), None)
    known = methods.choices()
    method = [word for word in given if word in known][:1]
    if flag is not None:
        near = closest(flag, _flags(bound, method))
        return f"{flag} is no flag of {' '.join(['jaxunlearn', name, *method])}{near}"
    if name in ("unlearn", "sweep") and not method:
        return f"the method is {tokens[0]!r}{closest(tokens[0], known)}, which does not exist"
    return f"{tokens[0]!r} is one word too many"


def _flags(bound: Callable[..., Any], method: Sequence[str]) -> list[str]:
    """All flags of a command, and of a method among its words, from the help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        folder = ["FOLDER"] if method else []
        tyro.cli(bound, args=[*folder, *method, "--help"], config=CONFIG)
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", text.getvalue())))
