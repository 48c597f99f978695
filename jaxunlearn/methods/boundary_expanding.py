"""Boundary expanding (BE): an extra shadow class takes the forget data in, and is then dropped."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import advance, begin, predict_of
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import cross_entropy
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState

_SHADOW_CHILD = 8  # of the run's key


def boundary_expanding(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Descends the loss of the forget data against a shadow class that the model does not keep.

        s = <u, z> + b,   z = outputs(x) of C classes
        L_f = - mean_i log softmax([z_i, s_i])_{C+1}

    Parameters, `u` and `b` are learned together; `u` and `b` live beside the optimizer's state, so
    the weights that come out are those of a model of C classes. `u` starts at random with the
    variance 1 / C, `b` at 0. Nothing guards the rest; running statistics stay as they are.

    In the paper the shadow class is one more unit of the last layer, which sees the features. A
    task does not show features, so here it is an affine function of the logits: it can tell apart
    only what the logits tell apart.

    Args:
        task: what is unlearned; its outputs must be logits `[B, C]`.
        optimizer: any optax optimizer.

    Returns:
        A `Method`.

    Raises:
        InputError: a task without outputs and divergence.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = boundary_expanding(task, optax.sgd(1e-3))

    Reference: Chen et al., Boundary Unlearning, CVPR 2023.
    """
    predict_of(task, "boundary_expanding")
    outputs = outputs_of(task, "boundary_expanding")

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        draw = jax.random.normal(jax.random.fold_in(key, _SHADOW_CHILD), (task.num_classes,))
        shadow = {"kernel": draw / jnp.sqrt(task.num_classes), "bias": jnp.zeros([])}
        state = begin(optax.identity(), key, params, model_state)
        return state._replace(opt_state=(optimizer.init((state.params, shadow)), shadow))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del retain
        key = jax.random.wrap_key_data(state.key)
        optimizer_state, shadow = state.opt_state

        def loss_fn(both: tuple[Params, Params]) -> jax.Array:
            params, extra = both
            logits, _ = outputs(params, state.model_state, forget, key, True)
            shadows = logits @ extra["kernel"] + extra["bias"]
            expanded = jnp.concatenate([logits, shadows[:, None]], axis=1)
            wanted = jnp.full(len(logits), task.num_classes)
            return jnp.mean(cross_entropy(expanded, wanted))

        both = (state.params, shadow)
        loss, grads = jax.value_and_grad(loss_fn)(both)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, both)
        opt_state = (optimizer_state, optax.apply_updates(shadow, updates[1]))
        return advance(state, updates[0], opt_state, state.model_state), {"forget_loss": loss}

    return Method(init, step)
