"""Checkpoints as other programs write them, each by its own library."""

import json
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.models import checkpoints
from jaxunlearn.models.matching import fit
from jaxunlearn.types import InputError, Weights

ARRAYS = {
    ("params", "dense", "kernel"): np.arange(6, dtype=np.float32).reshape(2, 3),
    ("params", "dense", "bias"): np.array([1.0, -0.0, 1e-40], np.float32),
    ("batch_stats", "norm", "mean"): np.ones(3, np.float32),
}
TREE = unflatten_dict(ARRAYS)
WEIGHTS = Weights(TREE["params"], {"batch_stats": TREE["batch_stats"]})


def train_state() -> dict:
    """The fields of a train state with an optimizer, whose moments have the same names."""
    moments = optax.adam(1e-3).init(TREE["params"])
    return {"step": 7, **TREE, "opt_state": moments, "note": None}


def save(folder, tree):
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder, tree)
    return folder


def managed(folder, *steps, **options):
    """A folder of a CheckpointManager, whose steps differ by a factor."""
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step in steps:
            tree = jax.tree.map(partial(np.multiply, np.float32(step)), TREE)
            manager.save(step, args=ocp.args.StandardSave(tree))
    return folder


def assert_equal(found: dict, wanted: dict) -> None:
    found, wanted = flatten_dict(found), flatten_dict(wanted)
    assert found.keys() == wanted.keys()
    for key, leaf in wanted.items():
        assert found[key].dtype == leaf.dtype
        np.testing.assert_array_equal(found[key], leaf)


@pytest.mark.parametrize("layout", ["orbax", "msgpack", "npz", "safetensors"])
def test_arrays_come_back_as_they_were(tmp_path, layout):
    path = tmp_path / f"net{checkpoints.SUFFIXES.get(layout, '')}"
    checkpoints.write(path, ARRAYS, {"layout": layout})
    stored = checkpoints.read(path)
    assert stored.layout == layout
    assert_equal(stored.arrays, ARRAYS)
    for key, array in ARRAYS.items():
        assert stored.arrays[key].tobytes() == array.tobytes()  # of -0.0 and of tiny numbers too


def test_files_of_other_writers(tmp_path):
    (tmp_path / "net.msgpack").write_bytes(serialization.to_bytes(train_state()))
    np.savez(tmp_path / "net.npz", **{".".join(key): array for key, array in ARRAYS.items()})
    ocp.PyTreeCheckpointer().save(tmp_path / "tree", {"model": train_state(), "name": "a net"})
    for name, place in (("net.msgpack", ()), ("net.npz", ()), ("tree", ("model",))):
        fitted = fit(checkpoints.read(tmp_path / name), WEIGHTS, None, name)
        assert fitted.place == (*place, "params"), name
        assert fitted.others == (), name
        assert_equal(fitted.weights.params, WEIGHTS.params)
        assert_equal(fitted.weights.model_state, WEIGHTS.model_state)


def test_the_newest_step_of_a_manager_unless_another_is_given(tmp_path):
    for options in ({}, {"step_prefix": "step"}):
        folder = managed(tmp_path / str(len(options)), 2, 10, **options)
        key = ("params", "dense", "kernel")
        for step, wanted in ((None, 10), (2, 2)):
            stored = checkpoints.read(folder, step)
            assert stored.step == wanted
            np.testing.assert_array_equal(stored.arrays[key], wanted * ARRAYS[key])
        with pytest.raises(InputError, match=r"step is 3, but .* has the steps 2, 10"):
            checkpoints.read(folder, 3)


def test_items_of_a_manager(tmp_path):
    with ocp.CheckpointManager(tmp_path / "items") as manager:
        items = {
            "weights": ocp.args.StandardSave(TREE["params"]),
            "statistics": ocp.args.StandardSave({"batch_stats": TREE["batch_stats"]}),
            "notes": ocp.args.JsonSave({"epochs": 3}),
        }
        manager.save(1, args=ocp.args.Composite(**items))
    fitted = fit(checkpoints.read(tmp_path / "items"), WEIGHTS, None, "items")
    assert fitted.place == ("weights",)
    assert_equal(fitted.weights.model_state, WEIGHTS.model_state)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 3, rngs=rngs)])


