"""Models that compute in bfloat16: weights, optimizer, multiplier and losses stay float32.

Looked at in the program before it is compiled, so every method can be.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from jaxunlearn import methods, models
from jaxunlearn.models import denoisers
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import classification, diffusion
from tests.methods.cases import CONVOLUTIONAL, GENERATING

SHAPE = (8, 8, 1)
CLASSIFYING = [n for n in methods.available() if n not in (*GENERATING, *CONVOLUTIONAL)]
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)


def task_of(name):
    if name not in GENERATING:
        model = models.create("mlp-tiny", 3, dtype="bfloat16")
        return classification(model, image_shape=SHAPE, num_classes=3)
    model = denoisers.create("dit-tiny-test", SHAPE, 3, dtype="bfloat16")
    return diffusion(model, Process(10), image_shape=SHAPE, num_classes=3)


def examples(*lead):
    kinds = {"image": (SHAPE, jnp.uint8), "label": ((), jnp.int32), "index": ((), jnp.int32)}
    return {name: jax.ShapeDtypeStruct((*lead, *s), dtype) for name, (s, dtype) in kinds.items()}


def batch(*lead):
    return examples(*lead) | {"epoch": jax.ShapeDtypeStruct(lead, jnp.int32)}


def equations(jaxpr):
    """All equations of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", [*CLASSIFYING, "esd"])
def test_a_step_in_bfloat16_keeps_its_state_and_its_losses_in_float32(name):
    task = task_of(name)
    settings = methods.settings(name, {"optimizer": "adamw", "num_steps": 16})
    method = methods.build(task, name, settings)
    weights = jax.eval_shape(task.init, KEY)
    state = jax.eval_shape(method.init, KEY, *weights, examples(8), examples(8))
    batches = batch(4), batch(method.retain_batches, 4)
    program, (after, metrics) = jax.make_jaxpr(method.step, return_shape=True)(state, *batches)

    assert after == state
    kinds = {leaf.dtype for leaf in jax.tree.leaves((after, metrics))}
    assert {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)} == {jnp.dtype("float32")}

    made = [
        (equation.primitive.name, out.aval)
        for equation in equations(program.jaxpr)
        for out in equation.outvars
        if getattr(out.aval, "dtype", None) == jnp.bfloat16
    ]
    assert "dot_general" in {kind for kind, _ in made}  # the model does compute in bfloat16
    assert not [kind for kind, value in made if "reduce" in kind and value.shape in ((), (4,))]
