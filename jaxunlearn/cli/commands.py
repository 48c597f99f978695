"""The commands: one function for each. Their flags are made in `flags`."""

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
    """Runs a command.

    Args:
        words: the name of the command and its arguments, or the options of tyro for completion.
    """
    config = (tyro.conf.CascadeSubcommandArgs,)
    if words[0] not in COMMANDS:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="jaxunlearn", args=words, config=config)
        return
    name, *given = words
    if {"-h", "--help"} & set(given):  # wherever it stands, tyro then explains all arguments
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
        pretrained: the folder of `jaxunlearn pretrain`, or of an `unlearn` whose requests are left
            out as well.
        forget: the request.
        layout: the layout on the machine.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        pretrained: the folder of `jaxunlearn pretrain`.
        by: the score: memorisation (trains 16 models on halves of the data), gradient_norm,
            influence (on validation data), or nearest (to the retain data).
        fraction: share of the training examples to choose.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        method: the method, whose settings `jaxunlearn unlearn METHOD --help` lists.
        pretrained: the folder of `jaxunlearn pretrain`, or of an `unlearn` to continue from, whose
            forget data stays out of all data.
        forget: the request.
        aim: the parameters that may change.
        layout: the layout on the machine.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        run: the folder of a finished retrain or unlearn.
        retrained: the folder of the retrained model, already evaluated.
        original: the folder of the original model, to measure the effect of several requests.
        classifier: for models that generate: the folder of a pretrained classifier of the same
            data, which judges their images.
        inception: with a classifier: a safetensors file with the network of the Frechet distance,
            whose features replace the features of the classifier.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        run: the folder of a finished pretrain, retrain or unlearn of a model that generates.
        labels: the classes to generate; all by default.
        prompts: the classes to generate by their names, such as "a photo of a three".
        count: number of images of each class.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        config: a TOML file, such as in experiments/configs.
        layout: the layout on the machine.
        seeds: pretraining seeds in place of the seeds in the file.
        shard: i/n runs the i-th of n shares of the methods, for job arrays.
        data_dir: the folder of prepared data; by default the one in the file.
    """
    if layout.get("distributed"):
        raise InputError(
            "a study runs on one host; give the commands pretrain, retrain and unlearn to several, "
            "and evaluate each run on one."
        )
    laid, planned = _ready(data_dir, layout), load_study(config)
    try:
        studies.compare(study, replace(planned, seeds=seeds or planned.seeds), laid, shard)
    except Diverged:
        show_study(study)
        raise
    show_study(study)


def tune(search: flags.Folder, /, config: flags.File, data_dir: flags.Place = None) -> None:
    """Choose settings blind, from training and validation data, by random search.

    Args:
        search: a new folder for this search; the same command continues it.
        config: a TOML file, such as experiments/configs/digits_demo_search.toml.
        data_dir: the folder of prepared data; by default the one in the file.
    """
    _ready(data_dir)
    from jaxunlearn.studies.report.tuning import render_tuning
    from jaxunlearn.studies.search import tuning

    def tell() -> None:
        show(render_tuning(search))
        print(f"chosen settings: {search / 'tuned.toml'}")

    try:
        tuning.tune(search, tuning.load_search(config))
    except Diverged:
        if (search / "tuned.toml").exists():  # trials diverged, and no original model
            tell()
        raise
    tell()


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
        config: the TOML file of a study with a random request, such as in experiments/configs.
        shadows: number of shadow models: 16, 64 or 256 by the size of the model.
        group_size: number of shadow models in a group, which accelerators train at once.
        fpr: false-positive rates at which true-positive rates are reported.
        epsilon: also bound epsilon from below; needs jaxunlearn[audit].
        data_dir: the folder of prepared data; by default the one in the file.
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
    """Try many settings of one method, many at once, and draw utility against forgetting.

    Args:
        folder: a new folder for this sweep; the same command continues it.
        method: the method and its fixed settings.
        pretrained: the folder of `jaxunlearn pretrain`.
        vary: floating-point settings and their values: name=a,b,c, or name=low:high to draw from.
        forget: the request.
        trials: number of random settings to draw; by default all settings of the grid are tried.
        seeds: seeds of the data order; by default the pretraining seed.
        retrained: the folder of the retrained model, already evaluated, for the distances.
        group_size: largest number of runs at once on an accelerator; on CPUs runs take turns.
        shard: i/n runs the i-th of n shares, for job arrays.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
        data_dir: the folder of prepared data; by default the one on record in the runs.
    """
    _ready(data_dir)
    from jaxunlearn.studies.audits.evidence import gather

    gather(study)
    print((study / "evidence.md").read_text("utf-8"))
    print(f"results: {study / 'evidence.json'}")


def verify(folder: flags.Folder, /, data_dir: flags.Place = None) -> None:
    """Compute all fingerprints of a run or a study again and report every difference.

    The exit status is 2 if anything differs.

    Args:
        folder: the folder of a run or a study.
        data_dir: the folder of prepared data; by default the one on record in the run.
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
    """Write the Markdown and HTML report of a study again.

    Args:
        study: the folder of the study.
        rank_by: the metric of its results to rank the methods by, such as js_to_retrained; the
            five-part gap by default, where there are two seeds or more.
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
    """Finds the other hosts, if there are any, the devices and the data before any computation."""
    laid = Layout(**(layout or {}))
    if laid.distributed:
        hosts.join()
    hosts.check_devices()
    find_data_in(data_dir)
    return laid
