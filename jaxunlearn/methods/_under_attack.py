"""A method under attack: an attacker moves before each step and changes its objectives."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxunlearn.types import Batch, Method, Metrics, Task, TrainState

Objectives = tuple[tuple[str, Callable[..., Any]], ...]


class UnderAttack(NamedTuple):
    """The optimizer state of a method with an attacker.

    Attributes:
        opt_state: optimizer state of the method itself.
        attacker: state of the attacker.
    """

    opt_state: Any
    attacker: Any


def under_attack(
    task: Task,
    make: Callable[[Task], Method],
    start: Callable[..., Any],
    move: Callable[..., tuple[Any, Objectives, Metrics]],
) -> Method:
    """The method `make(task)` under attack.

    Args:
        task: the unlearning task.
        make: function that makes the method.
        start: function `(params, model_state) -> attacker`, the attacker's first state.
        move: function `(attacker, state, forget, retain) -> (attacker, objectives, metrics)`: the
            attacker's next state, the objectives of the step, and additional metrics.
    """
    method = make(task)

    def init(key: Any, params: Any, model_state: Any, *data: Any) -> TrainState:
        state = method.init(key, params, model_state, *data)
        attacker = start(state.params, model_state)
        return state._replace(opt_state=UnderAttack(state.opt_state, attacker))

    def within(name: str) -> Callable[..., tuple[TrainState, Metrics]]:
        def taken(
            state: TrainState, forget: Batch, retain: Batch, *rest: Any
        ) -> tuple[TrainState, Metrics]:
            own, attacker = state.opt_state
            attacker, objectives, found = move(attacker, state, forget, retain)
            step = getattr(make(task._replace(objectives=objectives)), name)
            after, metrics = step(state._replace(opt_state=own), forget, retain, *rest)
            after = after._replace(opt_state=UnderAttack(after.opt_state, attacker))
            return after, metrics | found

        return taken

    scaled = method.scaled_step and within("scaled_step")
    return method._replace(init=init, step=within("step"), scaled_step=scaled)
