"""torchvision's Inception-v3, each layer cut to a sixteenth of its channels, with random weights.

Writes `tests/models/pretrained/data/inception`, the weights in half precision. Needs torch,
torchvision and safetensors (the extra `import-test`), no network, and is run by hand:

    python tests/models/pretrained/references/inception.py

torchvision has no network of the Fréchet distance. It is the same but for its pooling, which is
exchanged here in the functions that torchvision's blocks call.
"""

from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "inception"
DIVISOR, CLASSES = 16, 5


def narrow(model) -> None:
    """Cuts the channels of every layer, and draws weights that half precision can hold."""
    import torch

    for name, tensor in {**model.state_dict()}.items():
        shape = [n if n == 3 else n // DIVISOR for n in tensor.shape[:2]] + list(tensor.shape[2:])
        if name.startswith("fc."):
            shape[0] = CLASSES
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var") or name.endswith("bn.weight"):
            drawn = torch.empty(shape).uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            drawn = torch.randn(shape) * 0.3
        else:
            drawn = torch.randn(shape) * (1.5 / torch.tensor(shape[1:]).prod()) ** 0.5
        owner, leaf = name.rsplit(".", 1)
        setting = model.get_submodule(owner)
        drawn = drawn.half().float()
        is_buffer = leaf in dict(setting.named_buffers(recurse=False))
        setattr(setting, leaf, drawn if is_buffer else torch.nn.Parameter(drawn))


def main() -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from torchvision.models import Inception3, inception

    torch.manual_seed(0)
    model = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False).eval()
    narrow(model)
    stored = {
        name: tensor.half()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    DATA.mkdir(parents=True, exist_ok=True)
    save_file(stored, DATA / "model.safetensors")

    pixels = torch.randint(0, 256, (1, 3, 107, 91), dtype=torch.uint8)
    images = pixels / 127.5 - 1
    seen = {}

    def watch(name):
        def remember(_, inputs, output):
            seen[name + "_in"], seen[name + "_out"] = inputs[0], output

        model.get_submodule(name).register_forward_hook(remember)

    for name in ("Mixed_5b", "Mixed_7c", "avgpool"):
        watch(name)
    with torch.no_grad():
        model(images)
    expected = {
        "before_5b": seen["Mixed_5b_in"],
        "block_5b": seen["Mixed_5b_out"],
        "before_7c": seen["Mixed_7c_in"],
        "block_7c": seen["Mixed_7c_out"],
    }

    plain = inception.F.avg_pool2d

    def without_padding(x, **options):
        return plain(x, **options, count_include_pad=False)

    def largest(x, **options):
        return inception.F.max_pool2d(x, **options)

    inception.F.avg_pool2d = without_padding
    last = model.Mixed_7c
    last.register_forward_pre_hook(lambda *_: setattr(inception.F, "avg_pool2d", largest))
    last.register_forward_hook(lambda *_: setattr(inception.F, "avg_pool2d", without_padding))
    with torch.no_grad():
        expected["frechet_logits"] = model(images)
    expected["frechet_features"] = seen["avgpool_out"].flatten(1)

    small = torch.rand(2, 3, 5, 7)
    resized = torch.nn.functional.interpolate(small, (11, 11), mode="bilinear", align_corners=False)
    smaller = torch.nn.functional.interpolate(small, (4, 4), mode="bilinear", align_corners=False)
    expected |= {"small": small, "resized_11": resized, "resized_4": smaller, "pixels": pixels}
    arrays = {
        name: (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()
        for name, tensor in expected.items()
    }
    np.savez_compressed(DATA / "expected.npz", **arrays)
    for name, array in arrays.items():
        print(name, array.shape, float(array.mean()), float(array.std()))


if __name__ == "__main__":
    main()
