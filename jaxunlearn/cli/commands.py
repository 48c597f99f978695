"""Make a trained model forget, and measure how well it did.

    jaxunlearn pretrain RUN                                            the original model
    jaxunlearn retrain RUN --pretrained RUN --fraction 0.1             the oracle
    jaxunlearn select FILE --pretrained RUN --by influence             a worst-case request
    jaxunlearn unlearn RUN --pretrained RUN --method eupmu --fraction 0.1
    jaxunlearn evaluate RUN --retrained RUN                            accuracies, attacks, gaps
    jaxunlearn sample FILE --run RUN                                   images that a model generates
    jaxunlearn compare STUDY --config FILE                             all of it, and a report
    jaxunlearn evidence STUDY                                          relearning, probes, damage
    jaxunlearn ulira SHADOWS --config FILE                             attack with shadow models
    jaxunlearn sweep SWEEP --pretrained RUN --method eupmu --fraction 0.1 --vary tolerance=0.01,0.1
    jaxunlearn tune SEARCH --config FILE                               settings, chosen blind
    jaxunlearn verify FOLDER                                           is all as it was written?

Every command can be stopped and given again: it continues where it stopped, and what is done is not
done again. Exit status: 0 done, 1 an unexpected error, 2 bad input, 3 a loss diverged, 4 out of
memory, 130 stopped by Ctrl-C or SIGTERM.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

from jaxunlearn.training.layout import Layout

if TYPE_CHECKING:
    from jaxunlearn.data import ForgetRequest

# JAX takes a second to import: the commands do so, and asking for help does not.
_Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
_Needed = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
_NewFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
_File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
_Oracle = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
_Place = Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
_OneFile = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
_Pattern = Annotated[str | None, tyro.conf.arg(metavar="REGEX", help_behavior_hint="")]
_Metric = Annotated[str | None, tyro.conf.arg(metavar="METRIC", help_behavior_hint="")]
_Augmentation = Annotated[
    Literal["none", "crop", "flip_crop"] | None,
    tyro.conf.arg(metavar="{none,crop,flip_crop}", help_behavior_hint=""),
]
_Score = Annotated[str, tyro.conf.arg(metavar="{memorisation,gradient_norm,influence,nearest}")]
_Name = Annotated[str, tyro.conf.arg(metavar="NAME")]
_Shard = Annotated[str, tyro.conf.arg(metavar="I/N")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
_Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")]
_Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...", help_behavior_hint="")]
_Texts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...", help_behavior_hint="")]
_Rates = Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE ...")]
_Share = Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="")]
_Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Forget:
    """What to forget.

    Attributes:
        fraction: a random share of the training data, such as 0.1. Give exactly one of --fraction,
            --classes, --words, --subclass, --indices and --file.
        classes: all examples of the classes with these numbers; --words takes their names.
        words: all examples of the classes whose name has one of these words, such as sneaker.
        subclass: all examples of a fine class, in a data set with coarse classes.
        indices: the examples at these positions of the training split.
        file: the positions in a file: a JSON list, or one number a line.
    """

    fraction: _Share = None
    classes: _Numbers = ()
    words: _Words = ()
    subclass: _Number = None
    indices: _Numbers = ()
    file: _OneFile = None


_Forget = Annotated[Forget, tyro.conf.arg(name="")]
_Layout = Annotated[Layout, tyro.conf.arg(name="")]


def pretrain(
    run: _Folder,
    /,
    data: _Name = "digits",
    model: _Name = "mlp",
    data_dir: _Place = None,
    folder: _Place = None,
    validation_fraction: float = 0.1,
    train_size: _Number = None,
    augmentation: _Augmentation = None,
    model_settings: _Pairs = (),
    diffusion: _Pairs = (),
    training: _Pairs = (),
    autoencoder: _Pairs = (),
    seed: int = 0,
    layout: _Layout = Layout(),
) -> None:
    """Train the original model on all training data.

    Args:
        run: a new folder for this run; the same command continues it.
        data: a data set: see `jaxunlearn list data`, or any image set of tfds.
        model: a model: see `jaxunlearn list models`.
        data_dir: where prepared data lies, by default in your cache folder.
        folder: raw files of fashion_mnist or tiny_imagenet.
        validation_fraction: share of the training data held out before anything else.
        train_size: how many of the other training examples to learn from; all by default.
        augmentation: none, crop or flip_crop in training; that of the data set by default.
        model_settings: fields of the model, such as norm=group.
        diffusion: settings of a model that generates, such as num_timesteps=1000 guidance=2.
        training: settings of the training, in place of num_steps=500 learning_rate=0.1
            learning_rate_schedule=one_cycle: see `jaxunlearn list retrain`.
        autoencoder: of text-to-image models: its model, model_settings and training, such as
            training='{"num_steps": 1000}'.
        seed: decides the held-out data, the initial weights and the order of the data.
        layout: what the run may use.
    """
    _ready(None, layout)
    from jaxunlearn.studies.config import Diffusion, Problem
    from jaxunlearn.studies.fields import from_dict, parse_settings
    from jaxunlearn.studies.runs import folder as runs
    from jaxunlearn.studies.runs import train

    given = parse_settings(diffusion, "--diffusion")
    problem = Problem(
        data=data,
        data_dir=data_dir,
        folder=folder,
        validation_fraction=validation_fraction,
        train_size=train_size,
        augmentation=augmentation,
        model=model,
        model_settings=parse_settings(model_settings, "--model-settings"),
        diffusion=from_dict(Diffusion, given, "--diffusion") if given else None,
        training=parse_settings(training, "--training"),
        autoencoder=parse_settings(autoencoder, "--autoencoder") or None,
    )
    before = runs.is_finished(run)
    train.pretrain(run, problem, seed, layout)
    _trained("original", run, before)


def retrain(
    run: _Folder,
    /,
    pretrained: _Needed,
    forget: _Forget = Forget(),
    data_dir: _Place = None,
    layout: _Layout = Layout(),
) -> None:
    """Train the oracle: a new model that never sees the forget data.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of `jaxunlearn pretrain`, or of an `unlearn` whose requests are left
            out as well.
        forget: what to leave out.
        data_dir: where prepared data is, if not where the run says.
        layout: what the run may use.
    """
    _ready(data_dir, layout)
    from jaxunlearn.studies.runs import folder as runs
    from jaxunlearn.studies.runs import train

    request, before = _request(forget), runs.is_finished(run)
    train.retrain(run, pretrained, request, layout=layout)
    _trained("retrained", run, before)


def select(
    file: _NewFile,
    /,
    pretrained: _Needed,
    by: _Score,
    fraction: float = 0.1,
    data_dir: _Place = None,
) -> None:
    """Choose the examples that are hardest to forget: the file of a worst-case request.

    Args:
        file: the file to write: a JSON list of positions.
        pretrained: the folder of `jaxunlearn pretrain`.
        by: memorisation (trains 16 models on halves of the data), gradient_norm, influence (on
            validation data), or nearest (to what is retained).
        fraction: the share of the training examples to choose.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from statistics import median

    from jaxunlearn.studies.audits import worst_cases

    found = worst_cases.select(pretrained, by, fraction, file)
    print(
        f"{len(found.indices)} of {len(found.scores)} training examples; median {by} "
        f"{median(found.scores[found.chosen]):.4g}, of the others "
        f"{median(found.scores[~found.chosen]):.4g}"
    )
    print(f"request: --file {file}")


