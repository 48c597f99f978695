"""The command `jaxunlearn`: pretrain, retrain, unlearn, evaluate, compare, report, list.

A bad input ends with one sentence and status 2, a run whose loss diverged with status 1, and one that
was stopped by Ctrl-C or SIGTERM with status 130: the same command then continues it.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxunlearn.types import InputError

RunFolder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Forget:
    """What to forget: give exactly one.

    Attributes:
        fraction: a random share of the training data, such as 0.1.
        classes: all examples of these classes.
        subclass: all examples of a fine class, in a data set with coarse classes.
        indices: positions in the training split.
        file: a file of positions: a JSON list, or one number a line.
    """

    fraction: float | None = None
    classes: tuple[int, ...] = ()
    subclass: int | None = None
    indices: tuple[int, ...] = ()
    file: str | None = None


ForgetFlags = Annotated[Forget, tyro.conf.arg(name="")]


def pretrain(
    run: RunFolder,
    /,
    data: str = "digits",
    model: str = "mlp",
    data_dir: str | None = None,
    folder: str | None = None,
    validation_fraction: float = 0.1,
    model_settings: tuple[str, ...] = (),
    training: tuple[str, ...] = (),
    seed: int = 0,
    devices: int = 1,
) -> None:
    """Train the original model on all training data.

    Args:
        run: a new folder for this run; the same command continues it.
        data: a data set: see `jaxunlearn list data`, or any image set of tfds.
        model: a model: see `jaxunlearn list models`.
        data_dir: where prepared data lies (default: a cache folder of yours).
        folder: raw files of fashion_mnist or tiny_imagenet.
        validation_fraction: share of the training data held out before anything else.
        model_settings: fields of the model as name=value, such as norm=group.
        training: settings as name=value, such as num_steps=500 learning_rate=0.1.
        seed: decides the held-out data, the initial weights and the order of the data.
        devices: how many devices share each batch.
    """
    from jaxunlearn import stages
    from jaxunlearn.config import Problem

    problem = Problem(
        data,
        data_dir,
        folder,
        validation_fraction,
        model,
        parse_settings(model_settings, "--model-settings"),
        parse_settings(training, "--training"),
    )
    stages.pretrain(run, problem, seed, devices)
    print(f"original model: {run / 'weights'}")


def retrain(
    run: RunFolder, /, pretrained: Path, forget: ForgetFlags = Forget(), devices: int = 1
) -> None:
    """Train the oracle: a new model that never sees the forget data.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of `jaxunlearn pretrain`.
        forget: what to leave out.
        devices: how many devices share each batch.
    """
    from jaxunlearn import stages

    problem, seed = stages.read_pretrained(pretrained)
    stages.retrain(run, problem, seed, _request(forget), devices=devices)
    print(f"retrained model: {run / 'weights'}")


def unlearn(
    run: RunFolder,
    /,
    pretrained: Path,
    method: str,
    forget: ForgetFlags = Forget(),
    settings: tuple[str, ...] = (),
    devices: int = 1,
) -> None:
    """Make the original model forget.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of `jaxunlearn pretrain`.
        method: a method: see `jaxunlearn list methods`.
        forget: what to forget.
        settings: settings of the method as name=value: see `jaxunlearn list METHOD`.
        devices: how many devices share each batch.
    """
    from jaxunlearn import stages

    given = parse_settings(settings, "--settings")
    stages.unlearn(run, pretrained, _request(forget), method, given, devices)
    print(f"unlearned model: {run / 'weights'}")


def evaluate(run: RunFolder, /, retrained: Path | None = None) -> None:
    """Compute accuracies, attacks and the distances to the retrained model.

    Args:
        run: the folder of a finished retrain or unlearn.
        retrained: the folder of the retrained model, itself evaluated before.
    """
    from jaxunlearn import stages

    metrics = stages.evaluate_run(run, retrained)
    for name, value in metrics.items():
        print(f"{name:40s} {value:10.4f}")
    print(f"results: {run / 'results.json'}")


def compare(
    study: RunFolder, /, config: Path, seeds: tuple[int, ...] = (), devices: int = 1
) -> None:
    """Run a whole study, skipping what is done, and write its report.

    Args:
        study: the folder of the study; the same command continues it.
        config: a TOML file: see experiments/configs.
        seeds: other pretraining seeds than the file's.
        devices: how many devices share each batch.
    """
    import dataclasses

    from jaxunlearn.compare import compare as run_study
    from jaxunlearn.config import load_study

    planned = load_study(config)
    if seeds:
        planned = dataclasses.replace(planned, seeds=seeds)
    run_study(study, planned, devices)
    _show(study)


def report(study: RunFolder, /) -> None:
    """Write the Markdown and HTML report of a study anew.

    Args:
        study: the folder of the study.
    """
    from jaxunlearn.report import write_report

    write_report(study)
    _show(study)


def list_(what: Annotated[str, tyro.conf.Positional] = "methods", /) -> None:
    """Show what there is: methods, models, data, or the settings of one method.

    Args:
        what: methods, models, data, or the name of a method.
    """
    from jaxunlearn import data, methods, models

    if what == "models":
        print("\n".join(models.available()))
    elif what == "data":
        print("\n".join((*data.available(), "(and the image-classification sets of tfds by name)")))
    elif what == "methods":
        for name in methods.available():
            print(f"{name:18s} {methods.summary(name)}")
    else:
        for name, value in methods.settings(what).items():
            print(f"{name} = {json.dumps(value)}")


def parse_settings(pairs: tuple[str, ...], flag: str) -> dict[str, Any]:
    """Settings from "name=value": numbers, true, false and JSON lists as such, the rest as text.

    Raises:
        InputError: something that is not name=value, or a name given twice.

    Example:
        >>> parse_settings(("num_steps=5", "objective=ascent"), "--settings")
        {'num_steps': 5, 'objective': 'ascent'}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or name in parsed:
            raise InputError(
                f"{flag} got {pair!r}, but takes each setting once, as name=value, such as "
                "learning_rate=0.01."
            )
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            parsed[name] = text
    return parsed


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; ends the process with status 0, 1, 2 or 130."""
    commands = {
        "pretrain": pretrain,
        "retrain": retrain,
        "unlearn": unlearn,
        "evaluate": evaluate,
        "compare": compare,
        "report": report,
        "list": list_,
    }
    _prepare_environment()
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="jaxunlearn", description=__doc__, args=arguments
        )
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("stopped; the same command continues.", 130))
    except RuntimeError as error:
        from jaxunlearn.training import Diverged, Interrupted

        if isinstance(error, Diverged | Interrupted):
            sys.exit(_fail(str(error), 1 if isinstance(error, Diverged) else 130))
        raise


def _prepare_environment() -> None:
    """Quiet libraries, and a compilation cache, so that the second start of a command is fast."""
    import absl.logging
    import jax

    absl.logging.set_verbosity(absl.logging.ERROR)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxunlearn" / "xla"
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _fail(sentence: str, status: Literal[1, 2, 130]) -> int:
    print(f"jaxunlearn: {sentence}", file=sys.stderr)
    return status


def _request(forget: Forget) -> Any:
    from dataclasses import asdict

    from jaxunlearn.data import ForgetRequest

    return ForgetRequest(**asdict(forget))


def _show(study: Path) -> None:
    from jaxunlearn.console import console
    from jaxunlearn.report import read_study, render_table

    console.print(render_table(read_study(study)))
    print(f"report: {study / 'report.html'}")
