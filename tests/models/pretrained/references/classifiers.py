"""Tiny classifiers of timm, torchvision and transformers with random weights, and some logits.

Writes the folders of `MODELS` and `OTHERS` into `tests/models/pretrained/data`. Needs the extra
`import-test`, no network, and is run by hand:

    python tests/models/pretrained/references/classifiers.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "data"
MODELS = {
    "resnet_basic": (
        "resnet18",
        {"layers": [1, 2, 1, 1], "channels": [8, 8, 12, 16], "num_classes": 5},
        (3, 40, 33),
    ),
    "resnet_bottleneck": (
        "resnet50",
        {"layers": [1, 2, 1, 1], "channels": [4, 4, 4, 8], "num_classes": 5, "in_chans": 1},
        (1, 33, 48),
    ),
    "vit": (
        "vit_tiny_patch16_224",
        {
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 3.0,
            "patch_size": 4,
            "img_size": 16,
            "num_classes": 5,
        },
        (3, 16, 16),
    ),
    "swin_timm": (
        "swin_tiny_patch4_window7_224",
        {
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": 4,
            "img_size": 32,
            "num_classes": 5,
        },
        (3, 32, 32),
    ),
}
OTHERS = ("vit_torchvision", "swin_torchvision", "vgg_torchvision", "vit_transformers")
OTHERS += ("resnet_transformers",)


def other(name: str) -> Any:
    """A tiny network of torchvision or transformers."""
    import transformers
    from torch import nn
    from torchvision.models import SwinTransformer, VisionTransformer, vgg

    if name == "vit_torchvision":
        return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    if name == "swin_torchvision":
        return SwinTransformer([4, 4], 8, [2, 2], [1, 2], [4, 4], num_classes=5)
    if name == "vgg_torchvision":
        network = vgg.VGG(vgg.make_layers([4, "M", 6, 6, "M"], batch_norm=True), 5)
        layers = list(network.classifier)  # published ones are 4096 wide
        layers[0], layers[3], layers[6] = nn.Linear(294, 6), nn.Linear(6, 7), nn.Linear(7, 5)
        network.classifier = nn.Sequential(*layers)
        return network
    if name == "vit_transformers":
        options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        options |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8, "num_labels": 5}
        return transformers.ViTForImageClassification(transformers.ViTConfig(**options))
    options = {"embedding_size": 4, "hidden_sizes": [16, 32], "depths": [1, 2], "num_labels": 5}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**options))


def main() -> None:
    """Makes all, or those whose folders are named."""
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models import save_for_hf

    torch.manual_seed(0)
    for folder in sys.argv[1:] or (*MODELS, *OTHERS):
        place = DATA / folder
        place.mkdir(exist_ok=True)
        if folder in MODELS:
            architecture, arguments, size = MODELS[folder]
            model = timm.create_model(architecture, **arguments)
            randomize(model)
            save_for_hf(model, str(place), safe_serialization=True)
            config = json.loads((place / "config.json").read_text())
            said = config["pretrained_cfg"]  # of these only what is true of random weights
            config["pretrained_cfg"] = {key: said[key] for key in ("input_size", "mean", "std")}
            (place / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        else:
            model, size = other(folder), (3, 32, 32)
            randomize(model)
            if folder.endswith("transformers"):
                model.save_pretrained(place)
            else:
                save_file(model.state_dict(), place / "model.safetensors", {"format": "pt"})
        images = torch.randn(2, *size)
        with torch.no_grad():
            logits = model(images)
        logits = getattr(logits, "logits", logits)
        images = images.permute(0, 2, 3, 1)
        np.savez(place / "expected.npz", images=images.numpy(), logits=logits.numpy())
        print(folder, logits)


def randomize(model: Any) -> None:
    """Draws every parameter and running statistic, so that each has an effect."""
    for name, tensor in model.eval().state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim in (1, 3) or "relative_position_bias" in name:
            if tensor.is_floating_point():
                tensor.normal_(std=0.5)
        elif tensor.is_floating_point():
            tensor.normal_(std=tensor[0].numel() ** -0.5)


if __name__ == "__main__":
    main()