def unlearn(
    run: _Folder,
    /,
    pretrained: _Needed,
    method: _Name,
    forget: _Forget = Forget(),
    settings: _Pairs = (),
    trainable: _Pattern = None,
    adapter_rank: int = 0,
    anchor: _Number = None,
    data_dir: _Place = None,
    layout: _Layout = Layout(),
) -> None:
    """Make the original model forget.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of `jaxunlearn pretrain`, or of an `unlearn` to go on from: what it
            forgot stays out of all data.
        method: a method: see `jaxunlearn list methods`.
        forget: what to forget.
        settings: settings of the method, such as num_steps=100: see `jaxunlearn list METHOD`;
            guard_budget=0.05 lets no held-out retain loss rise by more than that.
        trainable: a regular expression: only parameters whose path has it may move, such as head.
        adapter_rank: move low-rank adapters of this rank on these parameters' kernels instead.
        anchor: the class that objective=match_anchor turns forgotten ones into.
        data_dir: where prepared data is, if not where the run says.
        layout: what the run may use.
    """
    _ready(data_dir, layout)
    from jaxunlearn.studies.config import Aim
    from jaxunlearn.studies.fields import parse_settings
    from jaxunlearn.studies.runs import folder as runs
    from jaxunlearn.studies.runs import train

    given = parse_settings(settings, "--settings")
    aim = Aim(trainable or "", adapter_rank, anchor)
    request, before = _request(forget), runs.is_finished(run)
    train.unlearn(run, pretrained, request, method, given, layout, aim if aim != Aim() else None)
    _trained("unlearned", run, before)


