"""The runs that need a GPU: both papers on CIFAR-10 at the published size, and the table of speeds.

    pip install '.[bench]'
    python experiments/gpu/run.py --data folder:cifar10 --minutes 15   # the same command continues
    python experiments/gpu/run.py --tiny                               # a rehearsal on a CPU

The stages run in this order, until the minutes are over; what is finished is not repeated. Every
stage has its own study file beside this script. The minutes are estimates for one H200, from the
time of a step there (4.4 ms for ResNet-18 and batches of 256) and from 20 s for each compilation;
whoever has a quarter of an hour names the stage "literal" or "sizes".

    literal          12   both papers' literal settings after 200 epochs, one seed
    search           17   blind settings for a random tenth, the trials of a run as one program
    study            20   three seeds with these settings
    sizes            10   milliseconds, share of the peak, compilation and memory
    ddpm             13   the U-Net of DDPM forgets a class in 50 steps
    classes_search    7   blind settings for a class
    classes          22   three classes, three seeds
    fractions        25   three and five tenths, three seeds

Without `--data` tfds fetches CIFAR-10. `folder:DIR` takes images from DIR/train/CLASS and
DIR/test/CLASS; of JPEG copies the titles of the reports say so with `--note "JPEG copies"`.

A study is the work of several processes, each with a share of its methods. Programs stay in JAX's
cache of compiled programs. Seconds of runs are measured beside other processes; only "sizes" has
the GPU for itself. Reports are in RUNS/STAGE/report.md, and those of "classes" and "fractions" in
RUNS/study.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

HERE = Path(__file__).parent
SIZES = HERE.parent / "benchmarks" / "published_sizes.py"
Table = dict[str, Any]


class Stage(NamedTuple):
    """One part of the work.

    Attributes:
        command: "compare", "tune" or "sizes".
        file: its study file.
        requests: names of the requests of the file; all by default.
        search: stage that chooses the settings of the methods.
        folder: folder of its runs; its own by default.
    """

    command: str
    file: str = ""
    requests: tuple[str, ...] = ()
    search: str | None = None
    folder: str | None = None


CLASSES, FRACTIONS = ("class-1", "class-5", "class-8"), ("random-0.3", "random-0.5")
STAGES = {
    "literal": Stage("compare", "literal.toml"),
    "search": Stage("tune", "search.toml"),
    "study": Stage("compare", "study.toml", ("random-0.1",), "search"),
    "sizes": Stage("sizes"),
    "ddpm": Stage("compare", "ddpm.toml"),
    "classes_search": Stage("tune", "classes_search.toml"),
    "classes": Stage("compare", "study.toml", CLASSES, "classes_search", "study"),
    "fractions": Stage("compare", "study.toml", FRACTIONS, "search", "study"),
}


def planned(stage: Stage, given: argparse.Namespace) -> Table:
    """The content of the file of a stage, for the data at hand."""
    plan = tomllib.loads((HERE / stage.file).read_text("utf-8"))
    plan["problem"]["data"] = given.data
    if "title" in plan and given.note:
        plan["title"] += f" ({given.note})"
    if stage.requests:
        plan["requests"] = [each for each in plan["requests"] if name_of(each) in stage.requests]
    if stage.search is not None:
        searched = tomllib.loads((HERE / STAGES[stage.search].file).read_text("utf-8"))["search"]
        tuned = tomllib.loads((given.runs / stage.search / "tuned.toml").read_text("utf-8"))
        (found,) = tuned["overrides"].values()
        plan["methods"] = {name: {"method": searched[name].get("method", name)} for name in found}
        plan["overrides"] = {name_of(request): found for request in plan["requests"]}
    return tiny(plan) if given.tiny else plan


def name_of(request: Table) -> str:
    """The name of a request in studies."""
    from jaxunlearn.data import ForgetRequest

    return ForgetRequest(**request).name


def tiny(plan: Table) -> Table:
    """The same with a small model, two methods, and few examples, steps, trials and requests."""
    problem, generates = plan["problem"], "diffusion" in plan["problem"]
    few = {"num_steps": 2, "forget_batch_size": 8, "retain_batch_size": 8}
    problem |= {"train_size": 200, "model": "ddpm-tiny" if generates else "resnet-tiny"}
    problem["model_settings"] = {}
    problem["training"] = {"num_steps": 4, "retain_batch_size": 32}
    if generates:
        problem["diffusion"] |= {"samples": 2, "sampling_steps": 2}
        plan["classifier"] = {"model": "resnet-tiny", "training": {**few, "num_steps": 4}}
    runs = "search" if "search" in plan else "methods"
    masks = {"mask_batch_size": 64}
    plan[runs] = {
        name: settings | few | (masks if "mask_batch_size" in settings else {})
        for name, settings in list(plan[runs].items())[:2]
    }
    plan["seeds"], plan["requests"] = plan["seeds"][:1], plan["requests"][:1]
    if "overrides" in plan:
        request, found = next(iter(plan["overrides"].items()))
        plan["overrides"] = {request: {name: found[name] | few for name in plan[runs]}}
    if "trials" in plan:
        plan["trials"] = 2
    return plan


def commands(name: str, given: argparse.Namespace) -> list[list[str]]:
    """The commands of a stage, which run side by side; writes its study file."""
    stage, ours = STAGES[name], [sys.executable, "-m", "jaxunlearn"]
    if stage.command == "sizes":
        words = ["--processes", str(given.processes), "--results"]
        words.append(str(given.runs / "published_sizes.json"))
        words += ["--tiny", "resnet18 ours", "resnet18 eager"] if given.tiny else []
        return [[sys.executable, str(SIZES), *words]]
    file = given.runs / "files" / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tomli_w.dumps(planned(stage, given)), "utf-8")
    run = [*ours, stage.command, str(given.runs / (stage.folder or name)), "--config", str(file)]
    if stage.command == "tune":
        return [run]
    count = min(given.processes, 4)
    return [[*run, "--shard", f"{i}/{count}"] for i in range(1, count + 1)]


def finished(commands: list[list[str]], deadline: float) -> bool:
    """Runs commands side by side; whether all of them end well before the deadline.

    After it they are stopped, and save what they have.
    """
    running = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        while any(each.poll() is None for each in running) and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        for each in running:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGTERM)
        for each in running:
            each.wait()
    return not any(each.returncode for each in running)


def main() -> None:
    """Runs the stages in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; all by default")
    parser.add_argument("--data", help="the images, such as folder:cifar10; cifar10 by default")
    parser.add_argument("--note", default="", help="words on the images for the reports")
    parser.add_argument("--minutes", type=float, default=1e6, help="time for everything")
    parser.add_argument("--processes", type=int, default=4, help="processes at once")
    parser.add_argument("--runs", type=Path, help="folder of all runs; runs/gpu by default")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal with small models")
    given = parser.parse_args()
    for name in given.stages:
        if name not in STAGES:
            parser.error(f"stage {name!r} is not one of {', '.join(STAGES)}")
    given.data = given.data or ("digits" if given.tiny else "cifar10")
    given.runs = (given.runs or Path("runs/gpu-tiny" if given.tiny else "runs/gpu")).absolute()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share the GPU
    began = time.monotonic()
    deadline = began + 60 * given.minutes
    for name in given.stages or STAGES:
        needed = STAGES[name].search
        if needed and not (given.runs / needed / "tuned.toml").exists():
            print(f"{name} is left out, since {needed} has chosen no settings", flush=True)
            continue
        print(f"{(time.monotonic() - began) / 60:6.1f} min  {name}", flush=True)
        end = "done" if finished(commands(name, given), deadline) else "not done"
        print(f"{(time.monotonic() - began) / 60:6.1f} min  {name} {end}", flush=True)
        if time.monotonic() > deadline:
            print("the time is over; the same command continues")
            return


if __name__ == "__main__":
    main()
