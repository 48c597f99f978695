"""Models of linen, NNX and Equinox, and bare functions: equal networks have equal numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxunlearn import methods, models, tasks
from jaxunlearn.evaluation import features
from jaxunlearn.methods.last_layers import last_layers
from jaxunlearn.models.frameworks import BUFFERS, RNGS, STATE
from jaxunlearn.tasks.microbatched import microbatched
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.types import InputError, Model, Weights
from tests.own_nets import WIDTH, EquinoxNet, LinenNet, Net

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 6, 1), 3
ARRAYS = {
    "image": jax.random.normal(KEY, (6, *SHAPE)),
    "label": jnp.arange(6) % CLASSES,
    "index": jnp.arange(6),
}
BATCH = ARRAYS | {"epoch": jnp.zeros(6, jnp.int32)}


def of(model):
    return tasks.classification(model, image_shape=SHAPE, num_classes=CLASSES)


MODELS = {
    "linen": lambda rate: models.from_linen(LinenNet(rate=rate)),
    "nnx": lambda rate: models.from_nnx(lambda rngs: Net(rate=rate, rngs=rngs)),
    "equinox": lambda rate: models.from_equinox(lambda key: EquinoxNet(rate=rate, key=key)),
}


def translated(linen: Weights, to: str, model_state) -> Weights:
    """The weights of the linen network, for another framework."""
    if to == "linen":
        return linen

    def layer(tree):
        if to == "nnx":
            return dict(tree)
        kernel = tree.get("kernel")
        if kernel is None:
            return {"weight": tree["scale"], "bias": tree["bias"]}
        if kernel.ndim == 2:
            return {"weight": kernel.T, "bias": tree["bias"]}
        return {"weight": kernel.transpose(3, 2, 0, 1), "bias": tree["bias"][:, None, None]}

    params = {name: layer(linen.params[name]) for name in ("stem", "head")}
    params["blocks"] = {
        str(i): {name: layer(linen.params[f"block{i}"][name]) for name in ("conv", "norm")}
        for i in range(2)
    }
    return Weights(params, model_state)


def statistics(framework, model_state):
    """The running means of both blocks."""
    if framework == "linen":
        return [model_state["batch_stats"][f"block{i}"]["norm"]["mean"] for i in range(2)]
    if framework == "nnx":
        return [model_state[STATE]["blocks"][str(i)]["norm"]["mean"] for i in range(2)]
    return [model_state[STATE][str(i)]["0"] for i in ("1", "3")]


@pytest.fixture(scope="module")
def linen():
    return Weights(*of(MODELS["linen"](0.0)).init(KEY))


def test_equal_networks_have_equal_losses_gradients_and_statistics(linen):
    found = {}
    for name in ("linen", "nnx"):
        task = of(MODELS[name](0.0))
        weights = translated(linen, name, task.init(KEY)[1])

        def loss(params, task=task, state=weights.model_state):
            losses, state = task.losses(params, state, BATCH, KEY, True)
            return jnp.mean(losses), state

        (_, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights.params)
        after = task.losses(weights.params, state, BATCH, KEY, False)[0]
        grads = translated(Weights(grads, {}), "nnx", {}).params if name == "linen" else grads
        found[name] = (grads, statistics(name, state), after)
    for ours, theirs in zip(*map(jax.tree.leaves, found.values()), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_equinox_has_the_predictions_of_linen(linen):
    """Its BatchNorm has other running statistics, so they are compared at their initial values."""
    task, other = of(MODELS["linen"](0.0)), of(MODELS["equinox"](0.0))
    _, state = other.init(KEY)
    weights = translated(linen, "equinox", state)
    ours, _ = jax.jit(lambda: other.losses(*weights, BATCH, KEY, True))()
    theirs, _ = jax.jit(lambda: task.losses(*linen, BATCH, KEY, True))()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("framework", MODELS)
def test_dropout_acts_in_training_alone_and_follows_the_key(framework):
    task = of(MODELS[framework](0.5))
    weights = task.init(KEY)
    losses = jax.jit(lambda b, k, train: task.losses(*weights, b, k, train), static_argnums=2)
    trained, state = losses(BATCH, KEY, True)
    np.testing.assert_array_equal(trained, losses(BATCH, KEY, True)[0])
    for batch, key in (
        (BATCH | {"epoch": BATCH["epoch"] + 1}, KEY),
        (BATCH, jax.random.key(1)),
    ):
        assert np.any(trained != losses(batch, key, True)[0])
        np.testing.assert_array_equal(losses(BATCH, KEY, False)[0], losses(batch, key, False)[0])
    for name in (RNGS, BUFFERS):  # no step writes them
        jax.tree.map(np.testing.assert_array_equal, weights[1].get(name), state.get(name))
    for before, after in zip(*(statistics(framework, s) for s in (weights[1], state)), strict=True):
        assert np.any(before != after)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, weights[1])
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, weights[1])


@pytest.mark.parametrize("framework", ["nnx", "equinox"])
@pytest.mark.parametrize(("name", "count"), [("eupmu_sfron", 5), ("neggrad_plus", 1)])
def test_methods_carry_the_state(framework, name, count):
    """Counters count, in their own type, and keys stay as they are."""
    task = of(MODELS[framework](0.1))
    method = methods.build(task, name, methods.settings(name, {"num_steps": 2}))
    stacked = {key: jnp.stack([leaf] * method.retain_batches) for key, leaf in BATCH.items()}
    weights = task.init(KEY)

    @jax.jit
    def stepped():
        return method.step(method.init(KEY, *weights, ARRAYS, ARRAYS), BATCH, stacked)

    state, metrics = stepped() if framework == "nnx" else jax.eval_shape(stepped)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), Weights(*weights))
    after = jax.tree.map(lambda x: (x.shape, x.dtype), Weights(state.params, state.model_state))
    assert after == shapes and "retain_loss" in metrics
    if framework == "nnx":
        jax.tree.map(np.testing.assert_array_equal, weights[1][RNGS], state.model_state[RNGS])
        calls = [block["calls"] for block in state.model_state[STATE]["blocks"].values()]
        assert [int(each) for each in calls] == [count] * 2
        assert calls[0].dtype == jnp.uint32


@pytest.mark.parametrize("framework", MODELS)
def test_paths_layers_adapters_and_features(framework):
    task = of(MODELS[framework](0.0))
    weights = Weights(*task.init(KEY))
    first = "block0" if framework == "linen" else "blocks"
    names = ["stem", first, *(["block1"] if framework == "linen" else []), "head"]
    assert [*last_layers(task, len(names))] == names
    pattern = "conv" if framework == "linen" else r"blocks/\d/conv/(kernel|weight)"
    subset = trainable_subset(task, pattern, rank=2)
    adapters, _ = subset.split(*weights, KEY)
    assert {leaf.shape for leaf in jax.tree.leaves(adapters)} in (
        {(9 * WIDTH, 2), (2, WIDTH)},
        {(WIDTH, 2), (2, 9 * WIDTH)},
    )
    described = features.last_features(task, weights, ARRAYS)
    head = weights.params["head"]
    kernel = head["weight"].T if framework == "equinox" else head["kernel"]
    logits, _ = task.outputs(*weights, BATCH, KEY, False)
    np.testing.assert_allclose(described @ kernel + head["bias"][None], logits, atol=1e-5)


def test_features_of_log_probabilities_are_those_of_the_logits():
    def apply(params, state, images, key=None, train=False):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ params["hidden"])
        return jax.nn.log_softmax(hidden @ params["head"]), state

    params = {"hidden": jax.random.normal(KEY, (36, CLASSES)), "head": jnp.eye(CLASSES)}
    task = of(Model(lambda key, images: (params, {}), apply))
    found = features.last_features(task, Weights(params, {}), ARRAYS)
    hidden = jnp.tanh(ARRAYS["image"].reshape(6, -1) @ params["hidden"])
    np.testing.assert_allclose(found, hidden, atol=1e-6)
    crossed = task._replace(outputs=lambda p, s, b, k, t: (task.outputs(p, s, b, k, t)[0] ** 2, s))
    with pytest.raises(InputError, match="no dense layer of 3 outputs at its end"):
        features.last_features(crossed, Weights({"hidden": params["hidden"]} | params, {}), ARRAYS)


def test_micro_batches_are_allowed_with_dropout_but_not_with_batch_norm():
    class Dropping(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(36, CLASSES, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(x.reshape(len(x), -1)))

    microbatched(of(models.from_nnx(Dropping)), 2)
    with pytest.raises(InputError, match="statistics of whole batches"):
        microbatched(of(MODELS["nnx"](0.0)), 2)


def test_a_module_has_its_own_weights_and_gets_others_back():
    module = Net(rngs=nnx.Rngs(3))
    task, weights = of(module), models.weights_of(module)
    jax.tree.map(np.testing.assert_array_equal, task.init(KEY), tuple(weights))
    other = Weights(*of(MODELS["nnx"](0.0)).init(KEY))
    back = models.with_weights(module, other)
    back.eval()
    np.testing.assert_allclose(
        jax.nn.softmax(back(ARRAYS["image"])), task.predict(*other, BATCH), atol=1e-6
    )
    with pytest.raises(InputError, match="eu_k draws new ones"):
        methods.eu_k(task, optax.sgd(0.1))
    pair = eqx.nn.make_with_state(EquinoxNet)(key=KEY)
    weights = models.weights_of(*pair)
    jax.tree.map(
        np.testing.assert_array_equal,
        weights,
        models.weights_of(*models.with_weights(pair[0], weights, pair[1])),
    )
    with pytest.raises(InputError, match="the model is a LinenNet, but must be an NNX or Equinox"):
        models.weights_of(LinenNet())


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: nnx.Sequential(
            nnx.Linear(4, 5, rngs=rngs), nnx.relu, nnx.Linear(5, 3, rngs=rngs)
        ),
        lambda key: eqx.nn.MLP(4, 3, 5, 1, key=key),
    ],
)
def test_layers_of_a_sequence_are_counted_inside_it(make):
    adapter = models.from_nnx if "rngs" in make.__code__.co_varnames else models.from_equinox
    task = tasks.classification(adapter(make), image_shape=(4,), num_classes=3)
    layers = last_layers(task, 2)
    assert layers in (("layers/0", "layers/2"), ("layers/0", "layers/1"))
    batch = {"image": jnp.ones((6, 4)), "label": BATCH["label"], "index": BATCH["index"]}
    visited = batch | {"epoch": BATCH["epoch"]}
    for name in ("cf_k", "eu_k"):
        method = methods.build(task, name, methods.settings(name, {"num_layers": 1}))
        params, state = task.init(KEY)
        start = method.init(KEY, params, state, batch, batch)
        after, _ = method.step(start, visited, jax.tree.map(lambda x: x[None], visited))
        moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), params, after.params)["layers"]
        assert not any(jax.tree.leaves(moved["0"])) and all(jax.tree.leaves(moved[layers[1][-1]]))
