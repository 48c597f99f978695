"""Two hosts and one: the same models, though both processes are killed and go on elsewhere.

    python experiments/verification/hosts.py

Two processes on this machine stand for two hosts, with four CPU devices each, over loopback. They
pretrain a small network on digits, and make it forget a tenth by EUPMU and by SFR-on. In each of
the three runs both are killed (SIGKILL) once they have saved a checkpoint, and two processes with
two devices each go on from it. The same three runs in one process on one device, undisturbed, give
the models that theirs are compared with: the largest difference over the largest entry. Last, one
of two hosts is given a folder of data that is not there, and the other's end is timed.

Checkpoints are written every ten steps here, not every thousand. Finished runs are kept.
Writes `experiments/results/hosts.json`, and the runs to `runs/hosts`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from jaxunlearn.cli.main import main as command_line
from jaxunlearn.files import read_json, write_json
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.training.hosts import machine

RESULTS = Path(__file__).parents[1] / "results" / "hosts.json"
FOLDER = Path("runs/hosts")
STEPS, KILLED_FROM = 40, 10
SETTINGS = [f"--num-steps={STEPS}", "--forget-batch-size=64", "--retain-batch-size=64"]
PRETRAIN = ["pretrain", "{folder}/pretrain", "--model", "mlp-tiny"]
PRETRAIN += [f"--training.num-steps={STEPS}", "--training.retain-batch-size=64"]
UNLEARN = ["unlearn", "{folder}/{method}", "--pretrained", "{folder}/pretrain", "--fraction", "0.1"]
UNLEARN += ["{method}", *SETTINGS]
RUNS = {  # the command, and the parameters on each device
    "pretrain": (PRETRAIN, "sharded"),
    "eupmu": (UNLEARN, "replicated"),
    "sfron": ([*UNLEARN, "--num-fast-steps=2"], "sharded"),
}


def work() -> None:
    """One process: the command of the arguments, with frequent checkpoints."""
    command_line([*sys.argv[2:], "--chunk-steps", "5", "--checkpoint-every", "10"])


def words(name: str, folder: Path) -> list[str]:
    """The command of a run in a folder."""
    return [word.format(folder=folder, method=name) for word in RUNS[name][0]]


def processes(
    command: list[str], hosts: int, devices: int, last: Sequence[str] = ()
) -> list[subprocess.Popen[str]]:
    """The command on several hosts, with so many devices each; `last` is added on the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for host in range(hosts):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(hosts),
            "JAX_PROCESS_ID": str(host),
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        more = last if host == hosts - 1 else ()
        line = [sys.executable, __file__, "work", *command, *more]
        started.append(subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True))
    return started


def saved(run: Path) -> int:
    """The step of the newest complete checkpoint, by its files."""
    steps = [int(path.parent.name) for path in run.glob("checkpoints/*/contents.json")]
    return max(steps, default=0)


def disturbed(name: str, folder: Path) -> dict[str, Any]:
    """A run on two hosts that are killed, and go on with half of the devices."""
    layout = ["--distributed", "--parameters", RUNS[name][1]]
    both = processes([*words(name, folder), *layout, "--devices", "8"], 2, 4)
    while saved(folder / name) < KILLED_FROM:
        time.sleep(0.01)
        if any(process.poll() is not None for process in both):
            raise RuntimeError(f"{name} ended before it could be killed")
    for process in both:
        process.send_signal(signal.SIGKILL)
    for process in both:
        process.communicate()
    step, unfinished = saved(folder / name), not (folder / name / "done.json").exists()
    both = processes([*words(name, folder), *layout, "--devices", "4"], 2, 2)
    said = [process.communicate(timeout=600)[0] for process in both]
    codes = [process.returncode for process in both]
    if codes != [0, 0]:
        raise RuntimeError(f"{name} did not go on: {codes}")
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return {
        "parameters": RUNS[name][1],
        "killed_after_checkpoint": step,
        "unfinished_when_killed": unfinished,
        "lines_of_metrics": len(lines),
        "second_process_spoke": bool(said[1]),
    }


def weights(run: Path) -> list[np.ndarray]:
    """The arrays of a finished run."""
    config = runs.read_config(run, "pretrain", "unlearn")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(runs.load_weights(run, config.problem))]


def main() -> None:
    """All runs on two hosts, then on one, and how far apart they are."""
    two, one = FOLDER / "two", FOLDER / "one"
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for name in RUNS:
        if name in results:
            continue
        clock = time.perf_counter()
        row = disturbed(name, two)
        (alone,) = processes(words(name, one), 1, 1)
        alone.communicate(timeout=600)
        pairs = list(zip(weights(two / name), weights(one / name), strict=True))
        gap = max(np.max(np.abs(x - y)) for x, y in pairs)
        row["difference"] = float(gap / max(np.max(np.abs(y)) for _, y in pairs))
        row["hosts"] = read_json(two / name / "done.json")["machine"]["hosts"]
        print(f"{name}: {time.perf_counter() - clock:.0f} s, {row}", flush=True)
        write_json(RESULTS, results | {name: row, "machine": machine()})
        results = read_json(RESULTS)
    if "one fails" not in results:
        write_json(RESULTS, results | {"one fails": failing()})


def failing() -> dict[str, Any]:
    """How long a host lives on after the other has ended with an error."""
    command = [*words("pretrain", FOLDER / "failing"), "--distributed", "--devices", "8"]
    first, second = processes(command, 2, 4, ["--data-dir", "/dev/null/none"])
    second.communicate()
    clock = time.perf_counter()
    first.communicate()
    seconds = time.perf_counter() - clock
    return {"status": [first.returncode, second.returncode], "seconds_until_the_other": seconds}


if __name__ == "__main__":
    work() if sys.argv[1:2] == ["work"] else main()
