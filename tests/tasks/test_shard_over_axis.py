"""Batches in shares on all devices: the numbers of the whole batch, whatever is made of them."""

import jax
import jax.numpy as jnp
import pytest

from jaxunlearn.tasks.microbatched import microbatched
from jaxunlearn.tasks.shard_over_axis import check_shares, shard_over_axis
from jaxunlearn.training.devices import make_mesh, mapped
from jaxunlearn.types import InputError
from tests import toy, toy_diffusion
from tests.helpers import assert_trees_close

KEY = jax.random.key(0)
CLASSIFIER, DENOISER = toy.WITHOUT_STATISTICS, toy_diffusion.toy()


def batch_of(size):
    return toy.nth_batch(toy.problem().retain, 0, size)


CASES = {  # 7 examples do not divide
    "classifier": (CLASSIFIER, [batch_of(8), batch_of(7)], ("outputs", "predict")),
    "denoiser": (DENOISER, [toy_diffusion.batch_of(8)], ("forget_losses",)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_whole_batch(case):
    """Under any weights of the examples, by parameters and images; a share in micro-batches too."""
    task, batches, names = CASES[case]
    params, _ = task.init(KEY)

    def values_and_gradients(task, batch, names):
        found = []
        for name in names:

            def value(params, image, name=name):
                rest = () if name == "predict" else (KEY, True)
                result = getattr(task, name)(params, {}, batch | {"image": image}, *rest)
                return jax.tree.leaves(result)[0]

            values, pull = jax.vjp(value, params, batch["image"])
            weights = jnp.cos(jnp.arange(values.size, dtype=jnp.float32))
            found.append((values, *pull(weights.reshape(values.shape))))
        return found

    def in_shares():
        micro = shard_over_axis(microbatched(task, 2), "axis")
        whole = [
            values_and_gradients(shard_over_axis(task, "axis"), batch, names) for batch in batches
        ]
        return *whole, values_and_gradients(micro, batches[0], names[:1])

    *found, small = jax.jit(mapped(in_shares, make_mesh(2), "axis"))()
    expected = jax.jit(lambda: [values_and_gradients(task, batch, names) for batch in batches])()
    assert_trees_close(found, expected)
    assert_trees_close(small, expected[0][:1])


def test_pairs_stay_together():
    check_shares(DENOISER, 4, forget_batch_size=8)
    check_shares(CLASSIFIER, 4, forget_batch_size=4)
    with pytest.raises(
        InputError, match="batch_size is 12, but must be a multiple of 8 under pmap.* nearest is 16"
    ):
        check_shares(DENOISER, 4, forget_batch_size=12)
