"""Tiny classifiers of timm with random weights, and what they say of some images.

Writes `tests/models/pretrained/data/{resnet_basic,resnet_bottleneck,vit}`. Needs torch, timm and
safetensors (the extra `import-test`), no network, and is run by hand:

    python tests/models/pretrained/references/classifiers.py
"""

import json
from pathlib import Path

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
}


def main() -> None:
    import numpy as np
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    for folder, (architecture, arguments, size) in MODELS.items():
        model = timm.create_model(architecture, **arguments).eval()
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1 or name in ("cls_token", "pos_embed"):
                tensor.normal_(std=0.5)
            elif tensor.is_floating_point():
                tensor.normal_(std=tensor[0].numel() ** -0.5)
        images = torch.randn(2, *size)
        with torch.no_grad():
            logits = model(images)
        save_for_hf(model, str(DATA / folder), safe_serialization=True)
        config = json.loads((DATA / folder / "config.json").read_text())
        said = config["pretrained_cfg"]  # of these only what is true of random weights
        config["pretrained_cfg"] = {key: said[key] for key in ("input_size", "mean", "std")}
        (DATA / folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        images = images.permute(0, 2, 3, 1)
        np.savez(DATA / folder / "expected.npz", images=images.numpy(), logits=logits.numpy())
        print(folder, logits)


if __name__ == "__main__":
    main()