def evaluate(
    run: _Folder,
    /,
    retrained: _Oracle = None,
    original: _Oracle = None,
    classifier: _Oracle = None,
    inception: _OneFile = None,
    data_dir: _Place = None,
) -> None:
    """Compute accuracies, attacks and the distances to the retrained model.

    Args:
        run: the folder of a finished retrain or unlearn.
        retrained: the folder of the retrained model, itself evaluated before.
        original: the folder of the original model, for what one request after another did to it.
        classifier: for models that generate: the folder of a pretrained classifier of the same
            data, which judges their images.
        inception: with a classifier: a safetensors file with the network of the Frechet distance,
            whose features then stand in for the classifier's.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from jaxunlearn import studies
    from jaxunlearn.studies.report import one_run
    from jaxunlearn.studies.runs.results import read_results

    weights = Path(inception) if inception else None
    metrics = studies.evaluate(run, retrained, original, classifier, weights)
    oracle = read_results(retrained)["metrics"] if retrained else {}
    print(one_run.render(metrics, oracle))
    found = read_results(run)
    if "judge" in found:
        print(one_run.render_judge(found))
    if "drift" in found:
        print(one_run.render_drift(found["drift"]))
    print(f"results: {run / 'results.json'}")


def sample(
    file: _NewFile,
    /,
    run: _Needed,
    labels: _Numbers = (),
    prompts: _Texts = (),
    count: int = 8,
    data_dir: _Place = None,
) -> None:
    """Generate images, and draw them side by side.

    Args:
        file: the picture to write, ending in .png.
        run: the folder of a finished pretrain, retrain or unlearn of a model that generates.
        labels: the classes to generate; all by default.
        prompts: classes to generate by their names, such as "a photo of a three".
        count: how many images of each.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from jaxunlearn import studies

    studies.sample(file, run, labels, count, prompts)
    print(f"picture: {file}")


def compare(
    study: _Folder,
    /,
    config: _File,
    seeds: _Numbers = (),
    shard: _Shard = "1/1",
    data_dir: _Place = None,
    layout: _Layout = Layout(),
) -> None:
    """Run a whole study, skipping what is done, and write its report.

    Args:
        study: the folder of the study; the same command continues it.
        config: a TOML file: see experiments/configs.
        seeds: other pretraining seeds than the file's.
        shard: i/n runs the i-th of n shares of the methods, for job arrays.
        data_dir: where prepared data is, if not where the file says.
        layout: what the run may use.
    """
    from jaxunlearn.types import InputError

    if layout.distributed:
        raise InputError(
            "a study runs on one host; give the commands pretrain, retrain and unlearn to several, "
            "and evaluate each run on one."
        )
    _ready(data_dir, layout)
    from jaxunlearn import studies
    from jaxunlearn.studies.config import load_study
    from jaxunlearn.training import Diverged

    planned = load_study(config)
    if seeds:
        planned = replace(planned, seeds=seeds)
    try:
        studies.compare(study, planned, layout, shard)
    except Diverged:
        _show(study)
        raise
    _show(study)


def tune(search: _Folder, /, config: _File, data_dir: _Place = None) -> None:
    """Choose settings blind, from training and validation data, by random search.

    Args:
        search: a new folder for this search; the same command continues it.
        config: a TOML file: see experiments/configs/digits_demo_search.toml.
        data_dir: where prepared data is, if not where the file says.
    """
    _ready(data_dir)
    from jaxunlearn.studies.console import show
    from jaxunlearn.studies.report.tuning import render_tuning
    from jaxunlearn.studies.search import tuning
    from jaxunlearn.training import Diverged

    def tell() -> None:
        show(render_tuning(search))
        print(f"chosen settings: {search / 'tuned.toml'}")

    try:
        tuning.tune(search, tuning.load_search(config))
    except Diverged:
        if (search / "tuned.toml").exists():  # trials diverged, and not the models they start from
            tell()
        raise
    tell()