def test_the_state_of_an_nnx_module(tmp_path):
    net = Net(nnx.Rngs(0))
    one = {
        "layers": {
            str(i): {"kernel": layer.kernel[...], "bias": layer.bias[...]}
            for i, layer in enumerate(net.layers)
        },
        "norm": {"scale": net.norm.scale[...], "bias": net.norm.bias[...]},
    }
    wanted = Weights(
        one,
        {
            "state": {"norm": {"mean": net.norm.mean[...], "var": net.norm.var[...]}},
            "rngs": {"drop": {"rngs": {"count": jnp.uint32(0), "key": jnp.zeros(2, jnp.uint32)}}},
        },
    )
    learned = nnx.Any(nnx.Param, nnx.BatchStat)
    boxed = save(tmp_path / "boxed", nnx.state(net))
    plain = save(tmp_path / "plain", nnx.to_pure_dict(nnx.state(net, learned)))
    for folder, has_keys in ((boxed, True), (plain, False)):
        fitted = fit(checkpoints.read(folder), wanted, None, str(folder))
        assert_equal(fitted.weights.params, wanted.params)
        assert_equal(fitted.weights.model_state["state"], wanted.model_state["state"])
        assert ("rngs" in fitted.weights.model_state) == has_keys
    # What is written by the paths of the checkpoint is restored into the module.
    stored = checkpoints.read(boxed)
    fitted = fit(stored, wanted, None, "boxed")
    again = {there: stored.arrays[there] for there in fitted.keys.values()}
    checkpoints.write(tmp_path / "again", again, stored.form)
    shapes = nnx.state(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    with ocp.StandardCheckpointer() as reader:
        restored = reader.restore(tmp_path / "again", shapes)
    assert nnx.to_flat_state(restored).paths == nnx.to_flat_state(nnx.state(net)).paths
    np.testing.assert_array_equal(restored.layers[1].kernel[...], net.layers[1].kernel[...])


@pytest.mark.parametrize("kind", ["standard", "tree", "manager", "items", "state"])
def test_orbax_restores_what_was_written_into_the_tree_that_came(tmp_path, kind):
    """Lists, tuples, numbers as keys, boxes, steps and items; without the optimizer's arrays."""
    net = Net(nnx.Rngs(0))
    came, back = tmp_path / "came", tmp_path / "back"
    params, statistics = nnx.state(net, nnx.Param, nnx.BatchStat)
    tree: Any = (params, statistics)
    if kind == "tree":
        tree = {
            "numbers": {7: TREE["params"]},
            "layers": [(np.ones(2), np.zeros(3)), {"x": np.ones(1)}],
        }
    if kind == "state":
        tx = optax.adam(1e-3)
        tree = TrainState.create(apply_fn=None, params=[TREE["params"]], tx=tx)
    args = ocp.args.StandardSave
    if kind in ("manager", "items"):
        saved = ocp.args.Composite(net=args(params), rest=args([statistics]), none=args(TREE))
        with ocp.CheckpointManager(came) as manager:
            manager.save(700, args=args(tree) if kind == "manager" else saved)
    elif kind == "tree":
        ocp.PyTreeCheckpointer().save(came, tree)
    else:
        save(came, tree)
    stored = checkpoints.read(came)
    unused = ("none", "opt_state", "step")
    arrays = {key: 2 * leaf for key, leaf in stored.arrays.items() if key[0] not in unused}
    checkpoints.write(back, arrays, json.loads(json.dumps(stored.form)))
    if kind == "manager":
        with ocp.CheckpointManager(back) as manager:
            found = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(tree))
    elif kind == "items":
        tree = {"net": params, "rest": [statistics]}
        wanted = {name: ocp.args.StandardRestore(each) for name, each in tree.items()}
        with ocp.CheckpointManager(back) as manager:
            found = dict(manager.restore(700, args=ocp.args.Composite(**wanted)))
    elif kind == "tree":
        found = ocp.PyTreeCheckpointer().restore(back, item=tree)
    else:
        tree = {"params": tree.params} if kind == "state" else tree
        found = ocp.StandardCheckpointer().restore(back, tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(one, 2 * np.asarray(other))


def test_a_linen_module_with_boxed_parameters(tmp_path):
    kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    variables = nn.Dense(3, kernel_init=kernel).init(jax.random.key(0), jnp.ones((1, 2)))
    stored = checkpoints.read(save(tmp_path / "boxed", variables))
    plain = nn.unbox(variables)["params"]
    assert_equal(fit(stored, Weights(plain, {}), None, "boxed").weights.params, plain)


def test_the_place_of_the_parameters():
    def stored(**places) -> checkpoints.Stored:
        tree = {
            name: jax.tree.map(partial(np.add, n), TREE["params"]) for name, n in places.items()
        }
        return checkpoints.Stored("npz", flatten_dict(tree | {"batch_stats": TREE["batch_stats"]}))

    two = stored(params=0, ema_params=1)
    fitted = fit(two, WEIGHTS, None, "net")
    assert (fitted.place, fitted.others) == (("params",), (("ema_params",),))
    chosen = fit(two, WEIGHTS, "ema_params", "net")
    np.testing.assert_array_equal(
        chosen.weights.params["dense"]["kernel"], 1 + WEIGHTS.params["dense"]["kernel"]
    )
    assert_equal(chosen.weights.model_state, WEIGHTS.model_state)
    with pytest.raises(InputError, match=r"at teacher, student; choose one by params_key"):
        fit(stored(teacher=0, student=1), WEIGHTS, None, "net")
    with pytest.raises(
        InputError, match=r"'ema_parms' .did you mean 'ema_params'.*, but net has only"
    ):
        fit(two, WEIGHTS, "ema_parms", "net")


def test_types_of_numbers():
    def cast(dtype) -> Weights:
        arrays = {key: np.asarray(jnp.asarray(x, dtype)) for key, x in ARRAYS.items()}
        return fit(checkpoints.Stored("npz", arrays), WEIGHTS, None, "net").weights

    for dtype in ("bfloat16", "float16"):  # float32 holds them exactly
        kernel = cast(dtype).params["dense"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, ARRAYS["params", "dense", "kernel"])
    with pytest.raises(InputError, match=r"is of type int32, but must be of type float32"):
        cast("int32")
    broken = ARRAYS | {("params", "dense", "bias"): np.array([0, np.nan, 0], np.float32)}
    with pytest.raises(InputError, match=r"params.dense.bias in net has values that are not fin"):
        fit(checkpoints.Stored("npz", broken), WEIGHTS, None, "net")


def test_arrays_of_another_model_are_counted_and_named():
    kernel = ARRAYS["params", "dense", "kernel"]
    wrong = ARRAYS | {("params", "dense", "kernl"): kernel, ("params", "head"): kernel}
    del wrong["params", "dense", "kernel"]
    wrong["batch_stats", "norm", "mean"] = np.ones(4, np.float32)
    with pytest.raises(InputError) as error:
        fit(checkpoints.Stored("npz", wrong), WEIGHTS, None, "net")
    assert str(error.value) == (
        "net lacks 1 of the 3 arrays of the model: params.dense.kernel (did you mean "
        "'params.dense.kernl'?), and holds 1 of another shape: batch_stats.norm.mean is [4] there, "
        "but must be [3], and holds 2 that the model does not have: params.dense.kernl, "
        "params.head; give the model and the settings that it was trained with."
    )
    with pytest.raises(InputError, match=r"lacks 3 of the 3 arrays"):
        fit(checkpoints.Stored("npz", {("x",): kernel}), WEIGHTS, None, "net")


def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "disguised.npz").write_bytes(b"\x80\x04K")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "cut.msgpack").write_bytes(b"\x81\xa1")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00")
    (tmp_path / "net.h5").touch()
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    (tmp_path / "empty").mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "pytorch_model.bin").touch()
    (tmp_path / "many").mkdir()
    for name in ("a.npz", "b.npz"):
        (tmp_path / "many" / name).touch()
    managed(tmp_path / "damaged", 1)
    (tmp_path / "damaged" / "1" / "default" / "_METADATA").write_text("{")
    faults = {
        "nowhere": "does not exist",
        "net.pt": r"is a pickle.*torch\.load",
        "disguised.npz": "is a pickle",
        "cut.npz": "damaged",
        "cut.msgpack": "damaged",
        "cut.safetensors": "damaged",
        "objects.npz": "damaged or holds more than arrays",
        "net.h5": "of the kind '.h5', but must be",
        "empty": "holds no checkpoint",
        "torch": "pytorch_model.bin is a pickle",
        "many": r"several files of weights \(a.npz, b.npz\)",
        "damaged": "damaged",
    }
    for name, fault in faults.items():
        with pytest.raises(InputError, match=fault) as error:
            checkpoints.read(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="without steps"):
        checkpoints.read(tmp_path / "cut.npz", 1)


def test_the_digest_is_of_the_content(tmp_path):
    one, same = managed(tmp_path / "one", 1), tmp_path / "same.npz"
    np.savez(same, x=np.ones(2))
    before = checkpoints.digest(one), checkpoints.digest(same)
    same.rename(tmp_path / "moved.npz")
    assert checkpoints.digest(tmp_path / "moved.npz") == before[1]
    np.savez(same, x=np.zeros(2))
    assert checkpoints.digest(same) != before[1]
    managed(tmp_path / "two", 1, 2)
    assert checkpoints.digest(tmp_path / "two") != before[0]
