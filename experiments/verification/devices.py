"""Do one device and eight compute the same? Every method, fifty steps, BatchNorm included.

    python experiments/verification/devices.py                         # all methods, in float32
    python experiments/verification/devices.py --methods eupmu sfron   # two of them
    python experiments/verification/devices.py --precision float64     # those above 1e-6

Each method runs on one CPU device, on eight with all parameters on each, on eight with a share of
the parameters on each, and on eight by pmap. Compared are the parameters (the largest difference
over the largest entry), the running statistics, and the multiplier where there is one; and the part
of the state's bytes that one device holds is measured from its arrays.

Float32 sums in another order differ in the last digits, and fifty steps can enlarge that: a ReLU
near zero, a mask entry near its threshold, a clipped norm. Where the difference is above 1e-6, the
same run in float64 shows whether the cause is rounding (below 1e-12) or the algorithm.

Finished rows are kept. Writes `experiments/results/devices.json` and `devices.md`.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many small programs that run once: compiling them quickly counts.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxunlearn import methods, multiplier, tasks, training
from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.models.process import Process
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_splits
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.tasks.shard_over_axis import shard_over_axis
from jaxunlearn.training import devices as parallel
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.training.programs import split
from jaxunlearn.types import InputError, Method, Task, TrainState

RESULTS = Path(__file__).parents[1] / "results" / "devices.json"
STEPS, BATCH = 50, 64
ONE = Layout()
LAYOUTS = {
    "replicated": Layout(8),
    "sharded": Layout(8, "sharded"),
    "pmap": Layout(8, parallel="pmap"),
}
GENERATING = ("selective_amnesia", "esd", "concept_ablation")
# Forms that run other code than a method's defaults, and one that would diverge at its default.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient_ascent": ("gradient_ascent", {"learning_rate": 1e-4}),
    "eupmu, next batch": ("eupmu", {"estimator": "next_batch"}),
    "eupmu, exact": ("eupmu", {"estimator": "exact"}),
    "sfron, R": ("sfron", {"variant": "R"}),
    "eupmu, guarded": ("eupmu", {"guard_budget": 0.5}),
}
EVERY = tuple(dict.fromkeys([*methods.available(), *FORMS]))


class Network(nn.Module):
    """A convolutional network with BatchNorm, in the precision of its inputs."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of images."""
        for width in (16, 32):
            x = nn.Conv(width, (3, 3), strides=(2, 2), use_bias=False)(x)
            norm = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)
            x = nn.relu(norm(x))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class Denoiser(nn.Module):
    """A small network that predicts noise from the image, the time and the class."""

    @nn.compact
    def __call__(
        self, images: jax.Array, timesteps: jax.Array, labels: jax.Array, train: bool = False
    ) -> jax.Array:
        """The noise in the images."""
        del train
        x = jnp.concatenate([images.reshape(len(images), -1), timesteps[:, None] / 100.0], axis=1)
        x = nn.tanh(nn.Dense(128)(x) + nn.Embed(11, 128)(labels))
        return nn.Dense(64)(x).reshape(images.shape)


def task_of(name: str, layout: Layout = ONE) -> Task:
    """The task of the method on the devices."""
    axis_name = parallel.placement_of(layout).axis_name
    if name in GENERATING:
        task = tasks.diffusion(Denoiser(), Process(100), image_shape=(8, 8, 1), num_classes=10)
    else:
        task = tasks.classification(Network(axis_name), image_shape=(8, 8, 1), num_classes=10)
    return shard_over_axis(task, axis_name) if axis_name else task


def data_of() -> tuple[Any, Any]:
    """Forget and retain digits, as floating-point numbers in the precision of the process."""
    splits = load_splits(Problem(), 0, ForgetRequest(fraction=0.1))
    both = []
    for part in (splits.forget, splits.retain):
        arrays = part.arrays()
        both.append(arrays | {"image": np.asarray(arrays["image"], float) / 255.0 - 0.5})
    return jax.tree.map(jnp.asarray, tuple(both))


def pretrained(task: Task, everything: Any) -> tuple[Any, Any]:
    """Weights after a hundred steps of ordinary training on one device."""
    settings = methods.settings("retrain", {"num_steps": 100, "learning_rate": 0.05})
    state = run(task, "retrain", settings, task_start(task), everything, ONE)
    return jax.device_get((state.params, state.model_state))


def task_start(task: Task) -> tuple[Any, Any]:
    """New weights, in the precision of the process."""
    start = jax.jit(task.init)(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(0).dtype), start)


