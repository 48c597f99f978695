"""Classifiers of timm (`references/classifiers.py`): their outputs, and their files to the bit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxunlearn.models.pretrained.classifiers import load_classifier, save_classifier
from jaxunlearn.models.resnet import ResNet
from jaxunlearn.models.vit import ViT
from jaxunlearn.types import InputError, Weights

DATA = Path(__file__).parent / "data"


def load_resnet(path, **facts):
    found = load_classifier(path, **facts)
    return found.module, *found.weights


def load_vit(path, **facts):
    found = load_classifier(path, **facts)
    assert not found.weights.model_state
    return found.module, found.weights.params


def save(folder, module, params, model_state=(), *, library="timm", like=None):
    like = like and json.loads((like / "config.json").read_text())
    state = {"batch_stats": model_state["batch_stats"]} if model_state else {}
    save_classifier(folder, library, module, Weights(params, state), like=like)


def logits_agree(folder, module, variables):
    expected = np.load(DATA / folder / "expected.npz")
    assert expected["logits"].std() > 0.5
    logits = jax.jit(module.apply)(variables, expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)


def same_files(one, other):
    """All but the count of batches, which no prediction depends on, and what is said of data."""
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    first = {name: value for name, value in first.items() if "num_batches_tracked" not in name}
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value.dtype, value.shape) == (second[name].dtype, second[name].shape)
        assert value.tobytes() == second[name].tobytes(), name
    config, again = (json.loads((folder / "config.json").read_text()) for folder in (one, other))
    for key in ("num_classes", "num_features", "global_pool"):
        assert config[key] == again[key]
        config["model_args"].pop(key, None)
    assert config["model_args"].items() <= again["model_args"].items()


@pytest.mark.parametrize("folder", ["resnet_basic", "resnet_bottleneck"])
def test_resnet(folder, tmp_path):
    module, params, model_state = load_resnet(DATA / folder)
    fields = {"stem_size": 7, "stem_stride": 2, "stem_pool": True, "blocks": (1, 2, 1, 1)}
    if folder == "resnet_basic":
        fields |= {"widths": (8, 8, 12, 16)}
    else:
        fields |= {"widths": (4, 4, 4, 8), "block": "bottleneck"}
    assert module == ResNet(num_classes=5, **fields)
    logits_agree(folder, module, {"params": params, **model_state})
    save(tmp_path, module, params, model_state)
    same_files(DATA / folder, tmp_path)
    alone, *_ = load_resnet(DATA / folder / "model.safetensors")
    assert alone == module


def test_vit(tmp_path):
    module, params = load_vit(DATA / "vit")
    assert module == ViT(5, patch_size=4, width=16, depth=2, heads=2, mlp_ratio=3.0)
    logits_agree("vit", module, {"params": params})
    save(tmp_path, module, params)
    same_files(DATA / "vit", tmp_path)
    with pytest.raises(InputError, match="have 16 channels.*64 wide.*give heads=.*'num_heads'"):
        load_vit(DATA / "vit" / "model.safetensors")
    assert load_vit(DATA / "vit" / "model.safetensors", heads=2)[0] == module


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "facts"),
    [
        ("vit_torchvision", {"heads": 2}),
        ("vit_transformers", {}),
        ("resnet_transformers", {}),
        ("swin_timm", {}),
        ("swin_torchvision", {}),
        ("vgg_torchvision", {}),
    ],
)
def test_other_families_and_libraries(folder, facts):
    found = load_classifier(DATA / folder, **facts)
    logits_agree(
        folder, found.module, {"params": found.weights.params, **found.weights.model_state}
    )


def zeros(module, side, channels):
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def test_heads_of_64_channels_where_nothing_is_said(tmp_path):
    module = ViT(3, patch_size=2, width=128, depth=1, heads=2, mlp_ratio=0.125)
    save(tmp_path, module, zeros(module, 4, 1)["params"])
    assert load_vit(tmp_path / "model.safetensors")[0] == module


def test_wider_vits_have_heads_of_other_widths(tmp_path):
    """ViT-H has heads of 80 channels, which 64 divides too."""
    module = ViT(3, patch_size=2, width=1280, depth=1, heads=16, mlp_ratio=1 / 1280)
    save(tmp_path, module, zeros(module, 2, 1)["params"])
    assert load_vit(tmp_path)[0] == module
    assert load_vit(tmp_path / "model.safetensors")[0] == module  # the number is kept in the file
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match="have 1280 channels, which leave the number of heads open"
    ):
        load_vit(tmp_path / "model.safetensors")


@pytest.mark.parametrize("stem_pool", [True, False])
def test_resnet_for_cifar(stem_pool, tmp_path):
    """timm has no such network; whether it pools is kept with the tensors, and asked of others."""
    module = ResNet(
        3, stem_width=2, widths=(2, 4), blocks=(1, 1), strides=(1, 2), stem_pool=stem_pool
    )
    variables = jax.tree.map(lambda leaf: leaf + 0.5, zeros(module, 32, 3))
    with pytest.raises(InputError, match="stem_size is 3, but must be 7 in the published layout"):
        save(tmp_path, module, variables["params"], variables)
    save(tmp_path, module, variables["params"], variables, library="torchvision")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_resnet(tmp_path)[0] == module
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    save_file(stored, file)  # as others write it
    with pytest.raises(InputError, match="is 3x3, .*give stem_pool=False .* or stem_pool=True"):
        load_resnet(file)
    assert load_resnet(file, stem_pool=stem_pool)[0] == module


def test_resnet_for_cifar_with_a_layer_called_linear(tmp_path):
    module = ResNet(3, stem_width=2, widths=(2, 4), blocks=(1, 1), strides=(1, 2))
    variables = jax.tree.map(lambda leaf: leaf + 0.5, zeros(module, 32, 3))
    save(tmp_path, module, variables["params"], variables, library="torchvision")
    stored = load_file(tmp_path / "model.safetensors")
    other = {"fc.": "linear.", "downsample.": "shortcut."}
    for ours, theirs in other.items():
        stored = {name.replace(ours, theirs): value for name, value in stored.items()}
    assert {"module.linear.weight", "module.layer2.0.shortcut.1.bias"} <= {
        f"module.{name}" for name in stored
    }
    save_file({f"module.{n}": v for n, v in stored.items()}, tmp_path / "model.safetensors")
    again, params, model_state = load_resnet(tmp_path)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    jax.tree.map(
        np.testing.assert_array_equal, model_state["batch_stats"], variables["batch_stats"]
    )


def described(tmp_path, folder, **options):
    """A copy whose configuration holds all that timm tells of data, and other options."""
    cfg = {
        "tag": "a1",
        "input_size": [3, 16, 16],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "num_classes": 5,
    }
    labels = {"label_names": list("abcde"), "label_descriptions": {"a": "first"}}
    return changed(tmp_path, folder, {"pretrained_cfg": cfg, **labels, **options})


OF_DATA = ("architecture", "pretrained_cfg", "label_names", "label_descriptions")


@pytest.mark.parametrize(
    ("folder", "architecture"),
    [
        ("resnet_basic", "resnet34"),
        ("resnet_bottleneck", "resnet101"),
        ("vit", "deit_tiny_patch16_224"),
    ],
)
def test_what_timm_tells_of_data_is_kept(folder, architecture, tmp_path):
    source = described(tmp_path, folder, architecture=architecture)
    save(tmp_path / "like", *load_resnet(source), like=source)
    before = json.loads((source / "config.json").read_text())
    config = json.loads((tmp_path / "like" / "config.json").read_text())
    assert {key: config[key] for key in OF_DATA} == {key: before[key] for key in OF_DATA}
    assert config["architecture"] == architecture
    assert config["label_names"] == list("abcde")
    assert config["pretrained_cfg"]["crop_pct"] == 0.9


def test_names_of_other_classes_are_not_kept(tmp_path):
    source = described(tmp_path, "vit")
    module, params = load_vit(source)
    head = {"linear": {"kernel": np.zeros((16, 2)), "bias": np.zeros(2)}}
    save(tmp_path / "two", module.clone(num_classes=2), params | {"head": head}, like=source)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert not {"label_names", "label_descriptions"} & config.keys()
    assert config["pretrained_cfg"]["num_classes"] == config["num_classes"] == 2
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("said", [None, 3, ["a"]])
def test_a_description_of_data_in_another_form_is_dropped(said, tmp_path):
    source = described(tmp_path, "vit", pretrained_cfg=said)
    save(tmp_path / "out", *load_vit(source), like=source)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"] == {"input_size": [3, 16, 16]}


def test_a_vit_of_our_own_tells_the_size_of_its_images(tmp_path):
    module = ViT(3, patch_size=4, width=8, depth=1, heads=2)
    save(tmp_path, module, zeros(module, 8, 1)["params"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"] == {"input_size": [1, 8, 8]}


def test_larger_members_of_the_families(tmp_path):
    for architecture in ("resnet26", "resnet101", "resnet152"):
        load_resnet(changed(tmp_path, "resnet_bottleneck", {"architecture": architecture}))
    load_vit(changed(tmp_path, "vit", {"architecture": "vit_large_patch16_224"}))


@pytest.mark.parametrize(("folder", "head"), [("resnet_basic", "fc"), ("vit", "head")])
def test_networks_without_a_head(folder, head, tmp_path):
    taken = {f"{head}__weight": None, f"{head}__bias": None}
    inner = json.loads((DATA / folder / "config.json").read_text())["model_args"]
    none = {"num_classes": 0, "model_args": inner | {"num_classes": 0}}  # as timm writes them
    backbone = changed(tmp_path, folder, none, **taken)
    with pytest.raises(InputError, match=f"has no head '{head}'; give num_classes, for a new one"):
        load_classifier(backbone)
    found = load_classifier(backbone, num_classes=3)
    whole = load_classifier(DATA / folder)
    assert (found.new_head, whole.new_head) == (True, False)
    assert found.module == whole.module.clone(num_classes=3)
    drawn = found.weights.params.pop("head")["linear"]
    assert drawn["kernel"].shape[1] == 3 and 0.005 < drawn["kernel"].std() < 0.05
    del whole.weights.params["head"]
    jax.tree.map(np.testing.assert_array_equal, found.weights, whole.weights)
    two = {f"{head}__0__weight": np.ones((3, 3), np.float32)}
    with pytest.raises(InputError, match=rf"a head of several layers \('{head}.0.weight' ...\)"):
        load_classifier(changed(tmp_path, folder, none, **taken, **two), num_classes=3)
    with pytest.raises(InputError, match="num_classes is 3, but .* has a head of 5; leave it out"):
        load_classifier(DATA / folder, num_classes=3)


def test_a_configuration_of_transformers(tmp_path):
    folder = changed(tmp_path, "vit", {"model_type": "vit"})
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="is from transformers, but the tensors beside it are fr"):
        load_vit(folder)


def test_the_file_that_timm_reads(tmp_path):
    """Other files of safetensors beside `model.safetensors` are left alone."""
    folder = changed(tmp_path, "vit")
    save_file({"x": np.zeros(1, np.float32)}, folder / "a.safetensors")
    load_vit(folder)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"norm": "group"}, "ResNet.norm is 'group', but must be 'batch' in the"),
        ({"strides": (1, 1)}, r"ResNet.strides is \(1, 1\), but must be \(1, 2\)"),
        ({"stem_stride": 2}, r"stem_pool\) is \(3, 2, False\), .* \(7, 2, True\) or \(3, 1, False"),
    ],
)
def test_resnets_that_the_layout_cannot_say(fields, match, tmp_path):
    module = ResNet(
        **{"num_classes": 3, "widths": (2, 4), "blocks": (1, 1), "strides": (1, 2)} | fields
    )
    with pytest.raises(InputError, match=match):
        save(tmp_path, module, {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pooling", "tokens"), [("mean", 5), ("cls", 6)])
def test_vits_that_the_layout_cannot_say(pooling, tokens, tmp_path):
    module = ViT(3, patch_size=4, width=8, depth=1, heads=2, pooling=pooling)
    with pytest.raises(InputError, match=f"pooling '{pooling}' and {tokens} positions, but must"):
        save(tmp_path, module, {"position": np.zeros((1, tokens, 8))})


def changed(tmp_path, folder, options=None, **tensors):
    """A copy in which tensors (`_` for `.`; None takes one away) or options are others."""
    copy = Path(shutil.copytree(DATA / folder, tmp_path / folder, dirs_exist_ok=True))
    stored = load_file(copy / "model.safetensors")
    stored |= {name.replace("__", "."): value for name, value in tensors.items()}
    stored = {name: value for name, value in stored.items() if value is not None}
    save_file(stored, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | (options or {})))
    return copy


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"conv1__weight": None}, "'conv1.weight' in .* is missing, but must have 4 axes"),
        ({"conv1__weight": np.ones(3)}, r"'conv1.weight' in .* of shape \[3\], but must have 4"),
        ({"conv1__weight": np.ones((8, 3, 5, 5))}, "the stem of the ResNet in .* is 5x5"),
        ({"layer1__0__conv1__weight": None}, "holds no ResNet, ViT, Swin or VGG in a known"),
        ({"fc__weight": None}, "has no head"),
        ({"fc__weight": np.ones((0, 3))}, r"'fc.weight' in .* is of shape \[0, 3\]"),
        ({"layer2__1__bn2__weight": None}, "lacks the tensor 'layer2.1.bn2.weight'"),
        ({"layer1__0__se__fc1__weight": np.ones(3)}, "holds the tensor 'layer1.0.se.fc1.weight'"),
    ],
)
def test_another_resnet(tensors, match, tmp_path):
    tensors = {name: v if v is None else v.astype(np.float32) for name, v in tensors.items()}
    with pytest.raises(InputError, match=match):
        load_resnet(changed(tmp_path, "resnet_basic", **tensors))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"architecture": "resnetblur18"}, "the architecture in .* is 'resnetblur18', but must be"),
        (
            {"architecture": None},
            "config.json is not timm's, but must have an 'architecture'",
        ),
        ({"model_args": 3}, "config.json is not timm's, .* options in 'model_args'"),
        ({"num_classes": 6}, "'num_classes' in .* is 6, but must be 5"),
        ({"global_pool": "max"}, "'global_pool' in .* is 'max', but must be 'avg'"),
        (
            {"act": "gelu"},
            r"has the option 'act' \('gelu'\), which is not supported; supported options are",
        ),
        ({"model_args": {"aa_layer": "blur"}}, "has the option 'aa_layer'"),
        ({"model_args": {"layers": [1, 1, 1, 1]}}, "'layers' in .* is"),
    ],
)
def test_a_configuration_of_another_resnet(options, match, tmp_path):
    folder = changed(tmp_path, "resnet_basic", options)
    with pytest.raises(InputError, match=match):
        load_resnet(folder)
    load_resnet(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "tensors", "match"),
    [
        ({}, {"cls_token": None}, "lacks the tensor 'cls_token'"),
        (
            {},
            {"pos_embed": np.ones((1, 16, 16))},
            "the positions in .* are 16, but must be one for",
        ),
        ({}, {"pos_embed": np.ones((1, 1, 16))}, "the positions in .* are 1, but"),
        ({}, {"head__weight": None}, "has no head"),
        ({}, {"blocks__0__norm1__weight": None}, "holds no ResNet, ViT"),
        ({}, {"blocks__1__ls1__gamma": np.ones(16)}, "holds the tensor 'blocks.1.ls1.gamma'"),
        ({"architecture": "vit_base_patch16_clip_224"}, {}, "but must be .vit.deit"),
        (
            {"global_pool": "avg"},
            {},
            "'global_pool' in .* is 'avg', but must be 'token'",
        ),
        ({"model_args": {"num_heads": 3}}, {}, "multiple of the 3 heads"),
        ({"model_args": {"num_heads": "3"}}, {}, "ViT.heads is '3'"),
        ({"model_args": {"num_heads": 2, "qk_norm": True}}, {}, "the option 'qk_norm'"),
    ],
)
def test_another_vit(options, tensors, match, tmp_path):
    tensors = {name: v if v is None else v.astype(np.float32) for name, v in tensors.items()}
    with pytest.raises(InputError, match=match):
        load_vit(changed(tmp_path, "vit", options, **tensors))
