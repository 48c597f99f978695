"""The stream of examples, and the batches of its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.data import order as data_order

KEY = jax.random.key(0)
visits = jax.jit(data_order.visits, static_argnums=(3, 4))


@pytest.mark.parametrize("per_step", [3, 20])
def test_the_stream_is_one_permutation_after_another(per_step: int) -> None:
    """Every example once per epoch, in another order each time."""
    arrays = {"index": jnp.arange(7)}
    order = visits(KEY, arrays, jnp.int32(0), per_step, 14)
    positions = np.asarray(order["position"]).ravel()
    places = np.arange(positions.size)
    np.testing.assert_array_equal(np.asarray(order["epoch"]).ravel(), places // 7)
    epochs = positions[: positions.size // 7 * 7].reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (len(epochs), 1)))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@pytest.mark.parametrize(("first", "count"), [(0, 4), (5, 4), (10, 4)])
def test_stretches_of_the_stream_fit_together(first: int, count: int) -> None:
    """Wherever a chunk begins and however long it is, it sees the same stream."""
    arrays = {"index": jnp.arange(7)}
    whole = visits(KEY, arrays, jnp.int32(0), 5, 14)
    part = visits(KEY, arrays, jnp.int32(first), 5, count)
    for name in ("position", "epoch"):
        np.testing.assert_array_equal(part[name], whole[name][first : first + count])


@pytest.mark.parametrize(("size", "per_step"), [(7, 5), (7, 1), (100, 3)])
def test_permutations_serve_until_their_epochs_end(size: int, per_step: int) -> None:
    """The same stream, however many steps ago its permutations were drawn."""
    arrays, count = {"index": jnp.arange(size)}, 4
    whole = visits(KEY, arrays, jnp.int32(0), per_step, 70)
    permuted = data_order.shuffled(KEY, arrays, jnp.int32(3), per_step, count)
    until = int(permuted.until)
    ends = (int(permuted.first_epoch) + len(permuted.permutations)) * size
    assert (until - 1 + count) * per_step <= ends < (until + count) * per_step
    assert until >= 3 + max(1, size // per_step - count)
    for first in range(3, until):
        part = data_order.stretch(permuted, jnp.int32(first), per_step, count)
        for name in ("position", "epoch"):
            np.testing.assert_array_equal(part[name], whole[name][first : first + count])


@pytest.mark.parametrize(("size", "per_step"), [(45_000, 1536), (7, 5), (50_000, 256), (1, 64)])
def test_the_order_is_right_where_counts_of_examples_exceed_int32(size: int, per_step: int) -> None:
    """Positions and epochs are those of whole numbers of any size."""
    arrays, first, count = {"index": jnp.arange(size)}, 30_000_000, 2
    permuted = data_order.shuffled(KEY, arrays, jnp.int32(first), per_step, count)
    order = data_order.stretch(permuted, jnp.int32(first), per_step, count)
    places = first * per_step + np.arange(count * per_step).reshape(count, per_step)
    np.testing.assert_array_equal(order["epoch"], places // size)
    assert int(permuted.first_epoch) == first * per_step // size
    ends = (int(permuted.first_epoch) + len(permuted.permutations)) * size
    until = int(permuted.until)
    assert (until - 1 + count) * per_step <= ends < (until + count) * per_step
    for place, position in zip(places[0, :2], order["position"][0, :2], strict=True):
        key = jax.random.fold_in(KEY, int(place // size))
        assert int(position) == int(jax.random.permutation(key, size)[place % size])


def test_a_batch_is_the_examples_of_its_step() -> None:
    arrays = {"index": jnp.array([50, 60, 70]), "label": jnp.array([5, 6, 7])}
    order = {"position": jnp.array([[0, 1], [2, 0]]), "epoch": jnp.array([[0, 0], [0, 1]])}
    batch = data_order.take(arrays, order, jnp.int32(1))
    assert {name: values.tolist() for name, values in batch.items()} == {
        "index": [70, 50],
        "label": [7, 5],
        "epoch": [0, 1],
    }
