"""The wall time of `unlearn`, then `evaluate`, part by part, with a cold and a warm cache.

    python experiments/benchmarks/whole_job.py [--tiny]

ResNet-18 in bfloat16 forgets a random tenth of 50,000 random images of 32 x 32 in 300 steps of
`eupmu_sfron`, then is evaluated on 60,000; `--tiny` takes a narrow ResNet, 6,000 images and 60
steps, for CPUs. Each command is a process, as a user starts it: first with an empty cache of
compiled programs, then with the programs of the first time. Every moment belongs to one part: to
compilation (tracing, lowering, and XLA's compiling or reading) if a program is in the making, else
to the innermost of the functions in `PARTS`, else to the rest.

The result is `results/whole_job_cpu.json` or `_gpu.json`, with a table in the `.md` file.
"""

import argparse
import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.studies.report.markdown_text import markdown_table

RESULTS = Path(__file__).parent / "results"
PARTS = {  # functions by the part of a job that they are
    "data": [
        "jaxunlearn.studies.problem:load_dataset",
        "jaxunlearn.studies.problem:load_splits",
        "jaxunlearn.studies.problem:load_training",
        "jaxunlearn.studies.problem:load_validation",
        "jaxunlearn.training.devices:replicate",
    ],
    "checkpoints": [
        "jaxunlearn.training.checkpoints:Checkpointer.save",
        "jaxunlearn.training.checkpoints:Checkpointer.restore",
    ],
    "start of the method (masks)": ["jaxunlearn.training.loop:run"],
    "steps": ["jaxunlearn.training.loop:stretches"],
    "predictions": ["jaxunlearn.evaluation.predictions:predict_splits"],
    "attacks": [
        "jaxunlearn.evaluation.attacks:svc_non_member_rate",
        "jaxunlearn.evaluation.attacks:entropy_member_rate",
    ],
    "other metrics": ["jaxunlearn.evaluation.metrics:evaluate"],
    "records": [
        "jaxunlearn.studies.runs.results:write_results",
        "jaxunlearn.studies.runs.folder:claim_folder",
    ],
}
Span = tuple[float, float, str]


def watched(function: Callable[..., Any], part: str, spans: list[Span]) -> Callable[..., Any]:
    """The function, which notes when it runs; generators note each of their advances."""

    def note(go: Callable[[], Any]) -> Any:
        began = time.time()
        try:
            return go()
        finally:
            spans.append((began, time.time(), part))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = note(lambda: function(*args, **kwargs))
        if not isinstance(result, Iterator) or part != "steps":
            return result
        end = object()
        return iter(lambda: note(lambda: next(result, end)), end)

    return call


def watch(spans: list[Span]) -> None:
    """Replaces the functions in `PARTS`, wherever the package has imported them."""
    for part, names in PARTS.items():
        for name in names:
            module, _, path = name.partition(":")
            *owner, last = path.split(".")
            holder = functools.reduce(getattr, owner, importlib.import_module(module))
            original = getattr(holder, last)
            found = watched(original, part, spans)
            setattr(holder, last, found)
            for other in [m for n, m in sys.modules.items() if n.startswith("jaxunlearn")]:
                for key in [k for k, value in vars(other).items() if value is original]:
                    setattr(other, key, found)


