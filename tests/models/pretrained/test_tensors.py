"""Reading and writing safetensors: the order of axes, every way a file can be wrong, damage."""

import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxunlearn.models.pretrained.tensors import (
    read,
    stored_metadata,
    stored_shape,
    stored_shapes,
    weights_of,
    write,
)
from jaxunlearn.types import InputError

NAMES = {
    ("norm", "scale"): "norm.weight",
    ("head", "dense", "kernel"): "fc.weight",
    ("stem", "kernel"): "conv.weight",
}
STORED_SHAPES = {"norm.weight": (3,), "fc.weight": (2, 3), "conv.weight": (4, 3, 1, 2)}
SHAPES = {
    "norm": {"scale": jax.ShapeDtypeStruct((3,), np.float32)},
    "head": {"dense": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}},
    "stem": {"kernel": jax.ShapeDtypeStruct((1, 2, 3, 4), np.float32)},
}
NAMING = NAMES.__getitem__


def stored_tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in STORED_SHAPES.items()}


def as_bytes(tensors):
    """The safetensors format, written down by hand: length of the header, header, data."""
    letters = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": letters.get(array.dtype.name, "I64"),
            "shape": array.shape,
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def save(path, tensors):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(as_bytes(tensors))
    return path


def assert_same(found, expected):
    leaves, structure = jax.tree.flatten(found)
    assert structure == jax.tree.structure(expected)
    for leaf, other in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == np.float32
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()


def expected_tree(tensors):
    """The axes named one by one, instead of a transposition."""
    fc, conv = tensors["fc.weight"], tensors["conv.weight"]
    kernel = np.array([[[[conv[o, i, h, w] for o in range(4)] for i in range(3)]
                        for w in range(2)] for h in range(1)], np.float32)  # fmt: skip
    return {
        "norm": {"scale": tensors["norm.weight"].astype(np.float32)},
        "head": {"dense": {"kernel": np.array([[fc[o, i] for o in range(2)] for i in range(3)],
                                              np.float32)}},
        "stem": {"kernel": kernel},
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_axes_and_types(tmp_path, dtype):
    tensors = stored_tensors(dtype)
    found = read(save(tmp_path / "m.safetensors", tensors), SHAPES, NAMING)
    assert_same(found, expected_tree(tensors))


def test_round_trip_to_the_last_bit(tmp_path):
    tensors = stored_tensors()
    tensors["norm.weight"] = np.array([0x7FC12345, 0x80000000, 1], np.uint32).view(np.float32)
    tree = read(save(tmp_path / "m.safetensors", tensors), SHAPES, NAMING)
    back = tmp_path / "new" / "folder" / "m.safetensors"
    write(back, tree, NAMING)
    with safetensors.safe_open(back, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            again = file.get_tensor(name)
            assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
            assert again.tobytes() == tensor.tobytes()
    assert_same(read(back, SHAPES, NAMING), tree)
    assert [entry.name for entry in back.parent.iterdir()] == ["m.safetensors"]


def test_bfloat16_parameters_are_written_as_float32(tmp_path):
    tree = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16), expected_tree(stored_tensors()))
    write(tmp_path / "m.safetensors", tree, NAMING)
    found = read(tmp_path / "m.safetensors", SHAPES, NAMING)
    assert_same(found, jax.tree.map(lambda a: a.astype(np.float32), tree))


