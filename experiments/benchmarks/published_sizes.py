"""A step of training and of unlearning at the published sizes, beside PyTorch, on a GPU.

    pip install '.[bench]'       (and diffusers, for the U-Net of Stable Diffusion)
    python experiments/benchmarks/published_sizes.py --processes 4 ['dit-xl/2 ours' ...]

ResNet-18, ViT-B, DiT-XL/2, the U-Net of DDPM for CIFAR-10 and the U-Net of Stable Diffusion take
plain steps, steps of EUPMU (same-batch multiplier) and of SFR-on (a masked forget step and five
retain steps) in bfloat16: ours, and PyTorch's under autocast, eagerly and with `torch.compile`. The
PyTorch models are `torch_models.py` and diffusers', the loops `torch_unlearning.py`. With `--tiny`
small models in float32 do the same on a CPU, and those of `torch_models.py` are refused unless
their outputs equal ours.

A cell is one model in one form, measured by a process of its own, with nothing beside it; the
median of five turns counts. Finished cells are kept in `results/published_sizes_gpu.json` and are
measured again only if they are named; the table is the `.md` file of that name. With `--processes`
our programs are compiled first, several at once, into JAX's persistent cache.

Operations are those of the matrix products and convolutions in our program; their share of the peak
is reported for known devices, or for `--peak` in TFLOP/s (dense bfloat16).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from jaxunlearn import methods, models
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.process import Process
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.tasks import classification, diffusion
from jaxunlearn.training import executable_for, programs
from jaxunlearn.training.compilation import keep_compiled_programs
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Model, Task

RESULTS = Path(__file__).parent / "results" / "published_sizes_gpu.json"
PEAKS = {  # TFLOP/s of dense bfloat16 products, by a part of the device's name
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
    "L4": 121.0,
}
FORMS = ("ours", "eager", "compiled")
STEPS = {  # method and settings of each kind of step
    "plain": ("finetune", {}),
    "eupmu": ("eupmu", {"tolerance": 0.01, "multiplier_learning_rate": 0.1}),
    "sfron": ("sfron", {"clip_norm": 1.0}),
}
TURNS, LONGEST = 5, 50  # steps of a turn
WORDS, PROMPTS = 77, 10


class Size(NamedTuple):
    """A model of a published size.

    Attributes:
        model: our module.
        batch: number of examples in a batch.
        shape: shape of an image.
        classes: number of classes or prompts.
        optimizer: "sgd" or "adamw".
        theirs: the function of `torch_models` and its arguments; None for diffusers' U-Net.
    """

    model: Any
    batch: int
    shape: tuple[int, int, int]
    classes: int
    optimizer: str
    theirs: tuple[Any, ...] | None

    @property
    def generates(self) -> bool:
        """Whether the model denoises."""
        return not isinstance(self.model, models.ResNet | models.ViT)


def sizes(tiny: bool) -> dict[str, Size]:
    """The models by name, the most expensive one to train first."""
    options: dict[str, Any] = {} if tiny else {"dtype": "bfloat16"}
    image, latents = ((8, 8, 3), (8, 8, 4)) if tiny else ((32, 32, 3), (32, 32, 4))
    small_dit = {"width": 16, "depth": 2, "heads": 2} if tiny else {}
    small_unet = {"widths": (8, 16), "blocks": 2, "groups": 4, "dropout": 0.0} if tiny else {}
    dit = denoisers.create("dit-xl/2", latents, 1000, **small_dit, **options)
    unet = denoisers.create("ddpm-cifar10", image, 10, **small_unet, **options)
    resnet = models.create("resnet18", 10, **({"widths": (4, 4, 8, 8)} if tiny else {}), **options)
    small_vit = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2} if tiny else {}
    vit = models.create("vit-b", 1000, **small_vit, **options)
    text = latent.create_text_unet("small" if tiny else "sd-v1", **options)
    levels, dropout = len(unet.widths), unet.dropout
    of_unet = ("unet", levels, unet.groups, unet.attention_levels, unet.blocks, dropout)
    of_vit = ("vit", vit.heads, vit.patch_size)
    of_dit = ("dit", dit.heads, dit.patch_size)
    square = image if tiny else (224, 224, 3)

    def few(batch: int) -> int:
        return 4 if tiny else batch

    return {
        "dit-xl/2": Size(dit, few(32), latents, 1000, "adamw", of_dit),
        "resnet18": Size(resnet, few(256), image, 10, "sgd", ("resnet", resnet.strides, 1)),
        "ddpm-cifar10": Size(unet, few(128), image, 10, "adamw", of_unet),
        "vit-b": Size(vit, few(64), square, 1000, "adamw", of_vit),
        "sd-v1": Size(text, few(8), (8, 8, 4) if tiny else (64, 64, 4), PROMPTS, "adamw", None),
    }


def task_of(size: Size) -> Task:
    """Our task; the model state of the text-conditioned U-Net holds the encoded prompts."""
    shape = {"image_shape": size.shape, "num_classes": size.classes}
    if not size.generates:
        return classification(size.model, mean=(0.5,) * 3, std=(0.5,) * 3, **shape)
    if size.theirs is not None:
        learned = getattr(size.model, "learn_variance", False)
        process = Process(variance="learned_range" if learned else "small")
        return diffusion(size.model, process, **shape)

    def init(key: jax.Array, images: jax.Array, timesteps: jax.Array, labels: jax.Array) -> Any:
        states = jnp.zeros((PROMPTS + 1, WORDS, size.model.context_width))
        params = size.model.init(key, images, timesteps, states[labels])["params"]
        return params, {"states": states}

    def apply(params: Any, model_state: Any, *inputs: Any, **options: Any) -> Any:
        images, timesteps, labels = inputs
        states = model_state["states"][labels]
        return size.model.apply({"params": params}, images, timesteps, states), model_state

    return diffusion(Model(init, apply), Process(schedule="scaled_linear"), **shape)


def settings_of(size: Size, step: str) -> tuple[str, dict[str, Any]]:
    """The method of a kind of step, and all its settings."""
    method, given = STEPS[step]
    given = given | {"forget_batch_size": size.batch, "retain_batch_size": size.batch}
    given |= {"num_steps": 10_000, "learning_rate": 1e-6, "learning_rate_schedule": "constant"}
    if size.generates and method == "eupmu":
        given |= {"objective": "match_anchor"}
    return method, methods.settings(method, given | {"optimizer": size.optimizer})


def examples(size: Size) -> dict[str, np.ndarray]:
    """A batch of random images and labels: a step costs the same for all."""
    draw, batch = np.random.default_rng(0), size.batch
    images = draw.standard_normal((batch, *size.shape), np.float32)
    if not size.generates:
        images = draw.integers(0, 256, images.shape).astype(np.uint8)
    labels = draw.integers(0, size.classes, batch).astype(np.int32)
    return {"image": images, "label": labels, "index": np.arange(batch, dtype=np.int32)}


def random_params(shapes: Any) -> Any:
    """Parameters that are not zero anywhere, so that a gradient passes through all of them."""
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [0.02 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def our_program(size: Size, step: str) -> tuple[Any, tuple[Any, ...], float, float]:
    """One kind of step: `(executable, arguments, seconds of compilation, operations)`.

    The state is filled in, not computed: the pass over the data for a mask is no part of a step.
    """
    task, (method, settings) = task_of(size), settings_of(size, step)
    program = programs.of_method(task, method, settings, placement_of(Layout(chunk_steps=LONGEST)))
    numbers = {k: jnp.float32(v) for k, v in programs.split(settings).numbers.items()}
    data, key = jax.device_put(examples(size)), jax.random.key(0)
    start = jax.eval_shape(task.init, key)
    shapes = jax.eval_shape(program.init, numbers, key, *start, data, data)
    state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, leaf.dtype == bool, leaf.dtype), shapes)
    state = state._replace(params=random_params(shapes.params))
    inputs = jax.device_put((numbers, state, data, data, jnp.int32(0)), jax.devices()[0])
    executable, seconds = executable_for(program.chunk, *inputs)
    return executable, inputs, seconds, operations(jax.make_jaxpr(program.chunk)(*inputs).jaxpr)


def operations(jaxpr: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a program.

    The body of a scan counts as often as it runs, of a while loop once, of a conditional the most
    expensive branch.

    Example:
        >>> a = jnp.ones((2, 3))
        >>> operations(jax.make_jaxpr(lambda x: x @ x.T)(a).jaxpr)
        24.0
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * np.prod([shape[i] for i in contracted])
        elif name == "conv_general_dilated":
            kernel, where = equation.invars[1].aval.shape, given["dimension_numbers"].rhs_spec
            total += 2.0 * equation.outvars[0].aval.size * np.prod(kernel) / kernel[where[0]]
        elif name == "cond":
            total += max(operations(branch.jaxpr) for branch in given["branches"])
        else:
            times = given["length"] if name == "scan" else 1
            inner = jaxprs_in_params(given)
            total += times * sum(operations(each) for each in inner)
    return total


def timed(go: Callable[[int], None]) -> float:
    """Milliseconds of a step: `go(n)` takes n steps and waits for them."""
    go(1)
    began = time.perf_counter()
    go(1)
    steps = int(np.clip(0.5 / (time.perf_counter() - began), 1, LONGEST))
    seconds = []
    for _ in range(TURNS):
        began = time.perf_counter()
        go(steps)
        seconds.append((time.perf_counter() - began) / steps)
    return 1000.0 * statistics.median(seconds)


def measure_ours(size: Size, step: str) -> dict[str, Any]:
    """One kind of step of ours."""
    executable, (numbers, state, *data, stop), seconds, count = our_program(size, step)

    def go(steps: int) -> None:
        nonlocal state, stop
        stop = stop + steps
        state, _, finite = jax.block_until_ready(executable(numbers, state, *data, stop))
        assert finite and state.step == stop, f"step {state.step} of {stop} is not finite"

    found = executable.memory_analysis()
    memory = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return {
        "ms": timed(go),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "operations": count,
        "memory": memory - found.alias_size_in_bytes,
        "compilation_seconds": seconds,
    }


def measure_theirs(size: Size, step: str, compiled: bool, tiny: bool) -> dict[str, Any]:
    """The same kind of step of PyTorch's."""
    import torch
    import torch_models
    import torch_unlearning

    torch_models.DEVICE = device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.cuda.reset_peak_memory_stats() if device == "cuda" else None
    data, settings = examples(size), settings_of(size, step)[1]
    weights, forward = their_model(size, device, tiny)
    losses = their_losses(size, forward, step == "eupmu", device, tiny)
    losses = torch.compile(losses, dynamic=False) if compiled else losses
    images = torch_models.tensor(data["image"].transpose(0, 3, 1, 2))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch_models.tensor(data["label"]).long()

    def of_batch(forget: bool) -> Callable[..., Any]:
        return lambda weights, *where: losses(weights, images, labels, forget)

    def go(steps: int) -> None:
        job = torch_unlearning.Job(of_batch(True), of_batch(False), of_batch(False), {}, steps)
        if step == "plain":
            history = torch_unlearning.finetune(weights, job, settings)
        elif step == "eupmu":
            history = torch_unlearning.eupmu(weights, job, settings)
        else:
            history = torch_unlearning.sfron(weights, job, settings, mask)
        assert np.isfinite(history).all(), "a loss is not finite"

    mask = [torch.ones_like(p, dtype=torch.bool) for p in torch_unlearning.leaves(weights)]
    began = time.perf_counter()
    go(1)
    seconds = time.perf_counter() - began
    return {
        "ms": timed(go),
        "parameters": sum(p.numel() for p in torch_unlearning.leaves(weights)),
        "memory": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "compilation_seconds": seconds if compiled else 0.0,
        "torch": torch.__version__,
    }


