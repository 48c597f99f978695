"""Latent text-to-image diffusion as a task: labels are prompts, whose text is encoded.

The images are latents of an autoencoder (`jaxunlearn.tasks.latents`). The labels are positions in a
fixed list of prompts, whose last entry is the empty prompt and means no condition. So methods treat
prompts like classes: forgetting a concept is forgetting a class, and an anchor prompt is another
label.

    L(z_0, prompt) = sum or mean over latents of (unet(z_t, t, text(prompt)) - target)^2

The autoencoder is neither trained nor unlearned, but sampling needs it: `with_autoencoder` stores
it in the model state, which no step changes. The model state may also hold the hidden states of the
prompts (`PROMPT_STATES`) if the text encoder is frozen, or others in place of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.process import Process
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.tasks.diffusion import diffusion
from jaxunlearn.types import Conditions, InputError, ModelState, Params, Task

FIRST_STAGE = "first_stage"
PROMPT_STATES = "prompt_states"  # {"states": [P + 1, L, C]}, of a frozen text encoder


class Prompted(nn.Module):
    """A text-conditioned U-Net whose condition is the number of a prompt.

    Its parameters have two parts, "text_encoder" and "unet"; `trainable_subset(task, "^unet/")`
    trains only the U-Net. If the model state holds the hidden states of all prompts
    (`PROMPT_STATES`, from `jaxunlearn.studies.runs.cache`), no text is encoded.

    Attributes:
        text_encoder: map from token ids to hidden states.
        unet: map from noisy latents, timesteps and hidden states to noise.
        ids: token ids of every prompt, `[P + 1][L]`, the empty prompt last.
    """

    text_encoder: TextEncoder
    unet: TextUNet
    ids: tuple[tuple[int, ...], ...]

    def __call__(
        self, latents: jax.Array, timesteps: jax.Array, labels: jax.Array, train: bool = False
    ) -> jax.Array:
        """The noise in latents `[B, H, W, C]`, for timesteps `[B]` and numbers of prompts `[B]`."""
        ids = jnp.asarray(self.ids, jnp.int32)
        if self.has_variable(PROMPT_STATES, "states"):
            states: jax.Array = self.get_variable(PROMPT_STATES, "states")[labels]
        elif len(ids) > len(labels):
            states = self.text_encoder(ids[labels])
        else:  # every prompt is encoded once, however often it is in the batch
            states = self.text_encoder(ids)[labels]
        return self.unet(latents, timesteps, states, train=train)


def latent_diffusion(
    text_encoder: TextEncoder,
    unet: TextUNet,
    process: Process,
    *,
    ids: np.ndarray,
    latent_shape: tuple[int, int, int],
    reduction: str = "mean",
    label_drop: float = 0.1,
    fisher_guidance: float = 0.0,
    guided_channels: int | None = None,
    flip: bool = False,
    sampled: bool = False,
) -> Task:
    """The task of predicting the noise in latents, given a prompt.

    Args:
        text_encoder: the text encoder.
        unet: the U-Net.
        process: the diffusion; Stable Diffusion v1 has the schedule "scaled_linear".
        ids: token ids of every prompt, `[P + 1, L]` from a tokenizer, the empty prompt last.
        latent_shape: shape `(H, W, C)` of the latents.
        reduction: reduction of the squared errors of one example, "sum" or "mean".
        label_drop: fraction of prompts that training replaces by the empty prompt.
        fisher_guidance: guidance of the predictions in Fisher diagonals.
        guided_channels: number of the first channels that it guides; None for all.
        flip: whether training mirrors half of the images, as in `tasks.diffusion`.
        sampled: whether training draws latents from their Gaussians, as in `tasks.diffusion`.

    Returns:
        A `Task` of P prompts, which predicts no classes. `batch["image"]` holds latents.

    Raises:
        InputError: token ids of another shape, or arguments that `tasks.diffusion` refuses.

    Example:
        >>> from jaxunlearn.models import latent
        >>> from jaxunlearn.models.tokenizer import WordTokenizer
        >>> words = WordTokenizer(("a", "coat", "shoe"), length=8)
        >>> encoder = latent.create_text_encoder("tiny", vocabulary=words.size)
        >>> unet = latent.create_text_unet("tiny")
        >>> ids = words.encode(["a coat", "a shoe", ""])
        >>> task = latent_diffusion(encoder, unet, Process(), ids=ids, latent_shape=(4, 4, 4))
        >>> task.num_classes
        2

    Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR
    2022.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or len(ids) < 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"ids have the shape {ids.shape}, but must be the token ids [P + 1, L] of at least one "
            'prompt and the empty one; encode them with a tokenizer, the prompt "" last.'
        )
    model = Prompted(text_encoder, unet, tuple(tuple(int(i) for i in row) for row in ids))
    task = diffusion(
        model,
        process,
        image_shape=latent_shape,
        num_classes=len(ids) - 1,
        reduction=reduction,
        label_drop=label_drop,
        fisher_guidance=fisher_guidance,
        guided_channels=guided_channels,
        flip=flip,
        sampled=sampled,
    )

    def read(params: Params, model_state: ModelState) -> jax.Array:
        if PROMPT_STATES in model_state:
            states: Any = model_state[PROMPT_STATES]["states"]
        else:
            states = text_encoder.apply({"params": params["text_encoder"]}, ids)
        embeddings: jax.Array = states
        return embeddings

    def write(model_state: ModelState, embeddings: jax.Array) -> ModelState:
        return {**model_state, PROMPT_STATES: {"states": embeddings}}

    return task._replace(conditions=Conditions(read, write))


def with_autoencoder(
    task: Task, autoencoder: AutoencoderKL, image_shape: tuple[int, int, int]
) -> Task:
    """The task with the autoencoder in the model state, so that weights alone suffice for sampling.

    The entry `FIRST_STAGE` holds "params" and the "scaling_factor" of the latents; `init` makes
    zeros, to be replaced by learned values.

    Raises:
        InputError: images of `image_shape` do not fit the autoencoder.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    learned = jax.eval_shape(autoencoder.init, jax.random.key(0), image)["params"]
    stage = {"params": learned, "scaling_factor": jax.ShapeDtypeStruct((), jnp.float32)}

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = task.init(key)
        return params, {**model_state, FIRST_STAGE: jax.tree.map(jnp.zeros_like, stage)}

    return task._replace(init=init)
