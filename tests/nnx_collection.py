"""A stand-in for a public collection of NNX models: its interface, at a tiny size."""

from dataclasses import dataclass

from flax import nnx


@dataclass(frozen=True)
class Config:
    num_classes: int = 10
    depth: int = 2
    width: int = 4


class Layer(nnx.Module):
    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(config.width, config.width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(config.width, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.conv(x)))


class VisionModel(nnx.Module):
    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, config.width, (3, 3), rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.depth)])
        self.dropout = nnx.Dropout(0.1)
        self.head = nnx.Linear(config.width, config.num_classes, rngs=rngs)

    def __call__(self, x, *, rngs: nnx.Rngs | None = None):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.dropout(x.mean((1, 2)), rngs=rngs))
