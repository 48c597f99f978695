"""SalUn (hard): random labels, moving only the parameters that matter most to the forget data."""

import jax
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import begin, descend, weighted
from jaxunlearn.methods._limits import Count, Share
from jaxunlearn.methods._saliency import MaskName, arranged, gradient_mask
from jaxunlearn.methods.objectives import ObjectiveName, Redraw
from jaxunlearn.transforms import SaliencyMaskState, saliency_mask
from jaxunlearn.types import Arrays, LossPair, Method, ModelState, Params, Task, TrainState


def salun(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mask: MaskName = "saliency",
    fraction: Share = 0.5,
    redraw: Redraw = "every_epoch",
    exclude_true_label: bool = False,
    mask_batch_size: Count = 32,
    objective: ObjectiveName = "random_labels",
) -> Method:
    """Random labels with updates masked to the largest `|sum grad L_f|` of the original model.

        theta <- theta - m * opt(grad (L_f + L_r)),   L_f of random labels
        m = 1[|sum g_f| in the top fraction]

    The mask stands last in the chain, so that masked weights stay bit-equal under momentum and
    weight decay.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        mask: "saliency", or "random" for the control: as many parameters, drawn at random.
        fraction: the share of parameters that may move.
        redraw: draw the labels anew "every_epoch", or "once".
        exclude_true_label: never draw the true label.
        mask_batch_size: of the pass that computes the mask.
        objective: the forget objective, a name of `objectives.named`; models that generate take
            "match_anchor", which draws another class in place of the forgotten one.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown mask, `redraw` or objective.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = salun(task, optax.sgd(0.01), fraction=0.5)

    Reference: Fan et al., SalUn, ICLR 2024.
    """
    arrange = arranged(mask)
    chain = optax.chain(optimizer, saliency_mask())

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del retain
        salient = gradient_mask(
            task,
            key,
            params,
            model_state,
            forget,
            fraction=fraction,
            batch_size=mask_batch_size,
        )
        state = begin(chain, key, params, model_state)
        moved = (state.opt_state[0], SaliencyMaskState(arrange(salient, key)))
        return state._replace(opt_state=moved)

    if objective == "random_labels":
        forget_objective = objectives.random_labels(redraw, exclude_true_label)
    else:
        forget_objective = objectives.named(objective, task=task)
    losses = weighted(task, forget_objective, LossPair(1.0, 1.0))
    return descend(losses, chain, init)
