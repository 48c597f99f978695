"""A task with all of its functions wrapped in the same way."""

from collections.abc import Callable
from typing import Any

from jaxunlearn.types import Task

# (params, model_state, batch, *rest) -> (values [B, ...], model_state)
Function = Callable[..., Any]


def wrapped(task: Task, wrap: Callable[[Function], Function]) -> Task:
    """The task with `wrap` around each of its functions of a batch.

    `predict`, which returns no model state, is wrapped as if it returned an empty one.
    """
    names = ("losses", "outputs", "forget_losses", "saliency_losses")
    functions: dict[str, Any] = {n: wrap(getattr(task, n)) for n in names if getattr(task, n)}
    predict = task.predict
    if predict is not None:
        with_state = wrap(lambda *args: (predict(*args), {}))
        functions["predict"] = lambda *args: with_state(*args)[0]
    return task._replace(**functions)
