"""Learning from the retain data alone: retraining, the oracle of every comparison, and fine-tuning.

Both descend the retain loss, from new weights or from the original model.
"""

import jax
import optax

from jaxunlearn.methods._build import Metrics, Now, descend
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import Batch, Method, ModelState, Params, Task


def retrain(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Descends the retain loss from the given weights: `theta <- theta - opt(grad L_r)`.

    From new weights, this gives the retrained model, or with all training data as retain data the
    original model.

    Args:
        task: the learning task.
        optimizer: any optax optimizer.
    """

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del forget
        loss, model_state = retain_loss(task, params, now.model_state, retain, now.key)
        return loss, (model_state, {"retain_loss": loss})

    return descend(loss_fn, optimizer)


def finetune(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Fine-tuning (FT): continues the training of the original model on the retain data.

        theta <- theta - opt(grad L_r(theta)),   theta_0 of the original model

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.

    Reference: Warnecke et al., Machine Unlearning of Features and Labels, NDSS 2023.
    """
    return retrain(task, optimizer)