def child(began: float, report: str, words: list[str]) -> None:
    """Runs a command in this process, which began at a time, and writes its seconds by part."""
    from jaxunlearn.training.compilation import keep_compiled_programs

    keep_compiled_programs()
    import jax

    from jaxunlearn.cli import commands, main
    from jaxunlearn.training.hosts import machine

    jax.devices()
    spans: list[Span] = [(began, time.time(), "start (imports, devices)")]
    watch(spans)
    making: list[Span] = []

    def listen(event: str, seconds: float, **details: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            making.append((time.time() - seconds, time.time(), "compilation"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    assert commands
    main.main(words)
    found = shares([*spans, *making], began, time.time())
    record = {"parts": found, "machine": machine()}
    Path(report).write_text(json.dumps(record))


def shares(spans: list[Span], began: float, ended: float) -> dict[str, float]:
    """Seconds by part: each moment is compilation's, or else its innermost part's."""
    found: dict[str, float] = defaultdict(float)
    moments = sorted({began, ended, *(t for span in spans for t in span[:2])})
    for first, last in itertools.pairwise(moments):
        here = [span for span in spans if span[0] <= first and last <= span[1]]
        compiles = any(span[2] == "compilation" for span in here)
        part = max(here)[2] if here else "rest"
        found["compilation" if compiles else part] += last - first
    return dict(found)


def job(words: list[str], cache: Path, report: Path | None = None) -> dict[str, Any]:
    """Runs a command as a process of its own; its seconds by part, if there is a report."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    program = ["-m", "jaxunlearn"] if report is None else [__file__, "--child", str(report)]
    began = time.time()
    beginning = [] if report is None else [str(began)]
    subprocess.run(
        [sys.executable, *program, *beginning, *words],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.time() - began
    return {} if report is None else {"seconds": seconds, **json.loads(report.read_text())}


def write_data(path: Path, train: int, test: int) -> None:
    """Images of ten classes, each a faint pattern of its own in noise."""
    draw = np.random.default_rng(0)
    patterns = draw.normal(0, 20, (10, 32, 32, 3))
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        labels = draw.integers(0, 10, count)
        images = 128 + patterns[labels] + draw.normal(0, 40, (count, 32, 32, 3))
        arrays |= {f"x_{name}": np.clip(images, 0, 255).astype(np.uint8), f"y_{name}": labels}
    np.savez(path, **arrays)


def measure(folder: Path, tiny: bool) -> dict[str, Any]:
    """Both commands with a cold and with a warm cache, after an original and a retrained model."""
    sizes, steps = ((5000, 1000), 60) if tiny else ((50000, 10000), 300)
    model = ["resnet10-narrow"] if tiny else ["resnet18", "--model-settings", "dtype=bfloat16"]
    write_data(folder / "data.npz", *sizes)
    before = folder / "cache_before"
    original, retrained = str(folder / "original"), str(folder / "retrained")
    request = ["--pretrained", original, "--fraction", "0.1"]
    problem = ["--data", f"npz:{folder / 'data.npz'}", "--augmentation", "none"]
    training = ["--training.num-steps", str(steps)]
    job(["pretrain", original, *problem, "--model", *model, *training], before)
    job(["retrain", retrained, *request], before)
    job(["evaluate", retrained], before)
    found: dict[str, Any] = {"steps": steps, "images": sum(sizes), "model": model[0]}
    for name in ("cold", "warm"):
        run, cache, report = str(folder / name), folder / "cache", folder / "report.json"
        unlearn = ["unlearn", run, "eupmu_sfron", *request, "--num-steps", str(steps)]
        found[name] = {
            "unlearn": job(unlearn, cache, report),
            "evaluate": job(["evaluate", run, "--retrained", retrained], cache, report),
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Seconds by part, of each command with a cold and with a warm cache."""
    columns = [(name, word) for name in ("cold", "warm") for word in ("unlearn", "evaluate")]
    parts = list(dict.fromkeys(part for a, b in columns for part in found[a][b]["parts"]))
    rows = [
        [part, *(f"{found[a][b]['parts'].get(part, 0.0):.2f}" for a, b in columns)]
        for part in parts
    ]
    rows.append(["all", *(f"{found[a][b]['seconds']:.2f}" for a, b in columns)])
    return "\n".join(markdown_table(["seconds", *(f"{b}, {a} cache" for a, b in columns)], rows))


def main() -> None:
    """Measures both commands, or runs one of them as a child of itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="sizes for CPUs")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        report, began, *words = options.child
        child(float(began), report, words)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.tiny)
    platform = "cpu" if options.tiny else "gpu"
    path = RESULTS / f"whole_job_{platform}.json"
    path.write_text(
        json.dumps({"machine": found["cold"]["unlearn"]["machine"], **found}, indent=1) + "\n"
    )
    path.with_suffix(".md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
