"""Models that are found, and written back as they came."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxunlearn import models
from jaxunlearn.models import denoisers, pretrained
from jaxunlearn.models.pretrained.classifiers import load_classifier
from jaxunlearn.models.pretrained.diffusers_unet import load_unet2d
from jaxunlearn.types import InputError

DATA = Path(__file__).parent / "data"


def tensors(folder):
    """All stored tensors but counts of batches and positions that follow from the sizes."""
    return {
        (file.relative_to(folder).as_posix(), name.removeprefix("text_model.")): value.astype(
            np.float32
        ).tolist()
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
        if not name.endswith(("num_batches_tracked", "relative_position_index"))
    }


def configs(folder):
    """All options but the type of stored weights, and the sizes that are written out."""
    files = {
        f.relative_to(folder).as_posix(): json.loads(f.read_text())
        for f in folder.rglob("config.json")
    }
    return {
        (file, name): value
        for file, config in files.items()
        for name, value in config.items()
        if name not in ("dtype", "torch_dtype", "model_args", "time_embedding_dim")
    }


QUICK = [
    ("resnet_basic", "timm", "classifier", {}),
    ("vit_torchvision", "torchvision", "classifier", {"heads": 2}),
    ("vit_transformers", "transformers", "classifier", {}),
    ("unet2d/classes", "diffusers", "denoiser", {"null_class": True}),
    ("dit/transformer", "diffusers", "denoiser", {}),
]
LONG = [
    ("resnet_bottleneck", "timm", "classifier", {}),
    ("vit", "timm", "classifier", {}),
    ("resnet_transformers", "transformers", "classifier", {}),
    ("swin_timm", "timm", "classifier", {}),
    ("swin_torchvision", "torchvision", "classifier", {}),
    ("vgg_torchvision", "torchvision", "classifier", {}),
    ("unet2d/unconditional", "diffusers", "denoiser", {}),
    ("stable_diffusion/vae", "diffusers", "autoencoder", {}),
    ("stable_diffusion", "diffusers", "text_to_image", {}),
]


@pytest.mark.parametrize(
    ("folder", "layout", "kind", "facts"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)],
)
def test_written_as_it_came(folder, layout, kind, facts, tmp_path):
    found = pretrained.find(DATA / folder, **facts)
    assert (found.layout, found.kind) == (layout, kind)
    # A record of it suffices to write it.
    record = json.loads(json.dumps(found._replace(weights=None)._asdict()))
    pretrained.save(tmp_path, pretrained.Found(**record), found.weights)
    assert tensors(tmp_path) == tensors(DATA / folder)
    before, after = configs(DATA / folder), configs(tmp_path)
    assert {name: after[name] for name in before} == before
    again = pretrained.find(tmp_path)
    assert json.loads(
        json.dumps(again._replace(weights=None, config={}, process=None)._asdict())
    ) == record | {"config": {}, "process": None}
    jax.tree.map(np.testing.assert_array_equal, again.weights, found.weights)


@pytest.mark.parametrize(
    ("folder", "facts", "match"),
    [
        ("resnet_basic", {"heads": 2}, "heads is given, but .* does not leave it open"),
        ("unet2d/classes", {}, "embedding of 4 rows, .*give null_class=True"),
        ("inception", {}, "holds no ResNet, ViT, Swin or VGG in a known"),
        (".", {}, "holds no safetensors file, but must hold one"),
        ("missing", {}, "does not exist; check the path"),
    ],
)
def test_refused(folder, facts, match):
    with pytest.raises(InputError, match=match):
        pretrained.find(DATA / folder, **facts)


def test_another_class_of_diffusers(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="is a 'FluxPipeline' of diffusers, but must be one of"):
        pretrained.find(tmp_path)


def test_layouts_without_such_a_model(tmp_path):
    found = pretrained.find(DATA / "vit")
    for layout, match in (
        ("diffusers", "'diffusers', but must be one of transformers, torchvision, timm for ViT"),
        ("pytorch-cifar", "the layout is 'pytorch-cifar', but must be one of"),
    ):
        with pytest.raises(InputError, match=match):
            pretrained.save(tmp_path / "out", found._replace(layout=layout), found.weights)
    assert not (tmp_path / "out").exists()


def test_the_settings_make_the_model():
    found = pretrained.find(DATA / "resnet_bottleneck")
    module = models.create(found.model, found.num_classes, **found.fields)
    assert module == load_classifier(DATA / "resnet_bottleneck").module
    found = pretrained.find(DATA / "unet2d" / "unconditional")
    module = denoisers.create(found.model, found.image_shape, 10, **found.fields)
    assert module == load_unet2d(DATA / "unet2d" / "unconditional")[0]