def their_model(size: Size, device: str, tiny: bool) -> tuple[Any, Callable[..., Any]]:
    """The weights of PyTorch's model, and `forward(weights, images, ...)`, in training mode."""
    import torch
    import torch_models
    import torch_unlearning

    if size.theirs is None:
        from diffusers import UNet2DConditionModel

        ours, levels = size.model, len(size.model.widths)
        attends = [level in ours.attention_levels for level in range(1, levels + 1)]
        net = UNet2DConditionModel(
            block_out_channels=ours.widths,
            layers_per_block=ours.blocks,
            down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
            up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
            attention_head_dim=ours.heads,
            cross_attention_dim=ours.context_width,
            norm_num_groups=ours.groups,
        ).to(device, memory_format=torch.channels_last)
        states = torch.zeros((PROMPTS + 1, WORDS, ours.context_width), device=device)
        weights = dict(net.named_parameters())
        shapes = jax.eval_shape(task_of(size).init, jax.random.key(0))[0]
        counts = [sum(p.numel() for p in weights.values())]
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
        assert counts[0] == counts[1], f"the numbers of parameters are {counts}"
        return weights, lambda weights, x, t, labels: net(x, t, states[labels]).sample

    name, *arguments = size.theirs
    forward = getattr(torch_models, name)(*arguments)
    task = task_of(size)
    params = random_params(jax.eval_shape(task.init, jax.random.key(0))[0])
    weights = torch_models.carried(params)
    if tiny:
        check_equal(size, params, forward, weights)
    for kernel in torch_unlearning.leaves(weights):
        if kernel.ndim == 4:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    return weights, forward if size.generates else lambda w, images: forward(w, images, True)


