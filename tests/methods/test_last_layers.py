"""CF-k and EU-k: the last layers are trained, from the old or new weights; the others stay."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods, models
from jaxunlearn.methods.last_layers import last_layers
from jaxunlearn.tasks import classification
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner

STRONG = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}


@pytest.mark.parametrize("method", ["cf_k", "eu_k"])
def test_earlier_layers_stay_bit_equal(method: str) -> None:
    """Under momentum and weight decay; the last one moves in each of its entries."""
    run = toy.runner(method, num_layers=1).run(4, **STRONG)
    original = toy.problem().params
    assert_trees_equal(run.end.params["kernel"], original["kernel"])
    for x, y in zip(*map(jax.tree.leaves, (run.end.params, run.start.params)), strict=True):
        assert x is run.end.params["kernel"] or np.all(x != y)


def test_the_last_layer_descends_the_retain_loss(retain_by_hand: Any) -> None:
    run = toy.runner("cf_k", num_layers=1).run(1, learning_rate=0.3, momentum=0.0, weight_decay=0.0)
    batch = toy.nth_batch(toy.problem().retain, 0, toy.RETAIN_BATCH)
    loss, model_state, grads = retain_by_hand(run.start.params, run.start.model_state, batch)
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, run.start.params["head"], grads["head"])
    assert_trees_close(run.end.params["head"], expected)
    assert_trees_close(run.end.model_state, model_state)
    assert np.isclose(run.metrics[0]["retain_loss"], loss, rtol=1e-5)


def test_all_layers_are_finetuning() -> None:
    ours, reference = runner("cf_k").run(**STRONG), runner("finetune").run(**STRONG)
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)


def test_the_optimizer_remembers_the_last_layers_only() -> None:
    state = jax.eval_shape(lambda: toy.runner("cf_k", num_layers=1).start().opt_state)
    held = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (toy.HIDDEN, toy.CLASSES) in held and (toy.INPUTS, toy.HIDDEN) not in held


@pytest.mark.parametrize(
    ("model", "size", "names"),
    [
        ("mlp", 8, ("hidden1", "hidden2", "head")),
        ("resnet-tiny", 8, ("stem_norm", "stage1_block1", "stage2_block1", "head")),
        ("vgg-tiny", 8, ("stage2_norm1", "stage3_conv1", "stage3_norm1", "head")),
        ("vit-tiny-test", 8, ("position", "block1", "block2", "norm", "head")),
    ],
)
def test_layers_count_in_the_order_of_the_model(
    model: str, size: int, names: tuple[str, ...]
) -> None:
    """Not in that of the alphabet, by which JAX sorts dictionaries; inside of jit too."""
    task = classification(models.create(model, 3), image_shape=(size, size, 1), num_classes=3)
    assert last_layers(task, len(names)) == names
    found: list[tuple[str, ...]] = []
    jax.jit(lambda: found.append(last_layers(task, 2)) or 0)()  # type: ignore[func-returns-value]
    assert found == [names[-2:]]


def test_a_model_of_one_layer_has_one_choice() -> None:
    single = toy.TASK._replace(init=lambda key: ({"head": toy.TASK.init(key)[0]["head"]}, {}))
    with pytest.raises(InputError, match="num_layers is 2, but must be 1, since .* model is head"):
        last_layers(single, 2)


@pytest.mark.parametrize("method", [methods.cf_k, methods.eu_k])
@pytest.mark.parametrize("num_layers", [0, 3])
def test_more_layers_than_there_are_is_refused(method: Any, num_layers: int) -> None:
    message = f"num_layers is {num_layers}, but must be from 1 to 2, .* are kernel, head"
    with pytest.raises(InputError, match=message):
        method(toy.TASK, optax.sgd(0.1), num_layers=num_layers)


def test_parameters_without_names_are_refused() -> None:
    task = toy.TASK._replace(init=lambda key: ([jnp.zeros(2)], {}))
    with pytest.raises(InputError, match="the parameters are a list, but must be a dictionary"):
        methods.cf_k(task, optax.sgd(0.1))


def test_the_last_layers_are_drawn_afresh_by_the_key() -> None:
    """As `task.init` draws them; another seed draws others."""
    method = toy.runner("eu_k", num_layers=1)
    original = toy.problem().params
    first, again, other = (method.start(seed).params for seed in (0, 0, 1))
    assert_trees_equal(first, again)
    assert_trees_equal(first["kernel"], original["kernel"])
    for params in (original, other):
        assert np.all(params["head"]["kernel"] != first["head"]["kernel"])
    np.testing.assert_array_equal(first["head"]["bias"], 0.0)  # the toy's biases start there


def test_the_end_does_not_hang_on_the_original_last_layers() -> None:
    method, problem = toy.runner("eu_k", num_layers=1), toy.problem()
    numbers = {name: np.float32(value) for name, value in method.numbers.items()}
    spoiled = problem.params | {"head": jax.tree.map(lambda x: x + 1.0, problem.params["head"])}
    key = jax.random.key(0)
    ours, same = (
        method.init(numbers, key, params, *problem[1:]) for params in (problem.params, spoiled)
    )
    assert_trees_equal(ours, same)


def test_all_layers_are_retraining() -> None:
    """From the same fresh weights."""
    ours = runner("eu_k").run()
    method, problem = runner("retrain"), toy.problem()
    numbers = {name: np.float32(value) for name, value in method.numbers.items()}
    state = method.init(numbers, jax.random.key(0), ours.start.params, *problem[1:])
    for n in range(3):
        forget = toy.nth_batch(problem.forget, n, toy.FORGET_BATCH)
        state, _ = method.step(numbers, state, forget, toy.nth_retain_batches(problem.retain, n, 1))
    assert_trees_close(ours.end.params, state.params)
    assert_trees_close(ours.end.model_state, state.model_state)
