"""EU-k: exact unlearning of the last k layers, by retraining them from fresh weights."""

import jax
import optax

from jaxunlearn.methods._last_layers import train_last_layers
from jaxunlearn.methods._limits import Count
from jaxunlearn.types import Method, Params, Task

_FRESH_CHILD = 10  # of the run's key


def eu_k(task: Task, optimizer: optax.GradientTransformation, *, num_layers: Count = 2) -> Method:
    """Draws the last k layers afresh and trains them on the retain data; the others stay.

        theta_last = fresh;   theta_last <- theta_last - opt(grad_last L_r)

    What the last layers knew of the forget data is gone for certain; what the others know stays.

    Args:
        task: what is unlearned; its parameters are a dictionary with one entry per layer.
        optimizer: any optax optimizer.
        num_layers: k, counted in top-level entries of the parameters, in the order in which the
            model makes them: 1 is the head, all of them are retraining.

    Returns:
        A `Method`.

    Raises:
        InputError: parameters that are no dictionary, or more layers than there are.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = eu_k(task, optax.sgd(0.1), num_layers=1)

    Reference: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning
    (arXiv 2201.06640), 2022.
    """

    def start(key: jax.Array, params: Params, layers: tuple[str, ...]) -> Params:
        fresh, _ = task.init(jax.random.fold_in(key, _FRESH_CHILD))
        return params | {name: fresh[name] for name in layers}

    return train_last_layers(task, optimizer, num_layers, start)
