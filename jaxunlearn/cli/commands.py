"""The commands, one function each. `flags` makes their flags."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import tyro

from jaxunlearn import methods, studies
from jaxunlearn.cli import flags
from jaxunlearn.cli.output import fields_of, show_study, trained
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.config import Aim, Problem, load_study
from jaxunlearn.studies.console import say, show
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.problem import find_data_in
from jaxunlearn.studies.runs.folder import is_finished
from jaxunlearn.training import Diverged, hosts
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError


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


def pretrain(
    run: flags.Folder, /, problem: flags.Learned, layout: flags.Laid, seed: int = 0
) -> None:
    """Train the original model on all training data.

    The flags are the fields of [problem] in the TOML file of a study.

    Args:
        run: a new folder for this run; the same command continues it.
        problem: the problem.
        layout: the layout on the machine.
        seed: seed of the held-out data, the initial weights and the order of the data.
    """
    laid = _ready(None, layout)
    learned, before = from_dict(Problem, fields_of(problem), "pretrain"), is_finished(run)
    studies.pretrain(run, learned, seed, laid)
    trained("original", run, before)


def retrain(
    run: flags.Folder,
    /,
    pretrained: flags.Needed,
    forget: flags.Forget,
    layout: flags.Laid,
    data_dir: flags.Place = None,
) -> None:
    """Train the oracle: a new model that never sees the forget data.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of a `pretrain` run, or of an `unlearn` run, whose forget data are
            left out as well.
        forget: the request.
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = _ready(data_dir, layout)
    request, before = ForgetRequest(**forget), is_finished(run)
    studies.retrain(run, pretrained, request, layout=laid)
    trained("retrained", run, before)


def select(
    file: flags.NewFile,
    /,
    pretrained: flags.Needed,
    by: Literal["memorisation", "gradient_norm", "influence", "nearest"],
    fraction: float = 0.1,
    data_dir: flags.Place = None,
) -> None:
    """Choose the examples that are hardest to forget, for a worst-case request.

    Args:
        file: the file to write: a JSON list of positions.
        pretrained: the folder of a `pretrain` run.
        by: the score: memorisation (trains 16 models on halves of the data), gradient_norm,
            influence (on validation data), or nearest (to the retain data).
        fraction: fraction of the training examples to choose.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    from statistics import median

    from jaxunlearn.studies.audits import worst_cases

    found = worst_cases.select(pretrained, by, fraction, file)
    print(
        f"{len(found.indices)} of {len(found.scores)} training examples chosen; their median {by} "
        f"is {median(found.scores[found.chosen]):.4g}, the median of the others is "
        f"{median(found.scores[~found.chosen]):.4g}"
    )
    print(f"request: --file {file}")


def unlearn(
    run: flags.Folder,
    /,
    method: flags.Method,
    pretrained: flags.Needed,
    forget: flags.Forget,
    aim: flags.Aimed,
    layout: flags.Laid,
    data_dir: flags.Place = None,
) -> None:
    """Make the original model forget: jaxunlearn unlearn RUN METHOD --pretrained RUN ...

    Args:
        run: a new folder for this run; the same command continues it.
        method: the method; `jaxunlearn unlearn METHOD --help` lists its settings.
        pretrained: the folder of a `pretrain` run, or of an `unlearn` run to continue from, whose
            forget data are never used again.
        forget: the request.
        aim: the parameters that may change.
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = _ready(data_dir, layout)
    request, before = ForgetRequest(**forget), is_finished(run)
    studies.unlearn(
        run, pretrained, request, *method, laid, from_dict(Aim, aim, "unlearn") if aim else None
    )
    trained("unlearned", run, before)