def check_equal(size: Size, params: Any, forward: Callable[..., Any], weights: Any) -> None:
    """Refuses a model of PyTorch's whose outputs are not ours."""
    import torch_models

    batch = examples(size)
    images = batch["image"] / np.float32(255 if batch["image"].dtype == np.uint8 else 1)
    rest = [np.full(size.batch, 7, np.int32), batch["label"]] if size.generates else []
    options = {} if size.generates else {"train": True, "mutable": ["batch_stats"]}
    ours = size.model.apply({"params": params}, images, *rest, **options)
    ours = ours if size.generates else ours[0]
    theirs = forward(
        weights,
        torch_models.tensor(images.transpose(0, 3, 1, 2)),
        *([torch_models.tensor(x).long() for x in rest] if size.generates else [True]),
    )
    theirs = theirs.numpy(force=True)
    theirs = theirs.transpose(0, 2, 3, 1) if size.generates else theirs
    apart = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert apart <= 1e-4, f"the outputs are {apart} apart"


def their_losses(
    size: Size, forward: Callable[..., Any], anchored: bool, device: str, tiny: bool
) -> Callable[..., Any]:
    """`(weights, images, labels, forget) -> losses [B]`, in bfloat16 under autocast."""
    import torch
    import torch.nn.functional as F
    import torch_models

    alphas = torch_models.tensor(Process().alphas_bar)
    signal, spread = alphas.sqrt().float(), (1.0 - alphas).sqrt().float()
    channels = size.shape[-1]

    def classified(weights: Any, images: Any, labels: Any, forget: bool) -> Any:
        if anchored and forget:
            labels = torch.randint_like(labels, size.classes)
        logits = forward(weights, (images.float() / 255.0 - 0.5) / 0.5)
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def denoised(weights: Any, images: Any, labels: Any, forget: bool) -> Any:
        t = torch.randint(0, 1000, labels.shape, device=device)
        wanted = noise = torch.randn_like(images)
        noisy = signal[t].reshape(-1, 1, 1, 1) * images + spread[t].reshape(-1, 1, 1, 1) * noise
        if anchored and forget:  # as if it were of the next class
            with torch.no_grad():
                anchor = (labels + 1) % size.classes
                wanted = forward(weights, noisy, t, anchor)[:, :channels].float()
        out = forward(weights, noisy, t, labels)[:, :channels].float()
        return ((out - wanted) ** 2).mean((1, 2, 3))

    def losses(*args: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=not tiny):
            return (denoised if size.generates else classified)(*args)

    return losses


