"""Unlearning of any model in one call, without run folders.

    result = unlearn_model(model, weights, forget, retain, test=test, retrained=oracle)
    result.weights, result.metrics["five_part_gap"]

The data are arrays or batches, the model is any that `tasks.classification` takes, or a task.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxunlearn import evaluation, methods, training
from jaxunlearn.data.examples import Examples, to_device
from jaxunlearn.data.splits import halves
from jaxunlearn.evaluation import Predictions, SplitPredictions
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import fingerprint, path_name
from jaxunlearn.methods import objectives
from jaxunlearn.models import as_model, weights_of
from jaxunlearn.studies.runs.prepare import check_original
from jaxunlearn.studies.runs.unseen import losses, with_confidences, with_unseen
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks import classification
from jaxunlearn.training import programs
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import Arrays, InputError, Task, Weights


class Unlearned(NamedTuple):
    """An unlearned model.

    Attributes:
        weights: parameters and model state; `models.with_weights` puts them into an NNX or Equinox
            module.
        metrics: results of `evaluation.evaluate`, with the distances to the retrained model if
            there is one. Without test data: only accuracies, and the divergences from the retrained
            model. For a task without classes: mean losses. "seconds" is the duration of the run,
            without compilation.
        retrained: the same metrics of the retrained model; empty without one.
    """

    weights: Weights
    metrics: dict[str, float]
    retrained: dict[str, float]


def unlearn_model(
    model: Any,
    weights: Any,
    forget: Any,
    retain: Any,
    *,
    method: str = "eupmu_sfron",
    settings: Mapping[str, Any] | None = None,
    test: Any = None,
    validation: Any = None,
    retrained: Any = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    seed: int = 0,
    folder: str | Path | None = None,
) -> Unlearned:
    """Makes a model forget some of its training data.

    Args:
        model: module of Flax linen, NNX or Equinox, a `jaxunlearn.types.Model`, or a
            `jaxunlearn.types.Task`, such as a diffusion.
        weights: the pair of parameters and model state; for a linen module also its variables; None
            for the own weights of an NNX or Equinox module.
        forget: forget examples: a pair of images `[N, H, W, C]` (or features `[N, F]`) and labels
            `[N]`, a dictionary of "image" and "label", or an iterable of such batches.
        retain: retain examples, likewise.
        method: name of the method or recipe (`methods.choices`).
        settings: settings of the method that differ from its defaults.
        test: test examples, likewise, for test accuracy and the attacks; examples of classes that
            are forgotten as a whole are evaluated apart.
        validation: unseen examples, likewise. Objectives that need some copy every second example
            of a class; the others are for guards and the validation accuracy.
        retrained: weights of a model that never saw the forget data, for comparison.
        mean: mean of the pixels, per channel or one for all; uint8 images are divided by 255 first.
        std: standard deviation of the pixels, likewise.
        seed: seed of the order of the data and of dropout.
        folder: new folder for checkpoints and `metrics.jsonl`; the same call continues it.

    Returns:
        An `Unlearned`.

    Raises:
        InputError: data, weights, a method or settings that do not fit, or a folder of another
            call.
        Diverged: a loss or a weight became NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.head = nnx.Linear(4, 3, rngs=rngs)
        ...     def __call__(self, x):
        ...         return self.head(x)
        >>> data = np.eye(4), np.array([0, 1, 2, 0])
        >>> quick = {"num_steps": 2, "forget_batch_size": 4, "retain_batch_size": 4}
        >>> result = unlearn_model(
        ...     Net(nnx.Rngs(0)), None, data, data, method="finetune", settings=quick
        ... )
        >>> sorted(result.metrics)
        ['forget_accuracy', 'retain_accuracy', 'seconds']
    """
    start = _weights(model, weights, "weights")
    sets = {"forget": forget, "retain": retain, "validation": validation, "test": test}
    examples: dict[str, Examples] = {}
    for name, given in sets.items():
        if given is not None:
            examples[name] = _examples(given, name, sum(map(len, examples.values())))
    if test is not None:
        examples |= _parted(examples)
    oracle = None if retrained is None else _weights(model, retrained, "retrained")
    initial = _initial(model, examples)
    _check_weights(initial, start, "weights")
    if oracle is not None:
        _check_weights(initial, oracle, "retrained")
    task = model if isinstance(model, Task) else _task(model, start, examples, mean, std)
    chosen = methods.settings(method, dict(settings or {}), generates=task.predict is None)
    if "rewind" in chosen:
        raise InputError(
            f"rewind is {chosen['rewind']:g}, but must be left out, since no step of the "
            "pretraining is known here; give the weights of that step instead."
        )
    held_out = examples.get("validation")
    unseen, judged = halves(held_out) if held_out is not None else (None, None)
    numbers = programs.arguments(chosen, None if judged is None else judged.arrays())
    program = programs.of_method(task, method, chosen)
    arrays = {name: to_device(each) for name, each in examples.items()}
    check_original(task, method, start, arrays["retain"], chosen)
    data = dict(arrays)
    if objectives.needs_teachers(chosen):
        raise InputError(
            f"objective is {chosen['objective']!r}, but must be another here, since its teachers "
            "are trained as the original model was, which a single call does not know; use "
            "jaxunlearn unlearn, or objectives.with_ranked or with_teachers in your own loop."
        )
    if objectives.needs_unseen(chosen):
        if not unseen:
            raise InputError(
                f"the objective {chosen['objective']!r} compares forget data with unseen data, but "
                f"validation {'is None' if unseen is None else 'has no class with two examples'}; "
                "give validation examples, or choose another objective."
            )
        if objectives.needs_classes(chosen):
            objectives.check_partners(examples["forget"].label, unseen.label)
        data["forget"] = with_unseen(task, start, to_device(unseen), arrays["forget"])
    if "keep_weight" in chosen:
        data["retain"] = with_confidences(task, start, arrays["retain"])
    if judged is not None:
        arrays["validation"] = to_device(judged)
    record = {"method": method, "settings": chosen, "seed": seed, "start": fingerprint(start)}
    record |= {name: fingerprint(each.arrays()) for name, each in examples.items()}

    def trained(place: Path | None) -> training.Outcome:
        return training.run(
            program,
            numbers,
            start,
            data["forget"],
            data["retain"],
            num_steps=chosen["num_steps"],
            seed=seed,
            checkpointer=None if place is None else Checkpointer(place / "checkpoints"),
            metrics_file=place and place / "metrics.jsonl",
            remedy=methods.remedy(method),
        )

    if folder is None:
        outcome = trained(None)
    else:
        workspace = Workspace(Path(folder), "unlearned model", "unlearning.json")
        workspace.check(record)
        with workspace.locked():
            workspace.claim(record)
            outcome = trained(workspace.folder)
    found = methods.weights_of(outcome.state)
    if task.predict is None:
        kept = {} if oracle is None else _losses(task, oracle, arrays)
        metrics = _losses(task, found, arrays)
    else:
        known = None if oracle is None else _predictions(task, oracle, arrays)
        kept = {} if known is None else _metrics(known)
        metrics = _metrics(_predictions(task, found, arrays), known)
    return Unlearned(found, metrics | {"seconds": outcome.seconds}, kept)


def _weights(model: Any, given: Any, name: str) -> Weights:
    """Weights in one of the forms that `unlearn_model` takes."""
    if given is None:
        return weights_of(model)
    if isinstance(model, nn.Module) and isinstance(given, Mapping) and "params" in given:
        return Weights(given["params"], {k: v for k, v in given.items() if k != "params"})
    if isinstance(given, tuple) and len(given) == 2:
        return Weights(*given)
    raise InputError(
        f"{name} are a {type(given).__name__}, but must be the pair (params, model_state); an "
        "empty dictionary is a model without state."
    )


def _examples(given: Any, name: str, first: int) -> Examples:
    """Examples from arrays or batches, numbered from `first` on."""
    batches = [given] if _is_batch(given) else list(given)
    if not batches or not all(map(_is_batch, batches)):
        raise InputError(
            f"the {name} data are {type(given).__name__!r}, but must be a pair of images and "
            'labels, a dictionary of "image" and "label", or an iterable of at least one of them.'
        )
    pairs = [(b["image"], b["label"]) if isinstance(b, Mapping) else b for b in batches]
    images, labels = (
        np.concatenate([np.asarray(x) for x in part]) for part in zip(*pairs, strict=True)
    )
    if len(images) == 0:
        raise InputError(f"the {name} data are empty, but must hold at least one example.")
    return Examples(images, labels, first + np.arange(len(images), dtype=np.int32))


def _parted(examples: Mapping[str, Examples]) -> dict[str, Examples]:
    """The test examples, and beside them those of classes that are forgotten as a whole."""
    test, forgotten = examples["test"], np.unique(examples["forget"].label)
    gone = np.isin(test.label, np.setdiff1d(forgotten, examples["retain"].label))
    parts = {"test": test.take(~gone), "test_forget": test.take(gone)}
    return {name: part for name, part in parts.items() if len(part)}


def _is_batch(given: Any) -> bool:
    if isinstance(given, Mapping):
        return {"image", "label"} <= given.keys()
    pair = isinstance(given, tuple | list) and len(given) == 2
    return pair and all(hasattr(each, "shape") for each in given)


def _task(
    model: Any, weights: Weights, examples: Mapping[str, Examples], mean: Any, std: Any
) -> Task:
    """The task of a classifier, with as many classes as it has logits."""
    pure, images = as_model(model), jnp.zeros((1, *examples["forget"].image.shape[1:]))
    outputs, _ = jax.eval_shape(pure.apply, *weights, images)
    logits = outputs[0] if isinstance(outputs, tuple | list) else outputs
    num_classes = logits.shape[-1]
    for name, each in examples.items():
        if each.image.shape[1:] != images.shape[1:]:
            raise InputError(
                f"the {name} images have the shape {each.image.shape[1:]}, but must have "
                f"{images.shape[1:]}, as the forget images."
            )
        if each.label.min() < 0 or each.label.max() >= num_classes:
            raise InputError(
                f"the {name} labels are from {each.label.min()} to {each.label.max()}, but must be "
                f"from 0 to {num_classes - 1}, as the model has {num_classes} outputs."
            )
    shape = images.shape[1:]
    return classification(pure, image_shape=shape, num_classes=num_classes, mean=mean, std=std)


def _initial(model: Any, examples: Mapping[str, Examples]) -> Weights:
    """The shapes of the initial weights of a model or task."""
    if isinstance(model, Task):
        return jax.eval_shape(lambda: Weights(*model.init(jax.random.key(0))))
    pure, images = as_model(model), jnp.zeros((1, *examples["forget"].image.shape[1:]))
    return jax.eval_shape(lambda: Weights(*pure.init(jax.random.key(0), images)))


def _check_weights(wanted: Weights, weights: Weights, what: str) -> None:
    """Raises unless weights have the paths and shapes of the model's own."""
    ours, theirs = (
        {path_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (wanted, weights)
    )
    for path in ours.keys() | theirs.keys():
        if ours.get(path) != theirs.get(path):
            found, needed = (x.get(path, "missing") for x in (theirs, ours))
            raise InputError(
                f"{what} are of another model: {path} is {found}, but must be "
                f"{'left out' if needed == 'missing' else needed}."
            )


def _predictions(task: Task, weights: Weights, arrays: Mapping[str, Arrays]) -> SplitPredictions:
    none = Predictions(np.zeros((0, task.num_classes)), np.zeros(0, np.int32))
    found = {name: predict_with(task, weights, part) for name, part in arrays.items()}
    return SplitPredictions(**{name: found.get(name, none) for name in SplitPredictions._fields})


def _metrics(
    model: SplitPredictions, retrained: SplitPredictions | None = None
) -> dict[str, float]:
    if len(model.test.labels):
        return evaluation.evaluate(model, retrained)
    parts = {name: getattr(model, name) for name in ("forget", "retain", "validation")}
    metrics = {
        f"{name}_accuracy": evaluation.accuracy(each)
        for name, each in parts.items()
        if len(each.labels)
    }
    return metrics if retrained is None else metrics | evaluation.divergences(model, retrained)


def _losses(task: Task, weights: Weights, arrays: Mapping[str, Arrays]) -> dict[str, float]:
    """The mean loss in evaluation mode of each set."""
    return {f"{name}_loss": float(losses(task, weights, x).mean()) for name, x in arrays.items()}
