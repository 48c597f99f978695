"""Memory of an unlearning step, as a multiple of a plain training step's.

    python experiments/benchmarks/memory.py        (resumes where it stopped; most of it is XLA)

For an MLP, a ViT and a ResNet, and for every method: the memory of the compiled step (arguments,
outputs and temporaries, less what outputs share with donated arguments), by XLA's account, over
`finetune`'s, which is plain training on one batch. The arguments are the state and the
batches: the data set, on the device or streamed, is not counted. `init` is where
masks and teachers are made, and where one-shot methods do their work; the data set it reads is
not counted either.

The MLP has every method, the others the kinds of methods that differ. Plain training, EUPMU and
SFR-on are measured with micro-batches and with recomputed blocks as well.

    python experiments/benchmarks/memory.py micro-batches

has a smaller MLP take a step in micro-batches by each method, and notes the largest difference of
the parameters to those after a step of whole batches, relative to the largest parameter; and the
FLOPs of a gradient in micro-batches. SFR-on does so on the large MLP as well, with ReLU and with
GELU: among its many units there are always some so near 0 that rounding decides whether ReLU lets
them pass, which GELU does not ask. Writes `results/memory.json` and `results/memory.md`, or
`results/micro_batches.json`, beside this file.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods, models
from jaxunlearn.tasks import classification
from jaxunlearn.tasks.microbatched import microbatched
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Method, Task

BATCH, MICRO_BATCH, FORGET, RETAIN = 256, 32, 256, 512
RESULTS = Path(__file__).parent / "results"
PLAIN = "finetune"
FORMS = (PLAIN, "eupmu", "sfron")  # these are measured in micro-batches and with remat as well
KINDS = (*FORMS, "random_labels", "salun", "pcgrad", "scrub", "bad_teacher", "eupmu_sfron")
GENERATING = ("selective_amnesia", "esd", "concept_ablation")
KEY = jax.random.key(0)


class Problem(NamedTuple):
    """A model by name, its fields, and the shape of its images."""

    name: str
    model: str
    image: tuple[int, int, int]
    fields: dict[str, Any]

    def task(self, **fields: Any) -> Task:
        """The task of classifying with it."""
        module = models.create(self.model, 10, **self.fields, **fields)
        return classification(module, image_shape=self.image, num_classes=10)


PROBLEMS = (
    Problem("MLP", "mlp", (28, 28, 1), {"hidden": (4096, 4096)}),
    Problem("ViT", "vit-ti", (32, 32, 3), {"patch_size": 4}),
    Problem("ResNet", "resnet18", (32, 32, 3), {"norm": "group"}),
)
SMALL = Problem("small MLP", "mlp", (28, 28, 1), {})


def examples(problem: Problem, first: int, *lead: int) -> dict[str, jax.Array]:
    """Random images with labels; memory does not depend on them."""
    rng = np.random.default_rng(first)
    count = int(np.prod(lead))
    values = {
        "image": rng.integers(0, 256, (count, *problem.image)).astype(np.uint8),
        "label": rng.integers(0, 10, count).astype(np.int32),
        "index": first + np.arange(count, dtype=np.int32),
    }
    return {name: jnp.asarray(v.reshape(*lead, *v.shape[1:])) for name, v in values.items()}


def build(task: Task, name: str) -> Method:
    """A method with its default settings, but for few steps."""
    settings = {"num_steps": 16, "mask_batch_size": MICRO_BATCH, "fisher_batch_size": MICRO_BATCH}
    known = methods.settings(name)
    given = {key: value for key, value in settings.items() if key in known}
    return methods.build(task, name, methods.settings(name, given))


def step_program(problem: Problem, method: Method, task: Task) -> tuple[Any, tuple[Any, ...]]:
    """The compiled step, which donates its state, and the shapes of its arguments."""
    data = examples(problem, 0, FORGET), examples(problem, FORGET, RETAIN)
    weights = jax.eval_shape(task.init, KEY)
    state = jax.eval_shape(method.init, KEY, *weights, *data)
    batches = (
        examples(problem, 0, BATCH) | {"epoch": jnp.zeros(BATCH, jnp.int32)},
        examples(problem, 0, method.retain_batches, BATCH)
        | {"epoch": jnp.zeros((method.retain_batches, BATCH), jnp.int32)},
    )
    step = jax.jit(method.step, donate_argnums=0).lower(state, *batches).compile()
    return step, batches


def size(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def memory(program: Any) -> int:
    """Bytes of a compiled program, by XLA's account."""
    found = program.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )


def measure(problem: Problem, name: str, form: str, task: Task) -> dict[str, Any]:
    """The bytes of a step and of `init`, and whether the state is donated whole."""
    method = build(task, name)
    step, _ = step_program(problem, method, task)
    data = examples(problem, 0, FORGET), examples(problem, FORGET, RETAIN)
    weights = jax.eval_shape(task.init, KEY)
    state = size(jax.tree.leaves(jax.eval_shape(method.init, KEY, *weights, *data))[:-1])
    donated = step.memory_analysis().alias_size_in_bytes / state
    assert donated > 0.999, f"{name} has {donated:.1%} of its state donated"  # but for numbers
    row = {"model": problem.name, "method": name, "form": form, "step": memory(step)}
    if form == "whole":
        shapes = (jax.ShapeDtypeStruct((), KEY.dtype), *weights, *data)
        row["init"] = memory(jax.jit(method.init).lower(*shapes).compile()) - size(data)
    return row


