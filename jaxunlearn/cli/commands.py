"""All commands by name; their functions are in `run_commands` and `study_commands`."""

from collections.abc import Callable
from typing import Annotated, Literal

import tyro

from jaxunlearn import methods, studies
from jaxunlearn.cli import run_commands, study_commands


def run(words: list[str]) -> None:
    """Runs a command: its name and its arguments, or tyro's options for completion."""
    config = (tyro.conf.CascadeSubcommandArgs,)
    if words[0] not in COMMANDS:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="jaxunlearn", args=words, config=config)
        return
    name, *given = words
    if {"-h", "--help"} & set(given):  # at any place: tyro then explains all arguments
        known = methods.available() if name in ("unlearn", "sweep") else ()
        method = [word for word in given[:2] if word in known][-1:]
        given = [*(["FOLDER"] if method else []), *method, "--help"]
    tyro.cli(COMMANDS[name], prog=f"jaxunlearn {name}", args=given, config=config)


def list_(what: Annotated[str, tyro.conf.Positional] = "methods", /) -> None:
    """List the methods, models or data sets, or the settings of one method.

    Args:
        what: methods, models, data, or the name of a method.
    """
    from jaxunlearn.cli import lists

    print(lists.describe(what))


def schema(kind: Annotated[Literal["study", "search"], tyro.conf.Positional] = "study", /) -> None:
    """Print the JSON schema of the TOML file of a study or a search, for editors.

    Args:
        kind: study (for `jaxunlearn compare`) or search (for `jaxunlearn tune`).
    """
    from jaxunlearn.cli import lists
    from jaxunlearn.studies.search.tuning import Search

    print(lists.schema(studies.Study if kind == "study" else Search))


COMMANDS: dict[str, Callable[..., None]] = {
    **{
        name: getattr(run_commands, name)
        for name in (*("pretrain", "retrain", "select", "unlearn", "evaluate", "sample"),)
    },
    **{
        name: getattr(study_commands, name)
        for name in (*("compare", "report", "evidence", "ulira", "sweep", "tune", "verify"),)
    },
    "list": list_,
    "schema": schema,
}
