"""Relearning: how fast does a model recover the data that it was made to forget?

The model is trained on the forget data alone, and its accuracy on them is recorded after
each epoch. A model that never saw them learns slowly, a model that merely hides them is quick. The
curve is compared with the curve of the retrained model, on the same batches in the same order.
"""

from typing import Any

from jaxunlearn import evaluation, methods
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.training import programs
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.loop import inputs_of, stretches
from jaxunlearn.types import Arrays, Task, Weights

EPOCHS = 5
SETTINGS: dict[str, Any] = {"learning_rate": 0.01, "learning_rate_schedule": "constant"}
_BATCH_SIZE = 64


def relearning_curve(
    task: Task, weights: Weights, forget: Arrays, num_epochs: int = EPOCHS, seed: int = 0
) -> list[float]:
    """Accuracy in percent on the forget data after 0, 1, ... `num_epochs` epochs on them."""
    size = forget["label"].shape[0]
    batch_size = min(_BATCH_SIZE, size)
    ends = [-(-epoch * size // batch_size) for epoch in range(1, num_epochs + 1)]
    settings = methods.settings(
        "finetune",
        SETTINGS
        | {"num_steps": ends[-1]}
        | dict.fromkeys(("forget_batch_size", "retain_batch_size"), batch_size),
    )
    placement = placement_of()._replace(chunk_steps=ends[0])
    program = programs.of_method(task, "finetune", settings, placement)
    inputs = inputs_of(program, programs.arguments(settings), weights, forget, forget, seed)
    numbers, state, data = inputs[0], program.init(*inputs), inputs[-2:]
    curve = [evaluation.accuracy(predict_with(task, weights, forget))]
    for stretch in stretches(program, numbers, state, lambda step: data, ends):
        relearned = Weights(stretch.state.params, stretch.state.model_state)
        curve.append(evaluation.accuracy(predict_with(task, relearned, forget)))
    return curve