def run(
    task: Task, name: str, settings: dict[str, Any], start: Any, data: Any, layout: Layout
) -> TrainState:
    """The state after all steps."""
    placement, fixed = parallel.placement_of(layout), split(settings).constants

    def build(numbers: dict[str, Any]) -> Method:
        return methods.build(task, name, fixed | numbers)

    program = training.compile_program(
        build,
        forget_batch_size=BATCH,
        retain_batch_size=BATCH,
        chunk_steps=STEPS,
        mesh=placement.mesh,
        axis_name=placement.axis_name,
    )
    given = split(settings).numbers
    if "guard_budget" in settings:
        given |= {"held_out": {key: value[:256] for key, value in data[1].items()}}
    count = settings["num_steps"]
    return training.run(program, given, start, *data, num_steps=count, seed=0).state


def relative(ours: Any, reference: Any) -> float:
    """The largest difference over the largest entry of the reference; 0 where there is none."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True))
    if not pairs:
        return 0.0
    difference = max(np.max(np.abs(np.float64(x) - np.float64(y))) for x, y in pairs)
    if difference == 0.0:
        return 0.0
    return float(difference / max(np.max(np.abs(np.float64(y))) for _, y in pairs))


def share(state: TrainState) -> float:
    """The part of the bytes of a state that its first device holds."""
    leaves = jax.tree.leaves(state)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    return held / sum(leaf.nbytes for leaf in leaves)


def compare(form: str, start: Any, data: Any) -> dict[str, Any]:
    """One method on one device and eight."""
    name, given = FORMS.get(form, (form, {}))
    settings = methods.settings(name, {"num_steps": STEPS} | given)
    settings |= {"forget_batch_size": BATCH, "retain_batch_size": BATCH}
    one = run(task_of(name), name, settings, start, data, ONE)
    row: dict[str, Any] = {"moved": relative(one.params, start[0])}
    for layout, devices in LAYOUTS.items():
        many = run(task_of(name, devices), name, settings, start, data, devices)
        row[layout] = {
            "params": relative(many.params, one.params),
            "model_state": relative(many.model_state, one.model_state),
            "share": share(many),
        }
        try:
            row[layout]["multiplier"] = relative(
                multiplier(many.opt_state), multiplier(one.opt_state)
            )
        except ValueError:  # the method has none
            continue
    return row


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    titles = ["method", "moved"]
    titles += [each for layout in LAYOUTS for each in (layout, "multiplier")]
    titles += ["share", "in float64"]
    double, found, rows = results.get("float64", {}), results["float32"], []
    for form in [form for form in EVERY if form in found]:
        cells, row = [form], found[form]
        if "error" in row:
            rows.append([form, row["error"], *[""] * (len(titles) - 2)])
            continue
        cells.append(f"{row['moved']:.2g}")
        for layout in LAYOUTS:
            cells.append(f"{row[layout]['params']:.1e}")
            cells.append(f"{row[layout]['multiplier']:.1e}" if "multiplier" in row[layout] else "")
        cells.append(f"{row['sharded']['share']:.3f}")
        again = double.get(form, {})
        if "error" in again:
            cells.append(again["error"])
        elif again:
            cells.append(f"{worst(again):.1e}")
        else:
            cells.append("")
        rows.append(cells)
    lines = [
        "# One device and eight",
        "",
        f"{STEPS} steps on digits, batches of {BATCH}: the largest difference of the parameters",
        "over their largest entry, the relative difference of the multiplier, and the share of the",
        "state on one of eight devices. `moved` is the first measure between start and end.",
        "",
        *markdown_table(titles, rows),
    ]
    return "\n".join(lines) + "\n"


def worst(row: dict[str, Any]) -> float:
    """The largest difference of the parameters or the multiplier, in either layout."""
    return max(max(row[layout]["params"], row[layout].get("multiplier", 0.0)) for layout in LAYOUTS)


def main() -> None:
    """Runs the missing rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--methods", nargs="*", help="only these")
    arguments = parser.parse_args()
    precision = arguments.precision
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", precision == "float64")
    results = read_json(RESULTS) if RESULTS.exists() else {}
    done = results.setdefault(precision, {})
    wanted = list(EVERY)
    if precision == "float64":
        wanted = [
            form
            for form, row in results["float32"].items()
            if "error" not in row and worst(row) > 1e-6
        ]
    wanted = [form for form in wanted if not arguments.methods or form in arguments.methods]
    data = data_of()
    starts: dict[bool, Any] = {}
    for form in wanted:
        if form in done:
            continue
        generates = form in GENERATING
        if generates not in starts:
            starts[generates] = pretrained(task_of(form), data)
        clock = time.perf_counter()
        try:
            done[form] = compare(form, starts[generates], data)
        except (InputError, TypeError, training.Diverged) as error:
            done[form] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        print(f"{form}: {time.perf_counter() - clock:.0f} s, {done[form]}", flush=True)
        results["machine"] = machine()
        write_json(RESULTS, results)
        write_text(RESULTS.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()
