"""A tiny `DiTTransformer2DModel` of diffusers with random weights, and the noise it sees.

Writes `tests/models/pretrained/data/dit`: the transformer of a `DiTPipeline`, `expected.npz`, and
`published.json` with the tensor names and shapes of DiT-XL/2, as a count and a hash. The embedding
of the condition is made the same in all blocks, as it is in the public weights. Needs torch,
diffusers and safetensors (the extra `import-test`), no network, and is run by hand:

    python tests/models/pretrained/references/dit.py
"""

import hashlib
import json
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "dit"
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 3,
    "norm_eps": 1e-2,
}
XL = {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8}


def main() -> None:
    import numpy as np
    import torch
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(**TINY).eval()
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        tensor.normal_(std=0.3 if tensor.ndim == 1 else tensor[0].numel() ** -0.5)
        block, _, rest = name.partition(".norm1.emb.")
        if rest and not block.endswith(".0"):
            tensor.copy_(tensors[f"transformer_blocks.0.norm1.emb.{rest}"])
    images = torch.randn(3, TINY["in_channels"], 8, 8)
    timesteps, labels = torch.tensor([0, 17, 999]), torch.tensor([0, 2, 3])
    with torch.no_grad():
        noise = model(images, timesteps, class_labels=labels).sample
    model.save_pretrained(DATA / "transformer")
    np.savez(
        DATA / "expected.npz",
        images=images.permute(0, 2, 3, 1).numpy(),
        timesteps=timesteps.numpy(),
        labels=labels.numpy(),
        noise=noise.permute(0, 2, 3, 1).numpy(),
    )
    print(noise.std())

    with torch.device("meta"):
        tensors = DiTTransformer2DModel(**XL).state_dict()
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    published = {"tensors": len(lines), "sha256": digest}
    (DATA / "published.json").write_text(json.dumps(published, indent=2) + "\n")


if __name__ == "__main__":
    main()
