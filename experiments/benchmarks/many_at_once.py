"""Many runs as one program: a sweep of 16 tolerances, and 64 shadow models.

    pip install '.[bench]'        (PyTorch, for the shadow models; the sweeps do without)
    python experiments/benchmarks/many_at_once.py [mlp | vit | resnet | shadows ...]

The sweep is one program under `vmap`, as `jaxunlearn sweep` runs it on GPUs; on CPUs its runs take
turns. Beside it are 16 separate runs of EUPMU in this process, which share a compiled program
too, since numbers are its arguments; 16 commands would each compile it, or read it. Beside the
shadow models is a PyTorch loop that trains one model after the other on the same batches. A row
is refused unless the weights of every run agree to 1e-3. Compilation is reported apart.

Finished rows are kept in `results/many_at_once_cpu.json`, or `_gpu.json` on a machine with a GPU,
and is run again only if it is named. The table is the `.md` file of that name.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import (
    RESULTS,
    TOLERANCE,
    TURNS,
    apart,
    clock,
    prepare,
    prepare_torch,
    quartiles,
    recorded,
    spread,
)

from jaxunlearn import methods, models, training
from jaxunlearn.data import order as data_order
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.tasks import classification
from jaxunlearn.training import programs
from jaxunlearn.training.compilation import compilation_seconds
from jaxunlearn.training.groups import Member, at_once, run_many
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Weights

RUNS, SHADOWS, IMAGE = 16, 64, (28, 28, 1)
BATCHES = {"forget_batch_size": 32, "retain_batch_size": 64}
SWEEPS: dict[str, tuple[str, dict[str, Any], int, float]] = {  # model, fields, steps, at most
    "mlp": ("mlp", {}, 50, 0.8),
    "vit": ("vit-tiny-test", {"patch_size": 7}, 20, 1.0),
    "resnet": ("resnet10-narrow", {}, 3, 1.0),
}
STEPS_ON_A_GPU, AT_MOST_ON_A_GPU = 100, 0.25  # of all sweeps
Row = dict[str, Any]


def examples(first: int, count: int, shape: tuple[int, int, int]) -> Any:
    """Random images with labels: what a step costs does not depend on them."""
    draw = np.random.default_rng(first)
    return {
        "image": jnp.asarray(draw.integers(0, 256, (count, *shape)), jnp.uint8),
        "label": jnp.asarray(draw.integers(0, 10, count), jnp.int32),
        "index": jnp.arange(first, first + count),
    }


def in_turns(together: Callable[[], Any], one_by_one: Callable[[], Any]) -> Row:
    """Ratios together / one by one, and the medians of the seconds of both."""

    def seconds(go: Callable[[], Any]) -> np.ndarray:
        began = clock()
        go()
        return clock() - began

    pairs = [(seconds(together), seconds(one_by_one)) for _ in range(TURNS)]
    row: Row = {"turns": TURNS}
    for i, name in enumerate(("wall", "cpu")):
        row[f"ratio_{name}"] = quartiles([a[i] / b[i] for a, b in pairs])
        for who, runs in zip(("together", "one_by_one"), zip(*pairs, strict=True), strict=True):
            row[f"{who}_seconds_{name}"] = round(statistics.median(r[i] for r in runs), 4)
    return row


def checked(pairs: Any) -> float:
    """The largest difference of the weights of runs that should be equal."""
    worst = max(
        apart(*([np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in pair))
        for pair in pairs
    )
    if not worst <= TOLERANCE:
        raise SystemExit(f"the weights differ by {worst:.2g}, more than {TOLERANCE:g}")
    return worst


def sweep(name: str, kind: str) -> Row:
    """16 tolerances of EUPMU as one program, and as runs of their own."""
    model, fields, steps, target = SWEEPS[name]
    if kind == "gpu":
        steps, target = STEPS_ON_A_GPU, AT_MOST_ON_A_GPU
    task = classification(models.create(model, 10, **fields), image_shape=IMAGE, num_classes=10)
    settings = methods.settings("eupmu", {"num_steps": steps, **BATCHES})
    program = programs.of_method(task, "eupmu", settings)
    start = Weights(*jax.jit(task.init)(jax.random.key(0)))
    forget, retain = examples(0, 128, IMAGE), examples(128, 1024, IMAGE)
    tolerances = np.linspace(0.0, 0.15, RUNS)
    numbers = [programs.split(settings).numbers | {"tolerance": float(t)} for t in tolerances]
    members = [Member(each, 0, start, forget, retain) for each in numbers]

    def together() -> Any:
        return list(run_many(program, members, num_steps=steps, most=at_once(RUNS)))

    def one_by_one() -> Any:
        outcomes = [
            training.run(program, each, start, forget, retain, num_steps=steps, seed=0)
            for each in numbers
        ]
        return jax.block_until_ready(outcomes)

    with compilation_seconds() as compiling:
        group = together()
    singles = one_by_one()
    alone = [(single.state.params, single.state.model_state) for single in singles]
    return {
        "program": f"sweep of {RUNS}, {model}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(start.params)),
        "steps": steps,
        "at_most": target,
        "difference": checked(zip([run.weights for run in group], alone, strict=True)),
        "together_compile_seconds": round(sum(compiling), 1),
        "one_compile_seconds": round(singles[0].compile_seconds, 1),
        "compilations_one_by_one": sum(single.compile_seconds > 0 for single in singles),
        **in_turns(together, one_by_one),
    }


def shadow_models(kind: str) -> Row:
    """64 small networks on halves of small images, and PyTorch's, one after the other."""
    record = prepare_torch(kind)
    import torch.nn.functional as F
    import torch_models
    from torch_models import tensor
    from torch_unlearning import leaves, sgd

    steps, batch, shape = 100, 64, (8, 8, 1)
    task = classification(models.create("mlp-tiny", 10), image_shape=shape, num_classes=10)
    given = {"num_steps": steps, "retain_batch_size": batch, "learning_rate_schedule": "constant"}
    settings = methods.settings("retrain", given)
    pool = examples(0, 1024, shape)
    keys = jax.vmap(jax.random.key)(jnp.arange(SHADOWS))
    starts = [shadows.new_weights(task, key) for key in keys]
    draw = np.random.default_rng(0)
    order = np.stack([draw.permutation(1024) for _ in range(SHADOWS)])
    forget, retain = list(order[:, :64]), list(order[:, 64:576])

    def together() -> Any:
        ends = shadows.train(task, "retrain", settings, keys, starts, pool, forget, retain)
        return jax.block_until_ready(ends)

    def visited(key: jax.Array, learned: jax.Array) -> jax.Array:
        """The batches of one model, which PyTorch gets ready-made."""
        child = jax.random.fold_in(key, 3)
        stream = data_order.visits(child, {"index": learned}, jnp.int32(0), batch, steps)
        return learned[stream["position"]]

    batches = tensor(jax.jit(jax.vmap(visited))(keys, jnp.asarray(order[:, 64:576]))).long()
    images = tensor(pool["image"]).movedim(-1, 1)
    labels = tensor(pool["label"]).long()

    first = [torch_models.carried(start.params) for start in starts]

    def one_by_one() -> list[list[np.ndarray]]:
        found = []
        for beginning, visits in zip(first, batches, strict=True):
            weights = jax.tree.map(lambda leaf: leaf.detach().clone().requires_grad_(), beginning)
            optimizer = sgd(leaves(weights), settings)
            for places in visits:
                optimizer.zero_grad()
                logits = torch_models.mlp(weights, images[places].float() / 255.0, True)
                F.cross_entropy(logits, labels[places]).backward()
                optimizer.step()
            found.append([leaf.numpy(force=True) for leaf in leaves(weights)])
        return found

    began = time.perf_counter()
    ends = [torch_models.carried(jax.device_get(end.params)) for end in together()]
    compiling = time.perf_counter() - began
    ours = [[leaf.numpy(force=True) for leaf in leaves(end)] for end in ends]
    row = {
        "program": f"{SHADOWS} shadow models, mlp-tiny; theirs is PyTorch's loop",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(starts[0].params)),
        "steps": steps,
        "at_most": round(1 / 3, 3),
        "difference": checked(zip(ours, one_by_one(), strict=True)),
        **record,
        **in_turns(together, one_by_one),
    }
    seconds = compiling - row["together_seconds_wall"]
    return row | {"together_compile_seconds": round(seconds, 1), "one_compile_seconds": 0.0}


