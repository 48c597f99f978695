"""A tiny Stable Diffusion v1 with random weights, and what its parts make of some inputs.

Writes `tests/models/pretrained/data/stable_diffusion`: the folders of diffusers' pipeline,
`expected.npz`, `prompts.json` (prompts and their ids by transformers' `CLIPTokenizer`, whose
vocabulary is trained here) and `published.json` (counts and hashes of the tensor names and shapes
of the published sizes). Needs torch, diffusers, transformers and safetensors (the extra
`import-test`), no network, and is run by hand:

    python tests/models/pretrained/references/stable_diffusion.py
"""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "stable_diffusion"
LENGTH = 12
CORPUS = """
a photo of a coat, a photograph of two coats; the painting of a painter painting a sandal
t-shirts, trousers and pullovers: it's what they've said, don't they'll say, I'm sure we're right
sneakers in 1990 and 2024, boots in the style of van gogh, an oil painting, a cartoon, a sketch
the quick brown fox jumps over the lazy dog while the other foxes are jumping and photographing
über naïve café, crème brûlée, señor, 東京 東京, привет привет, 😀😀
"""
PROMPTS = [
    "",
    " ",
    "a photo of a coat",
    "A Photo Of A COAT",
    "  a\tphoto \n of  a coat  ",
    "a photograph of two coats",
    "the painter's painting",
    "it's what they've said",
    "don't say they'll say I'm sure we're right, he'd say",
    "'tis o'clock 'n' roll 'S 'LL",
    "''s !'s s's'",
    "t-shirts",
    "1990",
    "in 2024 and 3.14",
    "x2y3z",
    "½ ² Ⅷ ٣",
    "hello, world!!! (what?) [no] {yes} <tag> #hash @at $5 %10 ^ & * _ under_score",
    "...",
    "/\\|~`",
    "a photo of a coat, a photograph of two coats, and a painting of a very old painter",
    "antidisestablishmentarianism",
    "über naïve café",
    "u\u0308ber nai\u0308ve cafe\u0301",
    "crème brûlée",
    "ÉCOLE ÀÉÎÕÜ",
    "straße STRASSE ẞ",
    "привет мир",
    "東京タワー",
    "한국어",
    "مرحبا",
    "हिन्दी",
    "😀",
    "coat😀coat",
    "👩‍👩‍👧",
    "<|endoftext|>",
    "<|startoftext|> a coat",
    "a <|endoftext|> coat",
    "zero\u00a0width\u3000space",
    "i\u0307 İ",
    "qqqq zzzz aaaa",
    "fi ligature ﬁ",
    "\u0301 alone",
    "a-b_c",
]
PUBLISHED_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
PUBLISHED_UNET = {"cross_attention_dim": 768}
PUBLISHED_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def trained_merges(tokenizer):
    """Merges the most frequent pair, the last in the alphabet of several, 144 times."""
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(CORPUS)
    words = Counter(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in words.items()}
    merges = []
    for _ in range(144):
        pairs = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = {}
        for word, count in words.items():
            out = []
            for token in word:
                if out and (out[-1], token) == best:
                    out[-1] += token
                else:
                    out.append(token)
            merged[tuple(out)] = count
        words = merged
    return merges


def write_tokenizer(folder):
    """A vocabulary in CLIP's order: bytes, bytes at the end of a word, merges, start and end."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    merges = trained_merges(CLIPTokenizer())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == len(set(tokens))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, separators=(",", ":")) + "\n")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "add_prefix_space": False,
        "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>", "normalized": True},
        "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "normalized": True},
        "model_max_length": LENGTH,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer(vocab=vocabulary, merges=merges), len(tokens)


def randomised(model):
    """Nothing is left at 0 or 1; numbers that half precision holds exactly."""
    import torch

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(std=0.3)
            elif "embedding.weight" in name:
                tensor.normal_(std=0.5)
            else:
                tensor.normal_(std=tensor[0].numel() ** -0.5)
    return model.eval().half().float()


def write_published():
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        models = {
            "autoencoder": AutoencoderKL(**PUBLISHED_VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**PUBLISHED_TEXT)),
            "text_unet": UNet2DConditionModel(**PUBLISHED_UNET),
        }
    found = {}
    for part, model in models.items():
        prefix = "text_model." if part == "text_encoder" else ""  # as in the published files
        lines = sorted(f"{prefix}{name} {list(p.shape)}" for name, p in model.named_parameters())
        found[part] = {
            "tensors": len(lines),
            "parameters": sum(p.numel() for p in model.parameters()),
            "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }
    (DATA / "published.json").write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    import numpy as np
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer, vocabulary = write_tokenizer(DATA / "tokenizer")
    options = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
    ids = tokenizer(PROMPTS, **options)["input_ids"]
    prompts = {"prompts": PROMPTS, "ids": ids}
    (DATA / "prompts.json").write_text(json.dumps(prompts, separators=(",", ":")) + "\n")

    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.25,
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            max_position_embeddings=LENGTH,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    )
    vae, unet, text = randomised(vae), randomised(unet), randomised(text)
    images = torch.rand(2, 3, 12, 10) * 2 - 1
    latents = torch.randn(2, 4, 7, 6)  # the U-Net halves 7 to 4 and comes back to 7
    timesteps = torch.tensor([3, 741])
    with torch.no_grad():
        moments = vae.encode(images).latent_dist
        decoded = vae.decode(latents).sample
        states = text(torch.tensor(ids[2:8])).last_hidden_state
        noise = unet(latents, timesteps, states[:2]).sample
    expected = {
        "images": images,
        "mean": moments.mean,
        "log_variance": moments.logvar,
        "latents": latents,
        "decoded": decoded,
        "noise": noise,
    }
    expected = {name: value.permute(0, 2, 3, 1).numpy() for name, value in expected.items()}
    expected |= {"timesteps": timesteps.numpy(), "states": states.numpy()}
    np.savez(DATA / "expected.npz", **expected)
    for name, value in expected.items():
        print(name, value.shape, value.std())

    for part, model in (("vae", vae), ("unet", unet), ("text_encoder", text)):
        model.half().save_pretrained(DATA / part, safe_serialization=True)
    write_published()


if __name__ == "__main__":
    main()
