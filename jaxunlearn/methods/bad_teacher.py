"""Bad Teacher: a random teacher for the forget data, the original model for the rest."""

import jax
import optax

from jaxunlearn.methods._build import Metrics, Now, Start, descend
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import Teacher, distance_from, keep
from jaxunlearn.types import Batch, Method, ModelState, Params, Task

_TEACHER_CHILD = 5  # of the run's key


def bad_teacher(
    task: Task, optimizer: optax.GradientTransformation, *, retain_weight: NotNegative = 1.0
) -> Method:
    """Imitates a random network on the forget data, and the original model on the retain data.

        L = mean_{i in forget} KL(random(x_i) || student(x_i))
            + retain_weight mean_{j in retain} KL(original(x_j) || student(x_j))

    The random network is `task.init` of a child of the run's key. Both teachers are in evaluation
    mode and see unaugmented examples. Labels are not used.

    Args:
        task: the unlearning task; it needs outputs and a divergence.
        optimizer: any optax optimizer.
        retain_weight: weight of the divergence on the retain data.

    Raises:
        InputError: a task without outputs and divergence.

    Reference: Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023.
    """
    distance = distance_from(task, "bad_teacher")

    def remember(start: Start) -> tuple[Teacher, Teacher]:
        ignorant = Teacher(*task.init(jax.random.fold_in(start.key, _TEACHER_CHILD)))
        return ignorant, keep(start.params, start.model_state)

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        ignorant, original = now.memory
        forget_loss, _ = distance(ignorant, params, now.model_state, forget, now.key)
        retain_loss, model_state = distance(original, params, now.model_state, retain, now.key)
        metrics = {"forget_loss": forget_loss, "retain_loss": retain_loss}
        return forget_loss + retain_weight * retain_loss, (model_state, metrics)

    return descend(loss_fn, optimizer, remember)
