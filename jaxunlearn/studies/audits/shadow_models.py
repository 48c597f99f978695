"""Shadow models: many models, each trained on data of its own.

K shadow models come in pairs. Of the examples that models may learn from, some are *targets*: twice
as many as a request forgets. The two models of a pair forget complementary random halves of them:

    trained    on retain + own half,            every other example being the other's half
    unlearned  from these weights, own half forgotten
    retrained  on retain alone, from new weights

So each target is unlearned by exactly one model of each pair, and never seen by the other, and all
sets have fixed sizes: one program serves all models.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.methods.objectives import needs_teachers, needs_unseen
from jaxunlearn.studies.runs.teachers import with_taught
from jaxunlearn.studies.runs.unseen import with_confidences, with_unseen
from jaxunlearn.training import programs
from jaxunlearn.training.devices import Placement
from jaxunlearn.training.groups import Member, at_once, run_many
from jaxunlearn.types import Arrays, InputError, Task, Weights

LEAST_SHADOWS = 6


class Plan(NamedTuple):
    """The data of each shadow model, as positions among the P examples to learn from.

    Attributes:
        retain: examples that all models learn and keep, sorted.    # shape=(R,), dtype=int64
        targets: examples that are attacked, sorted; R + T = P.     # shape=(T,), dtype=int64
        forgotten: whether a model learns and unlearns a target.    # shape=(K, T), dtype=bool
    """

    retain: np.ndarray
    targets: np.ndarray
    forgotten: np.ndarray

    def forget(self, shadows: slice) -> np.ndarray:
        """The forget sets of some models, `[G, T / 2]`."""
        return np.stack([self.targets[mask] for mask in self.forgotten[shadows]])


def plan_shadows(num_examples: int, num_shadows: int, fraction: float, seed: int) -> Plan:
    """Draws targets and forget sets.

    A model forgets `fraction` of what it learned: with P examples in all, F of them forgotten and
    as many unseen, `F = fraction (P - F)`.

    Example:
        >>> plan = plan_shadows(110, 6, 0.1, seed=0)
        >>> len(plan.targets), len(plan.retain), plan.forgotten.sum(axis=0).tolist()[:3]
        (20, 90, [3, 3, 3])
    """
    if num_shadows < LEAST_SHADOWS or num_shadows % 2:
        raise InputError(
            f"shadows is {num_shadows}, but must be an even number of at least {LEAST_SHADOWS}: "
            "they come in pairs, and Gaussians are fitted to all pairs but one; 16, 64 and 256 are "
            "usual."
        )
    count = round(num_examples * fraction / (1 + fraction))
    if count < 1 or 2 * count >= num_examples:
        raise InputError(
            f"a fraction of {fraction:g} makes {2 * count} of {num_examples} examples targets, but "
            "there must be at least 2, and other examples beside them; choose another fraction or "
            "more data."
        )
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(2,))))
    order = rng.permutation(num_examples)
    halves = np.zeros((num_shadows, 2 * count), bool)
    for pair in range(0, num_shadows, 2):
        halves[pair, rng.permutation(2 * count)[:count]] = True
        halves[pair + 1] = ~halves[pair]
    return Plan(np.sort(order[2 * count :]), np.sort(order[: 2 * count]), halves)


def sides(forgotten: np.ndarray, values: np.ndarray, unlearned: bool) -> np.ndarray:
    """Values `[K / 2, N]` of one model of each pair: the one that forgot the example, or the other.

    `values` are `[K, N]`, and so is `forgotten`, like that of a `Plan`.

    Example:
        >>> forgotten = np.array([[True, False], [False, True]])
        >>> sides(forgotten, np.array([[1, 2], [3, 4]]), unlearned=True).tolist()
        [[1, 4]]
    """
    first = forgotten[0::2] == unlearned
    return np.where(first, values[0::2], values[1::2])


def train(
    task: Task,
    method: str,
    settings: dict[str, Any],
    keys: jax.Array,
    starts: Iterable[Weights],
    pool: Arrays,
    forget: Sequence[np.ndarray],
    retain: Sequence[np.ndarray],
    copied: Arrays | None = None,
    judged: Arrays | None = None,
    placement: Placement | None = None,
    recipe: dict[str, Any] | None = None,
    num_steps: int | None = None,
) -> list[Weights | None]:
    """Runs a method on G shadow models, as many at once as suits the machine.

    `forget` and `retain` are positions in the pool for each model. No model learns the validation
    data: `copied` is for objectives that end at unseen data, `judged` for guards. `recipe` has the
    settings of pretraining, for teachers. With `num_steps`, the runs end after that many of their
    steps. A diverged model has weights of None.
    """
    numbers = programs.arguments(settings, judged)

    def members() -> Iterator[Member]:
        before, kept = None, {}  # neighbours with one retain set share its examples
        for key, start, forgotten, retained in zip(keys, starts, forget, retain, strict=True):
            examples = _chosen(pool, forgotten)
            if retained is not before:
                before, kept = retained, _chosen(pool, retained)
            if recipe is not None and copied is not None and needs_teachers(settings):
                given = start, examples, copied, kept
                examples = with_taught(task, settings, recipe, key, *given, placement)
            elif copied is not None and needs_unseen(settings):
                examples = with_unseen(task, start, copied, examples)
            ours = with_confidences(task, start, kept) if "keep_weight" in settings else kept
            yield Member(numbers, key, start, examples, ours)

    finished = run_many(
        programs.of_method(task, method, settings, placement),
        members(),
        num_steps=settings["num_steps"] if num_steps is None else num_steps,
        most=at_once(len(keys)),
    )
    return [each.weights for each in finished]


@jax.jit
def _chosen(pool: Arrays, positions: jax.Array) -> Arrays:
    return {name: values[positions] for name, values in pool.items()}


@functools.partial(jax.jit, static_argnums=0)
def new_weights(task: Task, key: jax.Array) -> Weights:
    """Fresh weights of a model."""
    return Weights(*task.init(key))