def evaluate(
    run: flags.Folder,
    /,
    retrained: flags.Oracle = None,
    original: flags.Oracle = None,
    classifier: flags.Oracle = None,
    inception: flags.Weights = None,
    data_dir: flags.Place = None,
) -> None:
    """Compute accuracies, attacks and the distances to the retrained model.

    Args:
        run: the folder of a finished `retrain` or `unlearn` run.
        retrained: the folder of the retrained model, already evaluated.
        original: the folder of the original model, to measure the effect of several requests.
        classifier: for generative models: the folder of a classifier pretrained on the same data,
            which judges the generated images.
        inception: with a classifier: a safetensors file with an Inception network, whose features
            replace the classifier's in the Frechet distance.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    from jaxunlearn.studies.report import one_run
    from jaxunlearn.studies.runs.results import read_results

    metrics = studies.evaluate(run, retrained, original, classifier, inception)
    oracle = read_results(retrained)["metrics"] if retrained else {}
    print(one_run.render(metrics, oracle))
    found = read_results(run)
    if "judge" in found:
        print(one_run.render_judge(found))
    if "drift" in found:
        print(one_run.render_drift(found["drift"]))
    print(f"results: {run / 'results.json'}")


def sample(
    file: flags.NewFile,
    /,
    run: flags.Needed,
    labels: flags.Numbers = (),
    prompts: flags.Texts = (),
    count: int = 8,
    data_dir: flags.Place = None,
) -> None:
    """Generate images and draw them side by side.

    Args:
        file: the picture to write, ending in .png.
        run: the folder of a finished run of a generative model.
        labels: the classes to generate (default: all).
        prompts: the classes to generate, by prompt, such as "a photo of a three".
        count: number of images per class.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    studies.sample(file, run, labels, count, prompts)
    print(f"picture: {file}")


def compare(
    study: flags.Folder,
    /,
    config: flags.File,
    layout: flags.Laid,
    seeds: flags.Numbers = (),
    shard: flags.Shard = "1/1",
    data_dir: flags.Place = None,
) -> None:
    """Run a whole study, skip finished runs, and write its report.

    Args:
        study: the folder of the study; the same command continues it.
        config: the TOML file of the study; experiments/configs has examples.
        layout: the layout on the machine.
        seeds: pretraining seeds, which replace the seeds in the file.
        shard: i/n runs the i-th of n shares of the methods, for job arrays.
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    if layout.get("distributed"):
        raise InputError(
            "--distributed is given, but a study runs on one host; run pretrain, retrain and "
            "unlearn on several hosts, and evaluate each run on one."
        )
    laid, planned = _ready(data_dir, layout), load_study(config)
    try:
        studies.compare(study, replace(planned, seeds=seeds or planned.seeds), laid, shard)
    except Diverged:
        show_study(study)
        raise
    show_study(study)


def tune(search: flags.Folder, /, config: flags.File, data_dir: flags.Place = None) -> None:
    """Choose settings by random search, on training and validation data alone.

    Args:
        search: a new folder for this search; the same command continues it.
        config: the TOML file of the search, such as experiments/configs/digits_demo_search.toml.
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    _ready(data_dir)
    from jaxunlearn.studies.report.tuning import render_tuning
    from jaxunlearn.studies.search import tuning

    def print_outcome() -> None:
        show(render_tuning(search))
        print(f"chosen settings: {search / 'tuned.toml'}")

    try:
        tuning.tune(search, tuning.load_search(config))
    except Diverged:
        if (search / "tuned.toml").exists():  # trials diverged, not an original model
            print_outcome()
        raise
    print_outcome()


