"""Tiny `UNet2DModel`s of diffusers with random weights, and the noise they see in some images.

Writes `tests/models/pretrained/data/unet2d/{classes,unconditional}`, which differ in every option
that is supported, and `published.json` with the tensor names and shapes of the public DDPM on
CIFAR-10, as a count and a hash. Needs torch, diffusers and safetensors (the extra `import-test`),
no network, and is run by hand:

    python tests/models/pretrained/references/unet2d.py
"""

import hashlib
import json
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "unet2d"
MODELS = {
    "classes": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "num_class_embeds": 4,
    },
    "unconditional": {
        "sample_size": [8, 4],
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "block_out_channels": [4, 4],
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "norm_eps": 1e-2,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "dropout": 0.1,
    },
}
CIFAR10 = {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
}


def main() -> None:
    import numpy as np
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    for folder, config in MODELS.items():
        model = UNet2DModel(**config).eval()
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(std=0.3)
        sides = np.broadcast_to(config["sample_size"], 2)
        images = torch.randn(3, config["in_channels"], *sides)
        timesteps, labels = torch.tensor([0, 17, 999]), torch.tensor([0, 2, 3])
        with torch.no_grad():
            given = labels if "num_class_embeds" in config else None
            noise = model(images, timesteps, class_labels=given).sample
        model.save_pretrained(DATA / folder)
        np.savez(
            DATA / folder / "expected.npz",
            images=images.permute(0, 2, 3, 1).numpy(),
            timesteps=timesteps.numpy(),
            labels=labels.numpy(),
            noise=noise.permute(0, 2, 3, 1).numpy(),
        )
        print(folder, noise.std())

    with torch.device("meta"):
        tensors = UNet2DModel(**CIFAR10).state_dict()
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    published = {"tensors": len(lines), "sha256": digest}
    (DATA / "published.json").write_text(json.dumps(published, indent=2) + "\n")


if __name__ == "__main__":
    main()
