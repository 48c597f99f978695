"""Memory and floating-point operations of an unlearning step of a model that generates.

    python experiments/benchmarks/generation.py     (resumes where it stopped; most of it is XLA)

For the U-Net and the DiT of the Fashion-MNIST studies: the memory of the compiled step by XLA's
account, divided by a plain training step's on one batch, and the operations of the step, counted
on the program before it is compiled, divided by two plain steps', one on forget and one on retain
data. The states are donated; the data set is not counted. Last, the memory of the one program that
samples 500 images, weights included. Writes `results/generation.json` and `generation.md`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from memory import memory, save

from jaxunlearn import methods
from jaxunlearn.files import read_json
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_decoder, load_denoiser, load_task
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.runs import generate
from jaxunlearn.studies.study import Study, load_study
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Task, Weights

STUDIES = {"U-Net": "fashion_ddpm.toml", "DiT": "fashion_dit.toml"}
PLAIN = "finetune"
RUNS = ("eupmu_next_batch", "sfron_anchor", "eupmu_sfron_shared")
SHAPE, BATCH, SAMPLES = (28, 28, 1), 64, 500
SAMPLING = f"{SAMPLES} samples"
HERE = Path(__file__).parent


def shapes(*lead: int, visited: bool) -> dict[str, Any]:
    """A batch, or a data set, of images with labels and anchors."""
    names = ("label", "index", "anchor") + (("epoch",) if visited else ())
    rest = {name: jax.ShapeDtypeStruct(lead, jnp.int32) for name in names}
    return rest | {"image": jax.ShapeDtypeStruct((*lead, *SHAPE), jnp.uint8)}


def step_of(task: Task, method: str, settings: dict[str, Any]) -> Any:
    """The lowered step of a method."""
    made = methods.build(task, method, methods.settings(method, settings))
    weights = jax.eval_shape(task.init, jax.random.key(0))
    data = shapes(BATCH, visited=False)
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(made.init, key, *weights, data, data)
    retain = shapes(made.retain_batches, BATCH, visited=True)
    step = jax.jit(made.step, donate_argnums=0)
    return step.lower(state, shapes(BATCH, visited=True), retain)


def sampling(problem: Problem, task: Task) -> Any:
    """The lowered program that draws many images."""
    generation = problem.diffusion
    assert generation is not None

    def draw(params: Any, labels: jax.Array, numbers: jax.Array) -> jax.Array:
        decoder, shape = load_decoder(problem, Weights(params, {}))
        denoiser = load_denoiser(problem, Weights(params, {}))
        guidance = jnp.float32(generation.guidance)
        given = denoiser, decoder, labels, numbers, guidance, generation, shape, task.num_classes
        return generate.sample_images(*given, clip=True)

    asked = jax.ShapeDtypeStruct((SAMPLES,), jnp.int32)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    return jax.jit(draw).lower(params, asked, asked)


def operations(lowered: Any) -> float:
    """Floating-point operations of a program, before XLA optimises it."""
    return float(lowered.cost_analysis()["flops"])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows, as Markdown."""
    titles = ["model", "program", "MB", "memory / plain step", "FLOPs / two plain steps"]
    cells = [
        [row["model"], row["program"], f"{row['bytes'] / 1e6:.0f}"]
        + [f"{row[key]:.2f}" if key in row else "" for key in ("memory", "operations")]
        for row in rows
    ]
    return "\n".join(markdown_table(titles, cells)) + "\n"


def measured(study: Study, task: Task, name: str) -> dict[str, Any]:
    """The memory of a program, and the operations of a step."""
    if name == SAMPLING:
        return {"bytes": memory(sampling(study.problem, task).compile())}
    run = (PLAIN, {"optimizer": "clipped_adamw"})
    if name != PLAIN:
        run = study.run_settings(study.requests[0], name)
    lowered = step_of(task, *run)
    counted = operations(lowered)
    return {"operations_counted": counted, "bytes": memory(lowered.compile())}


def main() -> None:
    """The rows that are not there yet, and the table."""
    path = HERE / "results" / "generation.json"
    result = {"machine": machine(), "batch": BATCH, "rows": []}
    if path.exists() and read_json(path)["machine"] == result["machine"]:
        result = read_json(path)
    for model, config in STUDIES.items():
        study = load_study(HERE.parent / "configs" / config)
        task = load_task(study.problem)
        for name in (PLAIN, *RUNS, SAMPLING):
            found = {(row["model"], row["program"]): row for row in result["rows"]}
            if (model, name) in found:
                continue
            row = {"model": model, "program": name} | measured(study, task, name)
            plain = found.get((model, PLAIN), row)
            row["memory"] = round(row["bytes"] / plain["bytes"], 4)
            if name != SAMPLING:
                counted = plain["operations_counted"]
                row["operations"] = round(row["operations_counted"] / (2.0 * counted), 4)
            result["rows"].append(row)
            print(row, flush=True)
            save(path, result)
    lines = table(result["rows"])
    path.with_suffix(".md").write_text(lines)
    print(lines)


if __name__ == "__main__":
    main()