def one_cell(name: str, tiny: bool, step: str | None) -> dict[str, Any]:
    """A cell in this process; with a kind of step our program is compiled, and no more."""
    model, form = name.split()
    size = sizes(tiny)[model]
    if step is not None:
        return {"compilation_seconds": our_program(size, step)[2]}
    if form == "ours":
        return {each: measure_ours(size, each) for each in STEPS}
    return {each: measure_theirs(size, each, form == "compiled", tiny) for each in STEPS}


def in_a_process(name: str, tiny: bool, *words: str) -> dict[str, Any] | None:
    """The same in a process of its own; None if it fails, which is printed."""
    with tempfile.TemporaryDirectory() as folder:
        path, command = Path(folder) / "cell.json", [sys.executable, __file__, name]
        command += ["--write", str(path), *words, *(["--tiny"] if tiny else [])]
        ended = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["killed"])[-1]
            print(f"{name} failed: {last}", flush=True)
            return None
        return read_json(path)


def cells(tiny: bool) -> list[str]:
    """The names of all cells; what is compared first stands first."""
    return [f"{model} {form}" for form in FORMS for model in sizes(tiny)]


def table(rows: dict[str, Any], peak: float | None, tiny: bool = False) -> str:
    """All cells, a line for each model and kind of step."""
    titles = ["model, batch, step", "ours, ms", "eager, ms", "compiled, ms", "ours / eager"]
    titles += ["ours / compiled", "TFLOP/s", "% of the peak", "memory, GB", "compilation, s"]
    lines = []
    for model, size in sizes(tiny).items():
        for step in STEPS:
            found = [rows.get(f"{model} {form}", {}).get(step) for form in FORMS]
            if not any(found):
                continue
            ms = [None if each is None else each["ms"] for each in found]
            ratios = [ms[0] / each if ms[0] and each else None for each in ms[1:]]
            speed = found[0] and found[0]["operations"] / found[0]["ms"] / 1e9
            share = 100.0 * speed / peak if speed and peak else None

            def of(what: str, scale: float, found: list[Any] = found) -> str:
                values = [each and each[what] and each[what] / scale for each in found]
                return ", ".join("–" if v is None else f"{v:.3g}" for v in values)

            numbers = [*ms, *ratios, speed, share]
            shown = ["–" if v is None else f"{v:.3g}" for v in numbers]
            shown += [of("memory", 1e9), of("compilation_seconds", 1.0)]
            lines.append([f"{model}, {size.batch}, {step}", *shown])
    return "\n".join(markdown_table(titles, lines)) + "\n"