def ulira(
    folder: flags.Folder,
    /,
    config: flags.File,
    shadows: int = 16,
    group_size: int = 16,
    fpr: flags.Shares = (0.01, 0.001),
    epsilon: bool = False,
    data_dir: flags.Place = None,
) -> None:
    """Attack every method of a study example by example, with shadow models (U-LiRA).

    Args:
        folder: a new folder for the shadow models; the same command continues it.
        config: the TOML file of a study with a random request; experiments/configs has examples.
        shadows: number of shadow models, such as 16, 64 or 256.
        group_size: number of shadow models that an accelerator trains at once.
        fpr: false-positive rates at which true-positive rates are reported.
        epsilon: also compute a lower bound of epsilon; needs jaxunlearn[audit].
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    _ready(data_dir)
    from jaxunlearn.studies.audits import ulira as attack

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
    folder: flags.Folder,
    /,
    method: flags.Method,
    pretrained: flags.Needed,
    vary: flags.Varied,
    forget: flags.Forget,
    trials: flags.Number = None,
    seeds: flags.Numbers = (),
    retrained: flags.Oracle = None,
    group_size: int = 16,
    shard: flags.Shard = "1/1",
    data_dir: flags.Place = None,
) -> None:
    """Try many settings of one method and plot utility against forgetting.

    Args:
        folder: a new folder for this sweep; the same command continues it.
        method: the method and its fixed settings.
        pretrained: the folder of a `pretrain` run.
        vary: floating-point settings and their values: name=a,b,c, or a range, name=low:high.
        forget: the request.
        trials: number of random settings to draw (default: the whole grid).
        seeds: seeds of the data order (default: the pretraining seed).
        retrained: the folder of the retrained model, already evaluated, for the distances.
        group_size: largest number of runs at once on an accelerator; CPUs run one at a time.
        shard: i/n runs the i-th of n shares, for job arrays.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    from jaxunlearn.studies.search import sweep as sweeps
    from jaxunlearn.studies.search.space import parse_space

    name, settings = method
    plan = sweeps.Sweep(
        pretrained,
        ForgetRequest(**forget),
        name,
        parse_space(vary, "--vary"),
        settings,
        trials,
        seeds,
    )
    paths = sweeps.sweep(folder, plan, retrained=retrained, group_size=group_size, shard=shard)
    print(f"report: {paths['markdown']}, picture: {paths['picture']}")


def evidence(study: flags.Folder, /, data_dir: flags.Place = None) -> None:
    """Gather evidence of forgetting: relearning, probes, calibration, damage, disagreement.

    Args:
        study: the folder of a study that `jaxunlearn compare` has run.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    from jaxunlearn.studies.audits.evidence import gather

    gather(study)
    print((study / "evidence.md").read_text("utf-8"))
    print(f"results: {study / 'evidence.json'}")


def verify(folder: flags.Folder, /, data_dir: flags.Place = None) -> None:
    """Recompute all fingerprints of a run or a study and report every difference.

    The exit status is 2 if anything differs.

    Args:
        folder: the folder of a run or a study.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    _ready(data_dir)
    from jaxunlearn.studies.report.verified import render_findings
    from jaxunlearn.studies.runs import verify as check

    findings = check.verify(folder)
    show(render_findings(folder, findings))
    wrong = [finding for finding in findings if finding.verdict == "does not match"]
    for finding in wrong:
        say(f"{finding.what}: {finding.reason}")
    if wrong:
        raise InputError(f"{len(wrong)} of {len(findings)} checks of {folder} do not match.")


def report(study: flags.Folder, /, rank_by: flags.Metric = None) -> None:
    """Rewrite the Markdown and HTML report of a study.

    Args:
        study: the folder of the study.
        rank_by: the metric to rank the methods by, such as js_to_retrained (default: the five-part
            gap, if there are two seeds or more).
    """
    studies.write_report(study, rank_by)
    show_study(study)


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
    function.__name__.strip("_"): function
    for function in (
        *(pretrain, retrain, select, unlearn, evaluate, sample, compare, report, evidence, ulira),
        *(sweep, tune, verify, list_, schema),
    )
}


def _ready(data_dir: str | None, layout: dict[str, Any] | None = None) -> Layout:
    """Finds the other hosts, if any, the devices and the data, before any computation."""
    laid = Layout(**(layout or {}))
    if laid.distributed:
        hosts.join()
    hosts.check_devices()
    find_data_in(data_dir)
    return laid
