"""The commands on single runs, one function each."""

from typing import Literal

from jaxunlearn import studies
from jaxunlearn.cli import flags
from jaxunlearn.cli.begin import ready, train_one
from jaxunlearn.cli.output import adopted
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import outcome, say
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.runs import run_config, train
from jaxunlearn.studies.runs.folder import is_finished


def pretrain(
    run: flags.Folder,
    /,
    problem: flags.Learned,
    layout: flags.Laid,
    begin: flags.Begun,
    seed: int = 0,
    keep: flags.Shares = (),
) -> None:
    """Train the original model on all training data.

    The flags are the fields of [problem] in the TOML file of a study.

    Args:
        run: a new folder for this run; the same command continues it.
        problem: the problem.
        layout: the layout on the machine.
        begin: the beginning of the command.
        seed: seed of the held-out data, the initial weights and the order of the data.
        keep: shares of the steps whose weights are kept, such as 0.8, for the setting rewind.
    """
    laid = ready(None, layout)
    learned = from_dict(Problem, flags.fields_of(problem), "pretrain")
    config = run_config.pretraining(learned, seed)
    train_one("original", run, config, laid, begin, keep=keep)


def adopt(run: flags.Folder, /, problem: flags.Adopted, seed: int = 0) -> None:
    """Make the original model of weights that someone trained.

    The flags are the fields of [problem] in the TOML file of a study.

    Args:
        run: a new folder for this run.
        problem: the problem, and the checkpoint.
        seed: seed of the held-out data, if there are any.
    """
    ready(None)
    learned, before = studies.adopting(flags.fields_of(problem)), is_finished(run)
    studies.pretrain(run, learned, seed)
    adopted(run, before)


def export(
    run: flags.Folder,
    dest: flags.Dest,
    /,
    layout: flags.Written = None,
    pretrained: flags.Oracle = None,
    data_dir: flags.Place = None,
) -> None:
    """Write the weights of a run for other programs.

    Args:
        run: the folder of a finished `pretrain`, `adopt`, `retrain` or `unlearn` run.
        dest: the folder to write, or the file, such as net.npz, for a layout of one file.
        layout: the layout: orbax, msgpack, npz, safetensors, torchvision, timm, transformers or
            diffusers (default: the layout of the adopted checkpoint, else orbax); or peft or kohya,
            for the adapters of an unlearning run alone.
        pretrained: for adapters: the folder of the run that the unlearning started from.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    ready(data_dir)
    written = studies.export(run, dest, layout, pretrained)
    say(f"weights: {dest} ({written})")
    outcome({"weights": dest, "layout": written})


def retrain(
    run: flags.Folder,
    /,
    pretrained: flags.Needed,
    forget: flags.Forget,
    layout: flags.Laid,
    begin: flags.Begun,
    data_dir: flags.Place = None,
) -> None:
    """Train the oracle: a new model that never sees the forget data.

    Args:
        run: a new folder for this run; the same command continues it.
        pretrained: the folder of a `pretrain` run, or of an `unlearn` run, whose forget data are
            left out as well.
        forget: the request.
        layout: the layout on the machine.
        begin: the beginning of the command.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    config = train.planned_retraining(pretrained, flags.request(forget))
    train_one("retrained", run, config, laid, begin, pretrained)


def select(
    file: flags.NewFile,
    /,
    pretrained: flags.Needed,
    by: Literal["memorisation", "gradient_norm", "influence", "nearest"],
    layout: flags.LaidInGroups,
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
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    from statistics import median

    from jaxunlearn.studies.audits import worst_cases

    found = worst_cases.select(pretrained, by, fraction, file, laid)
    say(
        f"{len(found.indices)} of {len(found.scores)} training examples chosen; their median {by} "
        f"is {median(found.scores[found.chosen]):.4g}, the median of the others is "
        f"{median(found.scores[~found.chosen]):.4g}"
    )
    say(f"request: --indices {file}")
    outcome({"file": file, "by": by, "indices": found.indices.tolist()})


def unlearn(
    run: flags.Folder,
    /,
    method: flags.Method,
    pretrained: flags.Needed,
    forget: flags.Forget,
    aim: flags.Aimed,
    layout: flags.Laid,
    begin: flags.Begun,
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
        begin: the beginning of the command.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    request, aimed = flags.request(forget), flags.aim(aim)
    config = train.planned_unlearning(pretrained, request, *method, aimed)
    train_one("unlearned", run, config, laid, begin, pretrained)


def evaluate(
    run: flags.Folder,
    /,
    layout: flags.LaidInBatches,
    retrained: flags.Oracle = None,
    original: flags.Oracle = None,
    classifier: flags.Oracle = None,
    inception: flags.Weights = None,
    data_dir: flags.Place = None,
) -> None:
    """Compute accuracies, attacks and the distances to the retrained model.

    Args:
        run: the folder of a finished run.
        retrained: the folder of the retrained model, already evaluated. An original model is
            evaluated on its request.
        original: the folder of the original model, to measure the effect of several requests.
        classifier: for generative models: the folder of a classifier pretrained on the same data,
            which judges the generated images.
        inception: with a classifier: a safetensors file with an Inception network, whose features
            replace the classifier's in the Frechet distance.
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    from jaxunlearn.studies.report import one_run
    from jaxunlearn.studies.runs.results import read_results

    metrics = studies.evaluate(run, retrained, original, classifier, inception, laid)
    oracle = read_results(retrained)["metrics"] if retrained else {}
    say(one_run.render(metrics, oracle))
    found = read_results(run)
    if "judge" in found:
        say(one_run.render_judge(found))
    if "drift" in found:
        say(one_run.render_drift(found["drift"]))
    say(f"results: {run / 'results.json'}")
    outcome(found)


def sample(
    file: flags.NewFile,
    /,
    run: flags.Needed,
    layout: flags.LaidInBatches,
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
        prompts: the classes to generate, by prompt, such as "a photo of a three"; any text for an
            adopted text-to-image model.
        count: number of images per class.
        layout: the layout on the machine.
        data_dir: the folder of prepared data (default: the folder that the run recorded).
    """
    laid = ready(data_dir, layout)
    studies.sample(file, run, labels, count, prompts, laid)
    say(f"picture: {file}")
    outcome({"picture": file})
