"""How long the runs of a study take beside retraining, in turns.

    python experiments/benchmarks/share_of_retraining.py runs/fashion12k-track   (15 minutes)

The folder holds the study `experiments/configs/fashion12k_track.toml`, of which the original model
of seed 0 is used. A turn is each of the runs as a whole, all passes counted, and a stretch of
retraining, whose time is scaled up to all its steps; the share is taken turn by turn. Compilation
does not count. One thread; wall time and processor time. Writes
`results/share_of_retraining_cpu.json` and the table beside it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from side_by_side import RESULTS, clock, prepare, quartiles, spread

from jaxunlearn import training
from jaxunlearn.data.examples import to_device
from jaxunlearn.files import write_json
from jaxunlearn.methods import objectives
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.studies.runs import run_config
from jaxunlearn.studies.runs.folder import RunConfig
from jaxunlearn.studies.runs.unseen import with_unseen
from jaxunlearn.studies.study import load_study
from jaxunlearn.training import programs
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Weights

CONFIG = Path(__file__).parent.parent / "configs" / "fashion12k_track.toml"
RUNS = ("eupmu_sfron_track", "sfron_track", "eupmu_sfron_unseen", "finetune")
TURNS, STRETCH, SEED = 3, 200, 0


def job(config: RunConfig, start: Weights, num_steps: int) -> Callable[[], Any]:
    """The work of a run, without reading, writing and evaluating."""
    task, settings = load_task(config.problem), config.settings
    assert config.request is not None
    splits = load_splits(config.problem, SEED, config.request)
    forget, retain = to_device(splits.forget), to_device(splits.retain)
    program = programs.of_method(task, config.method, settings)

    def work() -> training.Outcome:
        brought = forget
        if objectives.needs_unseen(settings):
            brought = with_unseen(task, start, to_device(splits.copied), forget)
        given = program, programs.split(settings).numbers, start, brought, retain
        return training.run(*given, num_steps=num_steps, seed=SEED)

    return work


def table(shares: dict[str, dict[str, list[float]]]) -> str:
    """The shares in percent, as Markdown: medians and quartiles."""
    lines = ["| run | wall time, % of retraining | processor time, % |", "| --- | ---: | ---: |"]
    for name, of_run in shares.items():
        lines.append(f"| {name} | {spread(of_run['wall'])} | {spread(of_run['cpu'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and prints the table."""
    kind = prepare()
    study, folder = load_study(CONFIG), Path(sys.argv[1])
    request = study.requests[0]
    start = runs.load_weights(folder / f"seed-{SEED}" / "pretrain", study.problem)
    retraining = run_config.retraining(study.problem, SEED, request)
    whole = retraining.settings["num_steps"]
    jobs = {"retraining": job(retraining, start, STRETCH)}
    for name in RUNS:
        config = run_config.unlearning(
            study.problem, SEED, request, *study.run_settings(request, name)
        )
        jobs[name] = job(config, start, config.settings["num_steps"])
    taken: dict[str, list[np.ndarray]] = {name: [] for name in jobs}
    for turn in range(TURNS + 1):  # the first compiles
        for name, work in jobs.items():
            began = clock()
            jax.block_until_ready(work().state)
            if turn:
                taken[name].append(clock() - began)
                print(turn, name, taken[name][-1].round(2), flush=True)
    stretches = [seconds * (whole / STRETCH) for seconds in taken.pop("retraining")]
    shares = {}
    for name, seconds in taken.items():
        percent = [100.0 * a / b for a, b in zip(seconds, stretches, strict=True)]
        shares[name] = {
            unit: quartiles([each[i] for each in percent]) for i, unit in enumerate(("wall", "cpu"))
        }
    result = {"machine": machine(), "turns": TURNS, "stretch": STRETCH, "shares": shares}
    path = RESULTS / f"share_of_retraining_{kind}.json"
    write_json(path, result)
    lines = table(shares)
    path.with_suffix(".md").write_text(lines)
    print(lines)


if __name__ == "__main__":
    main()
