"""A diffusion task so small that compiling it costs little; its output is linear in the label."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxunlearn.models.process import Process
from jaxunlearn.tasks import diffusion

KEY = jax.random.key(0)
SHAPE, CLASSES = (4, 4, 1), 3
PROCESS = Process(50)


class Toy(nn.Module):
    """One linear layer of pixels, an embedding of the label, and dropout."""

    rate: float = 0.0
    channels: int = 1

    @nn.compact
    def __call__(self, images, timesteps, labels, train=False):
        x = images.reshape(images.shape[0], -1)
        x = jnp.concatenate([x, timesteps[:, None] / 50.0], axis=-1)
        x = nn.Dense(16 * self.channels)(x) + nn.Embed(CLASSES + 1, 16 * self.channels)(labels)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return x.reshape(*images.shape[:-1], self.channels)


def toy(model=Toy(), process=PROCESS, **settings):
    settings = {"reduction": "sum"} | settings
    return diffusion(model, process, image_shape=SHAPE, num_classes=CLASSES, **settings)


def batch_of(size=6):
    return {
        "image": jax.random.uniform(KEY, (size, *SHAPE), minval=-1.0),
        "label": jnp.arange(size) % CLASSES,
        "index": jnp.arange(size),
        "epoch": jnp.zeros(size, jnp.int32),
    }