def refused(path, match, ignore=()):
    with pytest.raises(InputError, match=match) as caught:
        read(path, SHAPES, NAMING, ignore)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_wrong(tmp_path):
    file = tmp_path / "m.safetensors"

    def change(**tensors):
        changed = stored_tensors() | {name.replace("_", "."): t for name, t in tensors.items()}
        save(file, {name: t for name, t in changed.items() if t is not None})

    change(fc_weight=None)
    refused(file, "m.safetensors lacks the tensor 'fc.weight' of this model")
    change(fc_weight=None, conv_weight=None)
    refused(file, r"lacks the tensor 'fc.weight' \(and 1 more\)")
    change(fc_weight=np.zeros((3, 2), np.float32))
    refused(file, r"'fc.weight' in .*m.safetensors has shape \[3, 2\], but must have \[2, 3\]")
    change(conv_weight=np.zeros((4, 3, 2, 1), np.float32))
    refused(file, r"'conv.weight' .* has shape \[4, 3, 2, 1\], but must have \[4, 3, 1, 2\]")
    change(norm_weight=np.zeros(3, np.int64))
    refused(file, "'norm.weight' in .*m.safetensors is of type I64, but must be one of F32")
    change(norm_weight=np.zeros(3, np.float64))
    refused(file, "is of type F64")
    change(norm_count=np.zeros((), np.int64))
    refused(file, "m.safetensors holds the tensor 'norm.count', which this model does not have")
    refused(
        file, "which this model does not have", ignore=["count"]
    )  # a part of the name is not enough
    assert_same(read(file, SHAPES, NAMING, ignore=[r".*\.count"]), expected_tree(stored_tensors()))


def test_files_that_are_wrong(tmp_path):
    file, inner = tmp_path / "m.safetensors", tmp_path / "m.safetensors" / "inner"
    refused(file, "m.safetensors does not exist; check the path")
    refused(tmp_path, "holds no safetensors file, but must hold one safetensors file or index")
    file.write_bytes(b"")
    refused(file, r"m.safetensors is damaged or unreadable \(")
    refused(inner, "inner does not exist")
    save(file, stored_tensors())
    save(tmp_path / "n.safetensors", stored_tensors())
    refused(
        tmp_path,
        "holds m.safetensors, n.safetensors, but .*; give the path of the file itself",
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.pth", b"PK\x03\x04\x00\x00\x08\x08" + b"x" * 80, "is a pickle of PyTorch, but must be"),
        ("m.bin", b"\x80\x02}q\x00.", r"convert it by .*load\(.m.bin., .*, .m.safetensors.\)"),
        ("m.ckpt", b"PK\x03\x04\x00\x00\x08\x08", r'\["state_dict"\]'),
        ("m.safetensors", b"\x80\x04\x95\x1f\x00" + b"x" * 80, "is a pickle of PyTorch"),
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("m.safetensors", b"<!DOCTYPE html><html></html>", "is a web page"),
    ],
)
def test_files_of_another_kind(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, rf"{name} .*{said}")


def test_folders_without_safetensors(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path, r"as a pickle of PyTorch \(pytorch_model.bin\).*convert it by")
    (tmp_path / "pytorch_model.bin").unlink()
    for i in (1, 2):
        save(tmp_path / f"m-0000{i}-of-00002.safetensors", stored_tensors())
    refused(tmp_path, "holds m-00001-of-00002.safetensors, .*; download its index too")


