"""Chooses settings without looking at the retrained model or the test set.

    python experiments/blind_search.py experiments/configs/digits_demo_search.toml

For every request and method of the search file, the same number of random settings is tried, on the
same pretrained models. A setting is judged by how far it is from what must hold whatever was
forgotten: the retain and the validation accuracy stay, and the forget data look like data that was
never seen,

    target = |RA - RA0| + |VA - VA0| + |FA - U|,   U = VA0 for random requests, 0 for classes,

in percentage points, averaged over the seeds, where 0 marks the original model. All trials of a
method run one compiled program. Writes `<name>_result.json` beside the search file, and prints the
best settings as TOML for a study's configuration. What was searched before is not searched again.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation, methods, parallel, stages, training
from jaxunlearn.config import Problem, from_dict
from jaxunlearn.data import Examples, ForgetRequest
from jaxunlearn.setting import Weights, load_splits, load_task, machine
from jaxunlearn.types import Task


def accuracy(task: Task, weights: Weights, examples: Examples) -> float:
    """Accuracy in percent."""
    predict_fn = jax.tree_util.Partial(task.predict, *weights)
    return evaluation.accuracy(evaluation.predict(predict_fn, examples.arrays(), 500))


def draw(ranges: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """One random setting: [low, high] is drawn log-uniformly, anything else is taken as it is."""
    return {
        name: float(f"{np.exp(generator.uniform(*np.log(value))):.3g}")
        if isinstance(value, list)
        else value
        for name, value in ranges.items()
    }


def search(
    task: Task,
    request: ForgetRequest,
    problem: Problem,
    originals: dict[int, Weights],
    name: str,
    ranges: dict[str, Any],
    trials: int,
) -> list[dict[str, Any]]:
    """All trials of one method, best first."""
    generator = np.random.default_rng(0)
    proposals = [draw(ranges, generator) for _ in range(trials)]
    fixed = {k: v for k, v in methods.settings(name, proposals[0]).items() if type(v) is not float}
    program = training.compile_program(
        lambda numbers: methods.build(task, name, fixed | numbers),
        forget_batch_size=fixed["forget_batch_size"],
        retain_batch_size=fixed["retain_batch_size"],
        chunk_steps=fixed["num_steps"],
        mesh=parallel.make_mesh(1),
    )
    results = []
    for proposal in proposals:
        settings = methods.settings(name, proposal)
        numbers = {key: value for key, value in settings.items() if type(value) is float}
        targets = []
        for seed, original in originals.items():
            splits = load_splits(problem, seed, request)
            arrays = [
                {key: jnp.asarray(value) for key, value in part.arrays().items()}
                for part in (splits.forget, splits.retain)
            ]
            try:
                outcome = training.run(
                    program, numbers, original, *arrays, num_steps=fixed["num_steps"], seed=seed
                )
            except training.Diverged:
                targets.append(300.0)
                continue
            after = Weights(outcome.state.params, outcome.state.model_state)
            validation = accuracy(task, original, splits.validation)
            wanted = 0.0 if request.classes else validation
            targets.append(
                abs(accuracy(task, after, splits.retain) - accuracy(task, original, splits.retain))
                + abs(accuracy(task, after, splits.validation) - validation)
                + abs(accuracy(task, after, splits.forget) - wanted)
            )
        results.append({"target": float(np.mean(targets)), "settings": proposal})
    return sorted(results, key=lambda result: result["target"])


def main(path: Path) -> None:
    """Searches for every request and method of the file."""
    plan = tomllib.loads(path.read_text("utf-8"))
    problem = from_dict(Problem, plan["problem"], "problem")
    task, folder = load_task(problem), Path("runs") / path.stem
    originals = {
        seed: stages.pretrain(folder / f"seed-{seed}", problem, seed) for seed in plan["seeds"]
    }
    output = path.with_name(f"{path.stem}_result.json")
    protocol = {key: plan[key] for key in ("seeds", "trials", "problem")}
    result: dict[str, Any] = {"machine": machine(), "protocol": protocol, "found": {}}
    if output.exists() and json.loads(output.read_text())["protocol"] == protocol:
        result = json.loads(output.read_text())
    for request in (from_dict(ForgetRequest, entry, "request") for entry in plan["requests"]):
        found = result["found"].setdefault(request.name, {})
        for name, ranges in plan["search"].items():
            if found.get(name, {}).get("ranges") != ranges:  # else it was searched before
                trials = search(task, request, problem, originals, name, ranges, plan["trials"])
                found[name] = {"ranges": ranges, "trials": trials}
                output.write_text(json.dumps(result, indent=1) + "\n")
            trials = found[name]["trials"]
            median = trials[len(trials) // 2]["target"]
            print(f"# target {trials[0]['target']:.2f} (median {median:.2f})")
            print(f'[overrides."{request.name}".{name}]')
            for key, value in trials[0]["settings"].items():
                print(f"{key} = {json.dumps(value)}")
            print(flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
