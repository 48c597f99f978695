"""Every shipped model is differentiated forwards, and forwards over backwards."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.inception import InceptionV3

pytestmark = pytest.mark.long

IMAGES, NOISY, LABELS = jnp.ones((2, 16, 16, 3)), jnp.ones((2, 8, 8, 1)), jnp.arange(2)
KINDS = {  # a module of each kind, and its inputs
    "mlp": (models.create("mlp-tiny", 4), (IMAGES,)),
    "resnet": (models.create("resnet-tiny", 4), (IMAGES,)),
    "resnet of bottlenecks": (models.create("resnet50", 4, blocks=(1, 1, 1, 1)), (IMAGES,)),
    "vgg": (models.create("vgg-tiny", 4), (IMAGES,)),
    "vit": (models.create("vit-tiny-test", 4), (IMAGES,)),
    "swin": (models.create("swin-tiny-test", 4), (IMAGES,)),
    "ddpm": (denoisers.create("ddpm-tiny", (8, 8, 1), 3), (NOISY, LABELS, LABELS)),
    "dit": (denoisers.create("dit-tiny-test", (8, 8, 1), 3), (NOISY, LABELS, LABELS)),
    "autoencoder": (latent.create_autoencoder("tiny"), (IMAGES,)),
    "text encoder": (latent.create_text_encoder("tiny"), (jnp.ones((2, 8), jnp.int32),)),
    "text unet": (
        latent.create_text_unet("tiny"),
        (jnp.ones((2, 8, 8, 4)), LABELS, jnp.ones((2, 8, 16))),
    ),
    "inception": (InceptionV3(4, divisor=16), (jnp.ones((1, 299, 299, 3)),)),
}


def loss_of(kind: str) -> tuple[Any, Any]:
    """A loss of the parameters of a model, and abstract parameters."""
    module, inputs = KINDS[kind]
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)

    def loss(params: Any, others: Any) -> jax.Array:
        outputs = module.apply({"params": params, **others}, *inputs)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(outputs))

    return loss, variables


def product(loss: Any, params: Any, tangent: Any) -> Any:
    """The Hessian times a vector, forwards over backwards."""
    return jax.jvp(jax.grad(loss), (params,), (tangent,))[1]


@pytest.mark.parametrize("kind", KINDS)
def test_forward_derivatives_and_hessian_vector_products(kind):
    loss, variables = loss_of(kind)

    def both(variables):
        params, others = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def of(p):
            return loss(p, others)

        return jax.jvp(of, (params,), (params,))[1], product(of, params, params)

    slope, curvature = jax.eval_shape(both, variables)
    assert slope.shape == ()
    assert jax.tree.structure(curvature) == jax.tree.structure(variables["params"])


def test_the_product_is_that_of_backwards_over_backwards():
    module = models.create("resnet-tiny", 4, norm="group")
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    tangent = jax.tree.map(jnp.cos, params)

    def loss(params):
        return jnp.mean(jax.nn.logsumexp(module.apply({"params": params}, images), axis=1))

    def slope(params):
        terms = jax.tree.map(jnp.vdot, jax.grad(loss)(params), tangent)
        return sum(jax.tree.leaves(terms))

    got, wanted = jax.jit(lambda p: (product(loss, p, tangent), jax.grad(slope)(p)))(params)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