def ulira(
    folder: _Folder,
    /,
    config: _File,
    shadows: int = 16,
    group_size: int = 16,
    fpr: _Rates = (0.01, 0.001),
    epsilon: bool = False,
    data_dir: _Place = None,
) -> None:
    """Attack every method of a study example by example, with shadow models (U-LiRA).

    Args:
        folder: a new folder for the shadow models; the same command continues it.
        config: the TOML file of a study with a random request: see experiments/configs.
        shadows: how many shadow models; 16, 64 or 256 by the size of the model.
        group_size: number of shadow models in a group: on accelerators they train at once.
        fpr: false-positive rates at which the true-positive rate is reported.
        epsilon: also bound epsilon from below; needs jaxunlearn[audit].
        data_dir: where prepared data is, if not where the file says.
    """
    _ready(data_dir)
    from jaxunlearn.studies.audits import ulira as attack
    from jaxunlearn.studies.config import load_study

    attack.ulira(
        folder,
        load_study(config),
        num_shadows=shadows,
        group_size=group_size,
        false_positive_rates=fpr,
        epsilon=epsilon,
    )
    print((folder / "ulira.md").read_text("utf-8"))
    print(f"results: {folder / 'ulira.json'}")


def sweep(
    folder: _Folder,
    /,
    pretrained: _Needed,
    method: _Name,
    vary: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUES ...")],
    forget: _Forget = Forget(),
    settings: _Pairs = (),
    trials: _Number = None,
    seeds: _Numbers = (),
    retrained: _Oracle = None,
    group_size: int = 16,
    shard: _Shard = "1/1",
    data_dir: _Place = None,
) -> None:
    """Try many settings of one method, many at once, and draw what they keep against forgetting.

    Args:
        folder: a new folder for this sweep; the same command continues it.
        pretrained: the folder of `jaxunlearn pretrain`.
        method: a method: see `jaxunlearn list methods`.
        vary: floating-point settings and their values: name=a,b,c, or name=low:high to draw from.
        forget: what to forget.
        settings: fixed settings of the method, such as num_steps=100: see `jaxunlearn list METHOD`.
        trials: how many random settings to draw; without it, every one of the grid is tried.
        seeds: of the runs' data order; that of the pretraining by default.
        retrained: the folder of the retrained model, itself evaluated before, for the distances.
        group_size: largest number of runs at once on an accelerator; on CPUs runs take turns.
        shard: i/n runs the i-th of n shares, for job arrays.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from jaxunlearn.studies.fields import parse_settings
    from jaxunlearn.studies.search import sweep as sweeps
    from jaxunlearn.studies.search.space import parse_space

    plan = sweeps.Sweep(
        pretrained,
        _request(forget),
        method,
        parse_space(vary, "--vary"),
        parse_settings(settings, "--settings"),
        trials,
        seeds,
    )
    paths = sweeps.sweep(folder, plan, retrained=retrained, group_size=group_size, shard=shard)
    print(f"report: {paths['markdown']}, picture: {paths['picture']}")


def evidence(study: _Folder, /, data_dir: _Place = None) -> None:
    """Gather evidence of forgetting: relearning, probes, calibration, damage, disagreement.

    Args:
        study: the folder of a study that jaxunlearn compare has run.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from jaxunlearn.studies.audits.evidence import gather

    gather(study)
    print((study / "evidence.md").read_text("utf-8"))
    print(f"results: {study / 'evidence.json'}")


def verify(folder: _Folder, /, data_dir: _Place = None) -> None:
    """Compute all fingerprints of a run or a study anew, and say what does and does not match.

    The exit status is 2 if anything does not.

    Args:
        folder: the folder of a run or a study.
        data_dir: where prepared data is, if not where the run says.
    """
    _ready(data_dir)
    from jaxunlearn.studies.console import say, show
    from jaxunlearn.studies.report.verified import render_findings
    from jaxunlearn.studies.runs.verify import verify as check

    findings = check(folder)
    show(render_findings(folder, findings))
    wrong = [finding for finding in findings if finding.verdict == "does not match"]
    for finding in wrong:
        say(f"{finding.what}: {finding.reason}")
    if wrong:
        _fail(f"{len(wrong)} of {len(findings)} checks of {folder} do not match.", 2)