def main() -> None:
    """Measures the cells that are missing, and writes the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cells to measure again, such as 'vit-b eager'")
    parser.add_argument("--processes", type=int, default=1, help="compilations at once")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--tiny", action="store_true", help="small models, to rehearse on a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file of the cells")
    parser.add_argument("--compile", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_compiled_programs()
    if given.write:
        given.write.write_text(json.dumps(one_cell(given.names[0], given.tiny, given.compile)))
        return
    every = cells(given.tiny)
    unknown = [name for name in given.names if name not in every]
    if unknown:
        parser.error(f"{unknown[0]!r} is no cell; the cells are {', '.join(map(repr, every))}")
    record = read_json(given.results) if given.results.exists() else {"rows": {}}
    rows = record["rows"]
    left = given.names or [name for name in every if name not in rows]
    if given.processes > 1:
        ours = [name for name in left if name.endswith("ours")]
        pairs = [(name, step) for step in STEPS for name in ours]

        def compiled(pair: tuple[str, str]) -> tuple[tuple[str, str], Any]:
            return pair, in_a_process(pair[0], given.tiny, "--compile", pair[1])

        with ThreadPoolExecutor(given.processes) as pool:
            for (name, step), found in pool.map(compiled, pairs):
                if found is not None:
                    record.setdefault("compilation", {}).setdefault(name, {})[step] = found
                    print(f"{name} {step}: {found['compilation_seconds']:.1f} s", flush=True)
    device = jax.devices()[0].device_kind
    known = [peak for part, peak in PEAKS.items() if part in device]
    peak = given.peak or (known[0] if known else None)
    for name in left:
        found = in_a_process(name, given.tiny)
        if found is None:
            continue
        for step, times in record.get("compilation", {}).get(name, {}).items():
            found[step] |= times  # beside others; from the cache it takes no time
        rows[name] = found
        print(name, {step: f"{row['ms']:.4g} ms" for step, row in found.items()}, flush=True)
        write_json(given.results, record | {"machine": machine(), "peak": peak})
        write_text(given.results.with_suffix(".md"), table(rows, peak, given.tiny))
    print(table(rows, peak, given.tiny))


if __name__ == "__main__":
    main()
