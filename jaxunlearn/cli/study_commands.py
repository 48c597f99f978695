"""The commands on studies, searches, sweeps and sets of shadow models, one function each."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxunlearn import studies
from jaxunlearn.cli import flags
from jaxunlearn.cli.begin import dry_run, ready, start_over
from jaxunlearn.cli.output import show_study
from jaxunlearn.files import read_json
from jaxunlearn.studies import run_study
from jaxunlearn.studies.console import outcome, say, show
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.study import load_study
from jaxunlearn.studies.workspace import Workspace, parse_shard
from jaxunlearn.training import Diverged
from jaxunlearn.training.devices import placement_of
from jaxunlearn.types import InputError


def compare(
    study: flags.Folder,
    /,
    config: flags.File,
    layout: flags.Laid,
    begin: flags.Begun,
    seeds: flags.Numbers = (),
    shard: flags.Shard = "1/1",
    data_dir: flags.Place = None,
) -> None:
    """Run a whole study, skip finished runs, and write its report.

    Args:
        study: the folder of the study; the same command continues it.
        config: the TOML file of the study; experiments/configs has examples.
        layout: the layout on the machine.
        begin: the beginning of the command.
        seeds: pretraining seeds, which replace the seeds in the file.
        shard: i/n runs the i-th of n shares of the methods, for job arrays.
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    if layout.get("distributed"):
        raise InputError(
            "--distributed is given, but a study runs on one host; run pretrain, retrain and "
            "unlearn on several hosts, and evaluate each run on one."
        )
    laid, planned = ready(data_dir, layout), load_study(config)
    planned = replace(planned, seeds=seeds or planned.seeds)
    placement, share = placement_of(laid), parse_shard(shard)

    def runs(folder: Path) -> dict[Path, RunConfig]:
        return run_study.planned_runs(folder, planned, placement, share)

    start_over(Workspace(study, "study", "study.json"), begin, runs, config)
    if begin.dry_run:
        dry_run(runs(study), placement, lambda run: run.parent.parent / "pretrain")
        return
    try:
        studies.compare(study, planned, laid, shard)
    except Diverged:
        show_study(study)
        raise
    show_study(study)


def report(study: flags.Folder, /, rank_by: flags.Metric = None) -> None:
    """Rewrite the Markdown and HTML report of a study.

    Args:
        study: the folder of the study.
        rank_by: the metric to rank the methods by, such as js_to_retrained (default: the five-part
            gap, if there are two seeds or more).
    """
    studies.write_report(study, rank_by)
    show_study(study)


def evidence(study: flags.Folder, /, data_dir: flags.Place = None) -> None:
    """Gather evidence of forgetting: relearning, probes, calibration, damage, residual knowledge.

    Args:
        study: the folder of a study that `jaxunlearn compare` has run.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    ready(data_dir)
    from jaxunlearn.studies.audits.evidence import gather

    gather(study)
    say((study / "evidence.md").read_text("utf-8"))
    say(f"results: {study / 'evidence.json'}")
    outcome(read_json(study / "evidence.json"))


def revive(
    folder: flags.Folder,
    /,
    layout: flags.LaidInBatches,
    classifier: flags.Oracle = None,
    retrained: flags.Oracle = None,
    original: flags.Oracle = None,
    steps: int = 100,
    learning_rate: flags.Rate = None,
    data_dir: flags.Place = None,
) -> None:
    """Attack models that generate: does the forgotten class come back?

    Args:
        folder: the folder of a run, or of a study, whose runs are all attacked.
        classifier: the folder of a classifier pretrained on the same data, which judges the images
            of a run.
        retrained: the folder of the retrained model of a run, which is attacked too.
        original: the folder of the original model of a run, which is attacked too.
        steps: number of steps of each attack.
        learning_rate: learning rate of the attacks that train all weights (default: the rate of the
            pretraining).
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    from jaxunlearn.studies.audits import revival
    from jaxunlearn.studies.report.revival import render_revival
    from jaxunlearn.studies.runs.schema import REVIVAL

    attacker = revival.Attacker(steps, learning_rate)
    if (folder / "study.json").exists():
        given = {"classifier": classifier, "retrained": retrained, "original": original}
        if name := next((name for name, value in given.items() if value), None):
            raise InputError(
                f"--{name} is given, but {folder} is a study, which has its own; leave it out."
            )
        found = revival.revive_study(folder, attacker, laid)
        say((folder / "revival.md").read_text("utf-8"))
        say(f"results: {folder / REVIVAL}")
        outcome(found)
        return
    models = revival.revive(folder, classifier, retrained, original, attacker, laid)
    say(render_revival(models))
    say(f"results: {folder / REVIVAL}, picture: {folder / 'revival.png'}")
    outcome(models)