def render(rows: dict[str, Row]) -> str:
    """The table, one line a row."""
    titles = ["program", "parameters", "steps", "together / one by one: wall time"]
    titles += ["processor time", "at most", "seconds together, one by one"]
    titles += ["compilation together, of one run, s"]
    cells = [
        [row["program"], f"{row['parameters']:,}", str(row["steps"]), spread(row["ratio_wall"])]
        + [spread(row["ratio_cpu"]), f"{row['at_most']:.2f}"]
        + [f"{row['together_seconds_wall']:.3g}, {row['one_by_one_seconds_wall']:.3g}"]
        + [f"{row['together_compile_seconds']}, {row['one_compile_seconds']}"]
        for row in rows.values()
    ]
    return "\n".join(markdown_table(titles, cells)) + "\n"


def main() -> None:
    """Measures the missing rows, and writes the table of all."""
    kind = prepare()
    path = RESULTS / f"many_at_once_{kind}.json"
    result = recorded(path)
    for name in sys.argv[1:] or ("shadows", *SWEEPS):
        if name in sys.argv[1:] or name not in result["rows"]:
            row = shadow_models(kind) if name == "shadows" else sweep(name, kind)
            result["rows"][name] = row
        result["machine"] = machine()
        path.write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".md").write_text(render(result["rows"]))
        print(name, json.dumps(result["rows"][name]), flush=True)
    print(render(result["rows"]))


if __name__ == "__main__":
    main()
