"""One small residual network of convolutions, BatchNorm and dropout, in three frameworks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxunlearn.types import Model

WIDTH, MOMENTUM = 4, 0.9


class LinenBlock(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, train):
        h = nn.Conv(WIDTH, (3, 3), name="conv")(x)
        h = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, name="norm")(h)
        return x + nn.Dropout(self.rate, deterministic=not train)(nn.relu(h))


class LinenNet(nn.Module):
    num_classes: int = 3
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(WIDTH, (3, 3), name="stem")(x)
        for i in range(2):
            x = LinenBlock(self.rate, name=f"block{i}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, rate, rngs):
        self.conv = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=MOMENTUM, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.uint32))

    def __call__(self, x):
        self.calls[...] += jnp.uint32(1)
        return x + self.drop(nnx.relu(self.norm(self.conv(x))))


class Net(nnx.Module):
    def __init__(self, num_classes=3, rate=0.0, *, rngs):
        self.stem = nnx.Conv(1, WIDTH, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(rate, rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class EquinoxBlock(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout

    def __init__(self, rate, key):
        self.conv = eqx.nn.Conv2d(WIDTH, WIDTH, 3, padding=1, key=key)
        self.norm = eqx.nn.BatchNorm(WIDTH, "batch", momentum=MOMENTUM, mode="batch")
        self.drop = eqx.nn.Dropout(rate)

    def __call__(self, x, state, key):
        h, state = self.norm(self.conv(x), state)
        return x + self.drop(jax.nn.relu(h), key=key), state


class EquinoxNet(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: list[EquinoxBlock]
    head: eqx.nn.Linear
    offset: jax.Array

    def __init__(self, num_classes=3, rate=0.0, *, key):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(1, WIDTH, 3, padding=1, key=keys[0])
        self.blocks = [EquinoxBlock(rate, key) for key in keys[1:3]]
        self.head = eqx.nn.Linear(WIDTH, num_classes, key=keys[3])
        self.offset = jnp.zeros((), jnp.int32)

    def __call__(self, x, state, *, key=None):
        x = self.stem(jnp.moveaxis(x, -1, 0))
        for i, block in enumerate(self.blocks):
            x, state = block(x, state, None if key is None else jax.random.fold_in(key, i))
        return self.head(x.mean((1, 2))) + self.offset, state


def pair(num_classes, scale=0.1):
    """A linear model of two bare functions."""

    def init(key, images):
        kernel = scale * jax.random.normal(key, (images[0].size, num_classes))
        return {"head": {"kernel": kernel}}, {}

    def apply(params, model_state, images, key=None, train=False):
        return images.reshape(len(images), -1) @ params["head"]["kernel"], model_state

    return Model(init, apply)


class Denoiser(nnx.Module):
    def __init__(self, image_shape, num_classes, *, rngs):
        channels = image_shape[-1]
        self.embed = nnx.Embed(num_classes + 1, channels, rngs=rngs)
        self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, images, timesteps, labels):
        return self.conv(images + self.embed(labels)[:, None, None])


class Wrong(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.head = nnx.Linear(5, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.head(images.reshape(len(images), -1))


made = Net(10, rngs=nnx.Rngs(0))
