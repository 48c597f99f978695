"""Forget objectives of models that generate images.

| objective | descends |
| --- | --- |
| match_anchor | `|out(x_t, t, c) - sg out(x_t, t, a)|^2`, a the anchor of the class c |
| match_noise | `L(u, c)`, u uniform in [-1, 1]: the class becomes noise |
| esd | `|out(c) - (out_0(null) - eta (out_0(c) - out_0(null)))|^2`, `out(c) = out(x_t, t, c)` |
| spm | the same with the anchor in place of null |
| concept_ablation | `|out(x_r, t, c) - sg out(x_r, t, c_r)|^2`, `(x_r, c_r)` from retain data |

out_0 is the original model. `remembering` gives it to a method, and `showing_retain` retain data;
`methods.build` calls them for the objectives that need them.
"""

import jax
import jax.numpy as jnp

from jaxunlearn.methods._original import original_outputs, shown_examples
from jaxunlearn.methods.objectives import check_conditional
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task, example_keys


def match_anchor(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    anchor_guidance: float | jax.Array | None = None,
    embeddings: jax.Array | None = None,
) -> jax.Array:
    """Forget images are denoised as if they showed another class.

        mean_i |out(x_t, t, c_i) - sg out(x_t, t, a_i)|^2

    The anchor a_i is `batch["anchor"]` if the batch has one, else the next class. With guidance w
    the target is `(1 + w) out(x_t, t, a_i) - w out(x_t, t, null)`. With `embeddings` c*, the value
    is the mean of the values at c_i and at c*_i.

    Args:
        task: the task of diffusion.
        params: parameters of the model.
        model_state: everything else of the model.
        batch: forget batch; its "anchor" is a class `[B]`, or bool `[B, C]`, the classes from which
            each visit draws one.
        key: key of the run.
        anchor_guidance: guidance w of the target; None for no guidance.
        embeddings: c*, embeddings of all labels, as `task.conditions` writes them.

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025; Fan et al. (SalUn), ICLR 2024.
    """
    assert task.divergence is not None
    check_conditional(task, "match_anchor")

    def output(label: jax.Array, state: ModelState = model_state) -> jax.Array:
        assert task.outputs is not None
        return task.outputs(params, state, batch | {"label": label}, key, True)[0]

    target = output(anchors_of(task, batch, key))
    if anchor_guidance is not None:
        nothing = output(no_label(task, batch, "anchor_guidance"))
        target = (1.0 + anchor_guidance) * target - anchor_guidance * nothing
    target = jax.lax.stop_gradient(target)
    distance = jnp.mean(task.divergence(target, output(batch["label"])))
    if embeddings is None:
        return distance
    assert task.conditions is not None
    found = output(batch["label"], task.conditions.write(model_state, embeddings))
    return (distance + jnp.mean(task.divergence(target, found))) / 2.0


def anchors_of(task: Task, batch: Batch, key: jax.Array) -> jax.Array:
    """The anchor of each example of a forget batch at this visit, `[B]`."""
    anchor = batch.get("anchor", (batch["label"] + 1) % task.num_classes)
    if anchor.ndim == 1:
        return anchor
    draw = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 7), anchor.shape[1:]))
    return jnp.argmax(jnp.where(anchor, draw(example_keys(key, batch)), -1.0), axis=1)


def match_noise(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    image_shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """The forgotten class becomes uniform noise: the loss of the class on images of noise.

    The noise has the shape of the images of the batch, or `image_shape`.

    Reference: Heng and Soh, Selective Amnesia, NeurIPS 2023.
    """
    assert task.forget_losses is not None
    if not task.conditional:
        raise InputError(
            "objective is 'match_noise', but must be another for a model without classes "
            "(num_classes is None), whose images would all become noise; choose 'ascent', or a "
            "model with classes."
        )
    shape = image_shape or batch["image"].shape[1:]
    images = jax.vmap(
        lambda k: jax.random.uniform(jax.random.fold_in(k, 4), shape, minval=-1.0, maxval=1.0)
    )(example_keys(key, batch))
    losses, _ = task.forget_losses(params, model_state, batch | {"image": images}, key, True)
    return jnp.mean(losses)


def esd(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    negative_guidance: float | jax.Array = 1.0,
) -> jax.Array:
    """Forget images are denoised as the original model does, guided away from their class.

        mean_i |out(c_i) - (out_0(null) - eta (out_0(c_i) - out_0(null)))|^2

    The paper samples x_t from the original model; here it is a noisy forget example.

    Reference: Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023.
    """
    neutral = no_label(task, batch, "objective esd")
    return _erased(task, params, model_state, batch, key, neutral, negative_guidance)


def spm(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    negative_guidance: float | jax.Array = 2.0,
) -> jax.Array:
    """Forget images are denoised as their anchor is by the original model, and beyond.

        mean_i |out(c_i) - (out_0(a_i) - eta (out_0(c_i) - out_0(a_i)))|^2

    a_i is the anchor, as in `match_anchor`. The paper samples x_t by partial denoising; here it is
    a noisy forget example. Its anchoring loss is the setting `retain_objective="match_original"`.

    Reference: Lyu et al., One-dimensional Adapter to Rule Them All (SPM), CVPR 2024.
    """
    neutral = anchors_of(task, batch, key)
    return _erased(task, params, model_state, batch, key, neutral, negative_guidance)


def _erased(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    neutral: jax.Array,
    negative_guidance: float | jax.Array,
) -> jax.Array:
    assert task.outputs is not None and task.divergence is not None
    with_label, without = (
        original_outputs(task, model_state, batch | {"label": label}, key, True)
        for label in (batch["label"], neutral)
    )
    target = without - negative_guidance * (with_label - without)
    answer, _ = task.outputs(params, model_state, batch, key, True)
    return jnp.mean(task.divergence(target, answer))


def concept_ablation(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Images of other classes are denoised for the forgotten class as for their own.

        mean_i |out(x_r, t, c_i) - sg out(x_r, t, c_r)|^2,    (x_r, c_r) from retain data

    So the anchors are the remaining classes; the images of the forget batch are not used.

    Reference: Kumari et al., Ablating Concepts in Text-to-Image Diffusion Models, ICCV 2023, in its
    model-based form with real anchor images.
    """
    assert task.outputs is not None and task.divergence is not None
    check_conditional(task, "concept_ablation")
    shown = shown_examples(batch)
    wanted, _ = task.outputs(params, model_state, shown, key, True)
    asked = shown | {"label": batch["label"]}
    answer, _ = task.outputs(params, model_state, asked, key, True)
    return jnp.mean(task.divergence(jax.lax.stop_gradient(wanted), answer))


def no_label(task: Task, batch: Batch, what: str) -> jax.Array:
    """The label that means no class, `[B]`."""
    return jnp.full_like(batch["label"], null_label_of(task, what))


def null_label_of(task: Task, what: str) -> int:
    """The label for "no class"; an InputError that names `what` if the model has none."""
    if task.null_label is None:
        raise InputError(
            f"{what} needs a model with a label for 'no class', but this one has none; choose "
            "another, such as concept_ablation, or a model that was trained with dropped labels."
        )
    return task.null_label


OBJECTIVES = (
    ("match_anchor", match_anchor),
    ("esd", esd),
    ("spm", spm),
    ("concept_ablation", concept_ablation),
)