def difference(name: str, problem: Problem) -> float:
    """Between the parameters after a step in micro-batches and one of whole batches."""
    ends = []
    data = examples(problem, 0, FORGET), examples(problem, FORGET, RETAIN)
    weights = jax.jit(problem.task().init)(KEY)
    start = jax.device_get(jax.jit(build(problem.task(), name).init)(KEY, *weights, *data))
    for task in (problem.task(), microbatched(problem.task(), MICRO_BATCH)):
        step, batches = step_program(problem, build(task, name), task)
        state, _ = step(jax.device_put(start), *batches)
        leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(state.params)]
        ends.append(np.concatenate(leaves))
    return float(np.max(np.abs(ends[0] - ends[1])) / np.max(np.abs(ends[0])))


def gradient_flops(problem: Problem) -> float:
    """FLOPs of a loss and its gradient in micro-batches, divided by the whole batch's."""
    flops = []
    for task, loops in (
        (problem.task(), 1),
        (microbatched(problem.task(), MICRO_BATCH), BATCH // MICRO_BATCH),
    ):
        batch = examples(problem, 0, BATCH) | {"epoch": jnp.zeros(BATCH, jnp.int32)}

        def loss(params: Any, task: Task = task, batch: Any = batch) -> jax.Array:
            return jnp.mean(task.losses(params, {}, batch, KEY, True)[0])

        program = jax.jit(jax.value_and_grad(loss)).lower(jax.eval_shape(task.init, KEY)[0])
        flops.append(loops * program.cost_analysis()["flops"])  # a loop's body counts once
    return flops[1] / flops[0]


def cases() -> Iterator[tuple[Problem, str, str, Task]]:
    """Every model, method and form, plain training first."""
    others = [name for name in methods.available() if name not in (*KINDS, *GENERATING)]
    for problem in PROBLEMS:
        for name in (*KINDS, *(others if problem.name == "MLP" else ())):
            yield problem, name, "whole", problem.task()
            if name in FORMS:
                yield problem, name, "micro-batches", microbatched(problem.task(), MICRO_BATCH)
                if problem.name != "MLP":
                    yield problem, name, "remat", problem.task(remat=True)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """All methods side by side, and then the forms."""
    found = {(row["model"], row["method"], row["form"]): row for row in rows}
    names = [problem.name for problem in PROBLEMS]
    lines = [
        "| method | " + " | ".join(f"{n}: step | {n}: init" for n in names) + " |",
        "| --- |" + " --- |" * (2 * len(names)),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for name in names:
            row = found.get((name, method, "whole"))
            cells += [f"{row['ratio']:.2f}", f"{row['init_ratio']:.2f}"] if row else ["", ""]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| model | method | MB | whole | micro-batches | remat |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        for method in FORMS:
            forms = [found.get((name, method, f)) for f in ("whole", "micro-batches", "remat")]
            shown = [f"{row['ratio']:.2f}" if row else "" for row in forms]
            whole = found[name, method, "whole"]["step"] / 1e6
            lines.append(f"| {name} | {method} | {whole:.0f} | " + " | ".join(shown) + " |")
    return lines


def begin(path: Path, **empty: Any) -> dict[str, Any]:
    """The results so far, if they are of this machine."""
    facts = {"machine": machine(), "batch": BATCH, "micro_batch": MICRO_BATCH}
    result = json.loads(path.read_text()) if path.exists() else {}
    return result if {key: result.get(key) for key in facts} == facts else facts | empty


def save(path: Path, result: dict[str, Any]) -> None:
    """Writes a result file."""
    path.write_text(json.dumps(result, indent=2) + "\n")


def compare_micro_batches() -> None:
    """The differences and FLOPs that are not known yet."""
    path = RESULTS / "micro_batches.json"
    result = begin(path, gradient_flops={}, differences={}, sfron_of_the_large_mlp={})
    for problem in PROBLEMS:
        if problem.name not in result["gradient_flops"]:
            result["gradient_flops"][problem.name] = round(gradient_flops(problem), 4)
            save(path, result)
    for activation in ("relu", "gelu"):
        found = result["sfron_of_the_large_mlp"]
        if activation not in found:
            fields = PROBLEMS[0].fields | {"activation": activation}
            found[activation] = difference("sfron", PROBLEMS[0]._replace(fields=fields))
            save(path, result)
    for name in (*KINDS, *(n for n in methods.available() if n not in (*KINDS, *GENERATING))):
        if name not in result["differences"]:
            result["differences"][name] = difference(name, SMALL)
            print(name, result["differences"][name], flush=True)
            save(path, result)


def measure_memory() -> None:
    """The rows that are not measured yet, and the table."""
    path = RESULTS / "memory.json"
    result = begin(path, rows=[])
    done = {(row["model"], row["method"], row["form"]) for row in result["rows"]}
    for problem, name, form, task in cases():
        if (problem.name, name, form) in done:
            continue
        row = measure(problem, name, form, task)
        plain = next((r for r in result["rows"] if r["model"] == problem.name), row)["step"]
        row["ratio"] = round(row["step"] / plain, 4)
        if "init" in row:
            row["init_ratio"] = round(row["init"] / plain, 4)
        result["rows"].append(row)
        print(row, flush=True)
        save(path, result)
    lines = "\n".join(table(result["rows"]))
    (RESULTS / "memory.md").write_text(lines + "\n")
    print(lines)


def main() -> None:
    """Measures the rows that were asked for."""
    RESULTS.mkdir(exist_ok=True)
    jax.config.update("jax_default_matmul_precision", "highest")  # for the differences
    if sys.argv[1:] == ["micro-batches"]:
        compare_micro_batches()
    else:
        measure_memory()


if __name__ == "__main__":
    main()