def ulira(
    folder: flags.Folder,
    /,
    config: flags.File,
    layout: flags.LaidInGroups,
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
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    laid = ready(data_dir, layout)
    from jaxunlearn.studies.audits import ulira as attack

    attack.ulira(
        folder,
        load_study(config),
        num_shadows=shadows,
        group_size=group_size,
        false_positive_rates=fpr,
        epsilon=epsilon,
        layout=laid,
    )
    say((folder / "ulira.md").read_text("utf-8"))
    say(f"results: {folder / 'ulira.json'}")
    outcome(read_json(folder / "ulira.json"))


def sweep(
    folder: flags.Folder,
    /,
    method: flags.Method,
    pretrained: flags.Needed,
    vary: flags.Varied,
    forget: flags.Forget,
    layout: flags.LaidInGroups,
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
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    from jaxunlearn.studies.search import sweep as sweeps
    from jaxunlearn.studies.search.space import parse_space

    name, settings = method
    plan = sweeps.Sweep(
        pretrained,
        flags.request(forget),
        name,
        parse_space(vary, "--vary"),
        settings,
        trials,
        seeds,
    )
    paths = sweeps.sweep(
        folder, plan, retrained=retrained, group_size=group_size, shard=shard, layout=laid
    )
    say(f"report: {paths['markdown']}, picture: {paths['picture']}")
    outcome(read_json(paths["json"]))


def tune(
    search: flags.Folder,
    /,
    config: flags.File,
    layout: flags.LaidInSearch,
    data_dir: flags.Place = None,
) -> None:
    """Choose settings by random search, on training and validation data alone.

    Args:
        search: a new folder for this search; the same command continues it.
        config: the TOML file of the search, such as experiments/configs/digits_demo_search.toml.
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder named in the file).
    """
    laid = ready(data_dir, layout)
    from jaxunlearn.studies.report.tuning import render_tuning
    from jaxunlearn.studies.search import tuning

    def print_outcome() -> None:
        show(render_tuning(search))
        say(f"chosen settings: {search / 'tuned.toml'}")
        outcome(read_json(search / "tuning.json"))

    try:
        tuning.tune(search, tuning.load_search(config), laid)
    except Diverged:
        if (search / "tuned.toml").exists():  # trials diverged, not an original model
            print_outcome()
        raise
    print_outcome()


def verify(folder: flags.Folder, /, data_dir: flags.Place = None) -> None:
    """Recompute all fingerprints of a run or a study and report every difference.

    The exit status is 2 if anything differs.

    Args:
        folder: the folder of a run or a study.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    ready(data_dir)
    from jaxunlearn.studies.report.verified import render_findings
    from jaxunlearn.studies.runs import verify as check

    findings = check.verify(folder)
    show(render_findings(folder, findings))
    wrong = [finding for finding in findings if finding.verdict == "does not match"]
    for reason in dict.fromkeys(finding.reason for finding in wrong):
        checks = dict.fromkeys(finding.what for finding in wrong if finding.reason == reason)
        say(f"{', '.join(checks)}: {reason}")
    places = len({finding.run for finding in findings})
    where = "1 folder" if places == 1 else f"{places:,} folders and files"
    outcome([finding._asdict() for finding in findings])
    if wrong:
        raise InputError(f"{len(wrong)} of {len(findings)} checks of {folder} do not match.")
    say(f"all {len(findings):,} checks of {where} match")


def status(folder: flags.Folder, /) -> None:
    """Tell which runs of a study are done, running, stopped, diverged or failed, and why.

    Args:
        folder: the folder of a study or a run.
    """
    from rich.table import Table
    from rich.text import Text

    from jaxunlearn.studies.runs import status as states

    found = states.status(folder)
    counts = Counter(each.state for each in found)
    total = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    say(f"{folder}: {total}")
    table = Table("run", "state", "detail")
    for each in found:
        table.add_row(*map(Text, each._replace(run=each.run or folder.resolve().name)))
    show(table)
    outcome([each._asdict() for each in found])