def report(study: _Folder, /, rank_by: _Metric = None) -> None:
    """Write the Markdown and HTML report of a study anew.

    Args:
        study: the folder of the study.
        rank_by: the metric of its results to rank the methods by, such as js_to_retrained; the
            five-part gap by default, where there are two seeds or more.
    """
    from jaxunlearn.studies.report import write_report

    write_report(study, rank_by)
    _show(study)


def list_(what: Annotated[str, tyro.conf.Positional] = "methods", /) -> None:
    """Show what there is: methods, models, data, or the settings of one method.

    Args:
        what: methods, models, data, or the name of a method.
    """
    from jaxunlearn.cli.lists import describe

    print(describe(what))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; ends the process with the status that the help documents.

    Args:
        arguments: the words of the command; those of the process by default.
    """
    commands: dict[str, Any] = {
        "pretrain": pretrain,
        "retrain": retrain,
        "select": select,
        "unlearn": unlearn,
        "evaluate": evaluate,
        "sample": sample,
        "compare": compare,
        "sweep": sweep,
        "tune": tune,
        "ulira": ulira,
        "evidence": evidence,
        "verify": verify,
        "report": report,
        "list": list_,
    }
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):  # wherever it stands, tyro then explains all arguments
        words = [*(word for word in words[:1] if word in commands), "--help"]
    with one_sentence():
        copy_context().run(  # where a command finds its data is forgotten at its end
            tyro.extras.subcommand_cli_from_dict,
            commands,
            prog="jaxunlearn",
            description=__doc__,
            args=words,
        )


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the process with one sentence, and its status, where the work fails as foreseen."""
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
    """The sentence and the status of a failure that is no bug; None for any other."""
    if "jax" not in sys.modules:  # it could not be imported
        sentence = f"JAX cannot start ({error}); correct the environment variable of that setting."
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
    if isinstance(error, FileNotFoundError):  # without a name, it is the working folder's
        return "the working folder is gone; go to one that exists.", 2
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; write it with fewer brackets.", 2
    if is_out_of_memory(error):
        return (
            "the memory of the device is full; compute batches in shares (--micro-batch 16), or "
            "choose smaller batches, a smaller model or more devices.",
            4,
        )
    if isinstance(error, MemoryError):
        return "the memory of this machine is full; use a smaller model or less data.", 4
    return None


def _fail(sentence: str, status: int) -> NoReturn:
    with suppress(OSError):
        print(f"jaxunlearn: {sentence}", file=sys.stderr)
    if "jax" not in sys.modules:
        sys.exit(status)
    from jaxunlearn.training import hosts

    hosts.leave(status)


def _ready(data_dir: str | None, layout: Layout = Layout()) -> None:
    """Finds the other hosts, if there are any, the devices and the data: before any computation."""
    from jaxunlearn.training import hosts

    if layout.distributed:
        hosts.join()
    hosts.check_devices()
    from jaxunlearn.studies.problem import find_data_in

    find_data_in(data_dir)


def _request(forget: Forget) -> "ForgetRequest":
    from jaxunlearn.data import ForgetRequest

    return ForgetRequest(**asdict(forget))


def _trained(kind: str, run: Path, before: bool) -> None:
    """Says what a training command has done."""
    from jaxunlearn.studies.runs import folder as runs

    done = runs.read_done(run)
    if before:
        print(f"{run} was finished already: nothing to do")
    else:
        read = done.get("programs_read", 0)
        print(
            f"{done['steps']} steps in {done['seconds']:.1f} s, after "
            f"{done['compile_seconds']:.1f} s of compilation"
            f"{f', {read} programs from the cache' if read else ''}"
        )
    if "guard" in done:
        guard = done["guard"]
        print(
            f"held-out retain loss: {guard['start']:.4g} at the start, {guard['end']:.4g} at the "
            f"end, limit {guard['limit']:.4g}, {guard['rollbacks']} rollbacks"
        )
    print(f"{kind} model: {run / 'weights'}")


def _show(study: Path) -> None:
    from jaxunlearn.studies.console import show
    from jaxunlearn.studies.report import read_study, render_table

    show(render_table(read_study(study)))
    print(f"report: {study / 'report.html'}")
