"""Bad Teacher: learn from one who knows nothing about the forget data, and the rest as before."""

import jax
import optax

from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import Teacher, distance_from, keep
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState

_TEACHER_CHILD = 5  # of the run's key


def bad_teacher(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    retain_weight: NotNegative = 1.0,
) -> Method:
    """Descends the divergence from a random network on forget data, from the original on retain.

        L = mean_{i in forget} KL(random(x_i) || student(x_i))
            + retain_weight mean_{j in retain} KL(original(x_j) || student(x_j))

    The random network is `task.init` of a child of the run's key. Both teachers are in evaluation
    mode and see the examples without augmentation. No label is used.

    Args:
        task: what is unlearned; it needs outputs and a divergence.
        optimizer: any optax optimizer.
        retain_weight: of the retain data.

    Returns:
        A `Method`.

    Raises:
        InputError: a task without outputs and divergence.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = bad_teacher(task, optax.adam(1e-4))

    Reference: Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023.
    """
    distance = distance_from(task, "bad_teacher")

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(optimizer, key, params, model_state)
        ignorant = Teacher(*task.init(jax.random.fold_in(key, _TEACHER_CHILD)))
        return state._replace(opt_state=(state.opt_state, ignorant, keep(params, model_state)))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        optimizer_state, ignorant, original = state.opt_state

        def loss_fn(params: Params) -> tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]:
            forget_loss, _ = distance(ignorant, params, state.model_state, forget, key)
            retain_loss, model_state = distance(original, params, state.model_state, batch, key)
            metrics = {"forget_loss": forget_loss, "retain_loss": retain_loss}
            return forget_loss + retain_weight * retain_loss, (model_state, metrics)

        grads, (model_state, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        opt_state = (optimizer_state, ignorant, original)
        return advance(state, updates, opt_state, model_state), metrics

    return Method(init, step)
