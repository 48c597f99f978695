"""The published sizes of latent diffusion as shapes, made once; layouts as counts and hashes."""

import functools
import hashlib

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxunlearn.models.latent import create_autoencoder, create_text_encoder, create_text_unet

COUNTS = {
    "autoencoder": 83_653_863,
    "text_encoder": 123_060_480,
    "text_unet": 859_520_964,
}
_CREATE = {
    "autoencoder": create_autoencoder,
    "text_encoder": create_text_encoder,
    "text_unet": create_text_unet,
}
_INPUTS = {
    "autoencoder": [((1, 512, 512, 3), "float32")],
    "text_encoder": [((1, 77), "int32")],
    "text_unet": [((1, 64, 64, 4), "float32"), ((1,), "int32"), ((1, 77, 768), "float32")],
}


@functools.cache
def published(part):
    """`(module, variables, inputs)` in bfloat16 with remat; all but the module are shapes."""
    module = _CREATE[part]("sd-v1", dtype="bfloat16", remat=True)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape, dtype in _INPUTS[part]]
    return module, jax.eval_shape(module.init, jax.random.key(0), *inputs), inputs


def layout_of(shapes, naming):
    """The number of stored tensors, and the hash of their names and shapes."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}
    lines = []
    for path, leaf in flatten_dict(shapes).items():
        rank = len(leaf.shape)
        stored = axes[rank] if path[-1] == "kernel" else range(rank)
        lines.append(f"{naming(path)} {[leaf.shape[axis] for axis in stored]}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return {"tensors": len(lines), "sha256": digest}
