"""All commands by name; their functions are in `run_commands` and `study_commands`."""

from collections.abc import Callable
from json import dumps
from typing import Annotated, Literal

import tyro

from jaxunlearn import methods, studies
from jaxunlearn.cli import flags
from jaxunlearn.cli import run_commands as runs
from jaxunlearn.cli import study_commands as of_studies
from jaxunlearn.cli.parsing import CONFIG, parsed


def run(words: list[str]) -> None:
    """Runs a command: its name and its arguments, or tyro's options for completion."""
    if words[0] not in COMMANDS:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="jaxunlearn", args=words, config=CONFIG)
        return
    name, *given = words
    if {"-h", "--help"} & set(given):  # at any place: tyro then explains all arguments
        known = methods.choices() if name in ("unlearn", "sweep") else ()
        method = [word for word in given[:2] if word in known][-1:]
        given = [*(["FOLDER"] if method else []), *method, "--help"]
    parsed(name, COMMANDS[name], given)()


def list_(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LIST")] = "methods",
    /,
    json: flags.Switch = False,
) -> None:
    """List the methods, recipes, models, data sets or metrics, or the settings of one method.

    Args:
        what: methods, recipes, models, data, metrics, or the name of a method or recipe.
        json: whether names, meanings, numbers and defaults are printed as JSON.
    """
    from jaxunlearn.cli import lists

    print(dumps(lists.entries(what), indent=1) if json else lists.describe(what))


def schema(kind: Annotated[Literal["study", "search"], tyro.conf.Positional] = "study", /) -> None:
    """Print the JSON schema of the TOML file of a study or a search, for editors.

    Args:
        kind: study (for `jaxunlearn compare`) or search (for `jaxunlearn tune`).
    """
    from jaxunlearn.cli import lists
    from jaxunlearn.studies.search.tuning import Search

    print(lists.schema(studies.Study if kind == "study" else Search))


COMMANDS: dict[str, Callable[..., None]] = {
    function.__name__.strip("_"): function
    for function in (
        *(runs.pretrain, runs.adopt, runs.retrain, runs.select, runs.unlearn, runs.evaluate),
        *(runs.sample, runs.export),
        *(of_studies.compare, of_studies.report, of_studies.evidence, of_studies.revive),
        *(of_studies.ulira, of_studies.sweep, of_studies.tune),
        *(of_studies.verify, of_studies.status, list_, schema),
    )
}