@pytest.mark.parametrize("sharded_first", [True, False])
def test_the_file_that_the_library_of_a_layout_reads(sharded_first, tmp_path):
    """Diffusers prefers an index, transformers and timm the one file; then half precision."""
    name = "model.safetensors"
    order = [f"{name}.index.json", name] if sharded_first else [name, f"{name}.index.json"]
    order += [f"{name}.index.fp16.json", f"{name}.fp16.index.json", "model.fp16.safetensors"]
    for file in (*order, "model.non_ema.safetensors", "model-00001-of-00001.safetensors"):
        (tmp_path / file).touch()
    for file in order:
        assert weights_of(tmp_path, name, sharded_first=sharded_first) == tmp_path / file
        (tmp_path / file).unlink()
    with pytest.raises(
        InputError, match=r"model.non_ema.safetensors, .*; rename the one .* to model"
    ):
        weights_of(tmp_path, name, sharded_first=sharded_first)
    (tmp_path / "model-00001-of-00001.safetensors").unlink()
    only = tmp_path / "model.non_ema.safetensors"
    assert weights_of(tmp_path, name, sharded_first=sharded_first) == only


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_all_names(prefix, tmp_path):
    tensors = stored_tensors()
    wrapped = {prefix + name: value for name, value in tensors.items()}
    file = save(tmp_path / "m.safetensors", wrapped)
    assert_same(read(file, SHAPES, NAMING), expected_tree(tensors))
    assert stored_shapes(file) == STORED_SHAPES
    save(file, tensors | {"module.extra": tensors["norm.weight"]})
    refused(file, "holds the tensor 'module.extra'")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "a LoRA, .*: merge it"),
        ("unet.mid_block.attn1.to_q.lora.down.weight", "a LoRA"),
        ("lora_unet_mid_block_attn1_to_q.alpha", "a LoRA"),
        ("base_model.model.to_q.lora_B.weight", "a LoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "in one file .*`.*find"),
        ("input_blocks.0.0.weight", "Stable Diffusion in one file"),
        ("vision_model.embeddings.class_embedding", "a whole CLIP: .*CLIPTextModel"),
        ("what.weight", "give the file of a model of the same kind and size"),
    ],
)
def test_layouts_that_are_known_but_not_read(name, said, tmp_path):
    tensor = np.zeros(3, np.float32)
    refused(save(tmp_path / "m.safetensors", {name: tensor}), f"lacks the tensor .*; .*{said}")
    save(tmp_path / "m.safetensors", stored_tensors() | {name: tensor})
    refused(tmp_path, f"holds the tensor '{name}', .*; .*{said}")
    with pytest.raises(InputError, match=f"'fc.bias' .* is missing.*; .*{said}"):
        stored_shape(tmp_path, stored_shapes(tmp_path), "fc.bias", 1)


def test_metadata(tmp_path):
    tree = expected_tree(stored_tensors())
    write(tmp_path / "m.safetensors", tree, NAMING, {"pool": "true"})
    assert stored_metadata(tmp_path) == {"format": "pt", "pool": "true"}
    assert stored_metadata(save(tmp_path / "m.safetensors", stored_tensors()))["format"] == "pt"


def test_writing_replaces_what_others_might_read_in_its_place(tmp_path):
    tree = expected_tree(stored_tensors())
    for name in ("m.fp16.safetensors", "m-00001-of-00002.safetensors", "m.bin", "m.mine.bin"):
        (tmp_path / name).touch()
    index, _ = sharded(tmp_path)
    index.write_text("{}")
    write(tmp_path / "m.safetensors", tree, NAMING)
    left = {"m.half.safetensors", "m.mine.bin", "m.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == left


def sharded(folder):
    """Two files and their index; another file that the index does not name does not matter."""
    tensors = stored_tensors()
    first = {"norm.weight": tensors.pop("norm.weight")}
    save(folder / "m-1-of-2.safetensors", first)
    save(folder / "m-2-of-2.safetensors", tensors)
    save(folder / "m.half.safetensors", first)
    places = dict.fromkeys(tensors, "m-2-of-2.safetensors") | {
        "norm.weight": "m-1-of-2.safetensors"
    }
    return folder / "m.safetensors.index.json", places


def test_several_files(tmp_path):
    index, places = sharded(tmp_path)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert_same(read(tmp_path, SHAPES, NAMING), expected_tree(stored_tensors()))
    assert_same(read(index, SHAPES, NAMING), expected_tree(stored_tensors()))
    assert stored_shapes(tmp_path) == STORED_SHAPES
    (tmp_path / "m-1-of-2.safetensors").unlink()
    refused(tmp_path, "m-1-of-2.safetensors does not exist")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"fc.weight": "m-1-of-2.safetensors"}, "1-of-2.* lacks a tensor that m.* lists: 'fc.weig"),
        ({"a": "m-1-of-2.safetensors"}, "m-1-of-2.safetensors lacks a tensor that .* lists: 'a'"),
        ({"conv.weight": None}, "m-2-of-2.* holds a tensor that .* does not list: 'conv.weight'"),
        ({"a": "../m.safetensors"}, "tensor 'a' in .* is '../m.safetensors', but .* same folder"),
        ({"a": 3}, "tensor 'a' in .* is 3, but"),
        ({"a": "model.bin"}, "tensor 'a' in .* is 'model.bin', but"),
    ],
)
def test_an_index_that_is_wrong(changes, match, tmp_path):
    index, places = sharded(tmp_path)
    places = {name: part for name, part in (places | changes).items() if part is not None}
    index.write_text(json.dumps({"weight_map": places}))
    refused(tmp_path, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "m.safetensors.index.json is damaged or unreadable"),
        ("[" * 100_000, "m.safetensors.index.json is damaged or unreadable"),
        ("[]", "holds no JSON object"),
        ('{"weight_map": {}}', "has no 'weight_map'"),
        ('{"weight_map": [1]}', "has no 'weight_map'"),
    ],
)
def test_an_index_that_is_none(text, match, tmp_path):
    index, _ = sharded(tmp_path)
    index.write_text(text)
    refused(tmp_path, match)


def test_two_places_for_one_name_are_a_mistake_of_the_naming(tmp_path):
    shapes = {"a": SHAPES["norm"]["scale"], "b": SHAPES["norm"]["scale"]}
    with pytest.raises(AssertionError, match=r"\('b',\) and \('a',\) are both named 'x'"):
        read(tmp_path, shapes, lambda path: "x")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    tree = expected_tree(stored_tensors())
    file = tmp_path / "m.safetensors"
    write(file, tree, NAMING)
    for error in (OSError(28, "No space left"), safetensors.SafetensorError("No space left")):

        def full(tensors, path, metadata, error=error):
            path.touch()
            raise error

        monkeypatch.setattr("safetensors.numpy.save_file", full)
        with pytest.raises(InputError, match=r"m.safetensors cannot be written \(No space left\)"):
            write(file, jax.tree.map(np.zeros_like, tree), NAMING)
        assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]
        assert_same(read(file, SHAPES, NAMING), tree)


GOOD = as_bytes(stored_tensors())
END_OF_HEADER = 8 + struct.unpack("<Q", GOOD[:8])[0]
DAMAGE = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_bytes(tmp_path, content):
    """The tree, or None where the file is refused; any other error is a failure."""
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    try:
        return read(file, SHAPES, NAMING)
    except InputError as error:
        assert str(file) in str(error)
        return None


@DAMAGE
@given(position=st.integers(0, END_OF_HEADER - 1), byte=st.integers(0, 255))
def test_a_changed_byte_in_the_header_is_refused_or_harmless(tmp_path, position, byte):
    found = read_bytes(tmp_path, GOOD[:position] + bytes([byte]) + GOOD[position + 1 :])
    if found is not None:
        assert_same(found, expected_tree(stored_tensors()))


@DAMAGE
@given(start=st.integers(0, len(GOOD)), length=st.integers(1, 60), put=st.binary(max_size=60))
def test_whatever_is_cut_out_or_put_in(tmp_path, start, length, put):
    content = GOOD[:start] + put + GOOD[start + length :]
    found = read_bytes(tmp_path, content)
    if found is not None:
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found)
        assert shapes == jax.tree.map(lambda leaf: (leaf.shape, np.dtype("float32")), SHAPES)


@pytest.mark.parametrize("kept", [0, 7, 8, END_OF_HEADER - 1, END_OF_HEADER, len(GOOD) - 1])
def test_a_file_that_was_cut_short(tmp_path, kept):
    assert read_bytes(tmp_path, GOOD[:kept]) is None
    assert read_bytes(tmp_path, GOOD + b"\0") is None
