"""Kills and damage: does a run survive them, and is anything ever wrong without a word?

    python experiments/verification/survival.py kills --into experiments/results    # 15 minutes
    python experiments/verification/survival.py damage --into experiments/results   # 10 minutes

`kills`: a small study (pretraining, two retrained models, EUPMU and SFR-on, evaluation, report) is
started and killed with SIGKILL up to ten times, and then left to end; that is one trial, and there
are trials until there were 30 kills. Every other kill comes at a moment drawn uniformly from the
first third of the study's duration, counted from where it resumes; those between come at a random
moment of the next writing of a checkpoint. At the end the weights, the last state (optimizer,
multiplier, mask, key), the metrics of every step, the predictions, the results and the report must
equal the undisturbed study's to the last bit, except for times.

`damage`: in a copy of the finished study one file has a bit flipped, is cut short, has a stretch
set to zero, or is deleted; then the command that reads it is given again. The outcome is one of
    named      an error that names the file or its folder
    mended     it resumes from an older checkpoint or computes again, with the identical result
    harmless   the identical result
    wrong      another result without a word; there must be none

Seeds: the number of a trial draws its moments, 1 the damage. A command that is stopped goes
on where it stopped.
"""

import argparse
import collections
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

from jaxunlearn.cli import main as cli
from jaxunlearn.files import read_json, write_json, write_record, write_text
from jaxunlearn.studies import report
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import InputError

KILLS, KILLS_A_TRIAL, CASES_A_KIND = 30, 10, 8
SAVE_SECONDS = 0.6  # about the time to write a checkpoint on a busy machine
WAYS = ("flip", "cut", "zero", "delete")
OUTCOMES = ("named", "mended", "harmless", "wrong")
STUDY = """
title = "Survival"
seeds = [0]
[problem]
model = "mlp-tiny"
[problem.training]
num_steps = {steps}
retain_batch_size = 64
[[requests]]
fraction = 0.1
[methods.eupmu]
num_steps = {steps}
forget_batch_size = 32
retain_batch_size = 32
[methods.sfron]
num_steps = {few}
forget_batch_size = 32
retain_batch_size = 32
"""
_CLOCKS = {"seconds", "compile_seconds", "retrain_seconds", "share_of_retraining", "finished"}
_CLOCKS |= {"programs_read"}


def main() -> None:
    """Runs one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("kills", "damage"))
    parser.add_argument("--into", type=Path, required=True, help="the folder of the result files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "survival")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    {"kills": kills, "damage": damage}[given.part](given.work, given.into)


def kills(work: Path, into: Path) -> None:
    """Kills trial after trial, then compares; `kills.json` has the trials that are done."""
    config = _config(work, "kills", steps=1500, few=1000)
    duration = _undisturbed(work / "undisturbed", config)
    path = work / "kills.json"
    trials = read_json(path)["trials"] if path.exists() else []
    while sum(map(len, trials)) < KILLS:
        trial = len(trials)
        generator, folder, moments = random.Random(trial), work / f"trial-{trial}", []
        shutil.rmtree(folder, ignore_errors=True)
        while len(moments) < KILLS_A_TRIAL:
            in_save = len(moments) % 2 == 1
            delay = generator.uniform(0, SAVE_SECONDS if in_save else duration / 3)
            moment = _kill(folder, config, delay, in_save)
            if moment is None:
                break  # it ended before
            moments.append(moment)
        _finish(folder, config)
        trials.append(moments)
        write_json(path, {"trials": trials})
        print(f"trial {trial}: {len(moments)} kills", flush=True)
    wanted, different = _all(work / "undisturbed"), {}
    for trial in range(len(trials)):
        found = _all(work / f"trial-{trial}")
        names = sorted(found.keys() | wanted.keys())
        different[trial] = [name for name in names if found.get(name) != wanted.get(name)]
    every = [moment for moments in trials for moment in moments]
    summary = {
        "trials": len(trials),
        "kills": len(every),
        "checkpoints_left_half_written": sum(each["checkpoint_half_written"] for each in every),
        "files_and_states_compared_in_each_trial": len(wanted),
        "different": different,
        "seconds_undisturbed": round(duration, 1),
        "machine": machine(),
        "moments": trials,
    }
    write_json(into / "survival_kills.json", summary)
    print(json.dumps({key: summary[key] for key in summary if key != "moments"}, indent=2))


def _config(work: Path, name: str, **sizes: int) -> Path:
    path = work / f"{name}.toml"
    write_text(path, STUDY.format(**sizes))
    return path


def _undisturbed(folder: Path, config: Path) -> float:
    """Runs the study that nothing happens to; returns the seconds from start to end."""
    path = folder.with_suffix(".json")
    if not path.exists():
        for _ in range(2):  # the second finds compiled programs, as the killed ones do
            shutil.rmtree(folder, ignore_errors=True)
            clock = time.monotonic()
            _finish(folder, config)
        write_json(path, {"seconds": time.monotonic() - clock})
    return read_json(path)["seconds"]


def _finish(folder: Path, config: Path) -> None:
    _, status = os.waitpid(_start(folder, config), 0)
    assert status == 0, f"see {folder}.log"


def _start(folder: Path, config: Path, kill_in_save: float | None = None) -> int:
    """Starts the study in a process of its own, which need not import everything again.

    With `kill_in_save` it is killed so many seconds after it began to write its next checkpoint.
    """
    process = os.fork()  # this process has read no data and used no device: it has no threads yet
    if process != 0:
        return process
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if kill_in_save is not None:
        save, kill = Checkpointer.save, functools.partial(os.kill, os.getpid(), signal.SIGKILL)

        def killed_save(*given: Any) -> None:
            threading.Timer(kill_in_save, kill).start()
            save(*given)

        Checkpointer.save = killed_save
    try:
        cli.main(["compare", str(folder), "--config", str(config)])
    except BaseException as error:
        traceback.print_exception(error)
        os._exit(1)
    os._exit(0)


def _kill(folder: Path, config: Path, delay: float, in_save: bool) -> dict[str, Any] | None:
    """Starts the study and kills it; None if it ended before."""
    process, clock = _start(folder, config, delay if in_save else None), time.monotonic()
    ended, status = 0, 0
    while not ended:
        if not in_save and time.monotonic() - clock >= delay:
            os.kill(process, signal.SIGKILL)
            in_save = True
        ended, status = os.waitpid(process, os.WNOHANG)
        time.sleep(0.01)
    assert status in (0, signal.SIGKILL), f"see {folder}.log"
    if status == 0:
        return None
    after = round(time.monotonic() - clock, 2)
    return {"after": after, "checkpoint_half_written": _is_saving(folder)}


def _is_saving(folder: Path) -> bool:
    """Whether a checkpoint is begun and not complete."""
    places = folder.glob("seed-0/**/checkpoints/*")
    return any("tmp" in place.name or not (place / "contents.json").exists() for place in places)


def _content(study: Path) -> dict[str, Any]:
    """Everything that must be the same, without the report and without times."""
    found: dict[str, Any] = {}
    for path in sorted(study.glob("seed-*/**/*")):
        name = path.relative_to(study).as_posix()
        if path.name in ("metrics.jsonl", "predictions.npz"):
            found[name] = path.read_bytes()
        elif path.name in ("config.json", "forget_request.json", "results.json", "done.json"):
            found[name] = _without_clocks(read_json(path))
        elif path.name in ("checkpoints", "weights"):
            step = Checkpointer(path).newest_step()
            record = read_json(path / str(step) / "record" / "metadata")
            found[name] = (step, record["fingerprint"])
    return found


def _all(study: Path) -> dict[str, Any]:
    return _content(study) | _report(study)


def _without_clocks(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _CLOCKS}


def _report(study: Path) -> dict[str, Any]:
    """The report of the study with the same time in every record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        skipped = shutil.ignore_patterns("checkpoints", "weights", "report*", ".*")
        shutil.copytree(study, folder, ignore=skipped)
        for path in [*folder.glob("seed-*/**/results.json"), *folder.glob("seed-*/**/done.json")]:
            record = read_json(path)
            write_record(path, record | {k: type(record[k])(1) for k in _CLOCKS & record.keys()})
        with contextlib.redirect_stdout(io.StringIO()):
            paths = report.write_report(folder)
        return {path.name: path.read_text() for path in paths.values()}


KINDS = {  # kind: the files of the study, and the command that reads them
    "checkpoints": ("seed-0/pretrain/checkpoints/**/*", "resume pretrain"),
    "checkpoints with masks": ("seed-0/random-0.1/sfron/checkpoints/**/*", "resume sfron"),
    "metrics, unfinished": ("seed-0/pretrain/metrics.jsonl", "resume pretrain"),
    "metrics, finished": ("seed-0/random-0.1/*/metrics.jsonl", "compare"),
    "configurations": ("seed-0/**/config.json", "compare"),
    "forget requests": ("seed-0/**/forget_request.json", "compare"),
    "fingerprints": ("seed-0/**/fingerprints.json", "compare"),
    "records of the end": ("seed-0/**/done.json", "compare"),
    "results": ("seed-0/**/results.json", "compare"),
    "predictions": ("seed-0/**/predictions.npz", "compare"),
    "plan of the study": ("study.json", "compare"),
    "weights": ("seed-0/random-0.1/eupmu/weights/**/*", "evaluate"),
}


def damage(work: Path, into: Path) -> None:
    """Damages file after file; `damage.json` in the work folder has the cases that are done."""
    config = _config(work, "damage", steps=1500, few=1500)
    _undisturbed(work / "whole", config)
    path = work / "damage.json"
    cases = read_json(path)["cases"] if path.exists() else []
    every = [(kind, number) for number in range(CASES_A_KIND) for kind in KINDS]
    wanted = _content(work / "whole") | _table(work / "whole")
    for kind, number in every[len(cases) :]:
        generator = random.Random(f"1 {kind} {number}")
        case = _damage(work, config, kind, WAYS[number % len(WAYS)], generator, wanted)
        cases.append(case)
        write_json(path, {"cases": cases})
        print(json.dumps(case), flush=True)
    counts = {kind: collections.Counter[str]() for kind in KINDS}
    for case in cases:
        counts[case["kind"]][case["outcome"]] += 1
    total = {name: sum(count[name] for count in counts.values()) for name in OUTCOMES}
    summary = {"cases": len(cases), "outcomes": total, "machine": machine()}
    shown = json.loads(json.dumps(cases).replace(f"{work}/", ""))  # paths as seen from its folder
    summary |= {"by_kind": counts, "every_case": shown}
    write_json(into / "survival_damage.json", summary)
    rows = [
        [kind, *(str(count[name]) for name in OUTCOMES)]
        for kind, count in [*counts.items(), ("all", total)]
    ]
    text = "\n".join(markdown_table(["file", *OUTCOMES], rows)) + "\n"
    write_text(into / "survival_damage.md", text)
    print(text)


def _table(study: Path) -> dict[str, Any]:
    """The report's table; copies keep the times of their study."""
    return {"table": read_json(study / "results.json")}


def _damage(
    work: Path,
    config: Path,
    kind: str,
    way: str,
    generator: random.Random,
    wanted: dict[str, Any],
) -> dict[str, Any]:
    """One case: a copy of the study, one damaged file in it, and the command given again."""
    pattern, command = KINDS[kind]
    place = work / "damaged" / "whole"
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(work / "whole", place)
    cell = place / "seed-0" / "random-0.1"
    for run in {
        "resume pretrain": [place / "seed-0/pretrain"],
        "resume sfron": [cell / "sfron"],
    }.get(command, []):
        (run / "done.json").unlink()
        shutil.rmtree(run / "weights")
        (run / "results.json").unlink(missing_ok=True)
    file = generator.choice(sorted(path for path in place.glob(pattern) if path.is_file()))
    _spoil(file, way, generator)
    words = ["compare", str(place), "--config", str(config)]
    if command == "evaluate":
        words = ["evaluate", str(cell / "eupmu"), "--retrained", str(cell / "retrain")]
    status, said = _call(words)
    outcome = _judge(place, file, status, said, wanted)
    name = file.relative_to(place).as_posix()
    return {"kind": kind, "file": name, "way": way, "outcome": outcome, "said": said[-400:].strip()}


def _spoil(file: Path, way: str, generator: random.Random) -> None:
    content = bytearray(file.read_bytes())
    at = generator.randrange(max(1, len(content)))
    if way == "delete":
        file.unlink()
        return
    if way == "flip" and content:
        content[at] ^= 1 << generator.randrange(8)
    elif way == "cut":
        del content[at:]
    elif way == "zero":
        end = min(len(content), at + generator.randrange(1, 65))
        content[at:end] = bytes(end - at)
    file.write_bytes(content)


def _call(words: list[str]) -> tuple[int, str]:
    out, status = io.StringIO(), 0
    page = mock.patch(
        "jaxunlearn.studies.report.render_page", return_value=""
    )  # pictures take seconds
    with page, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            return 99, f"{type(error).__name__}: {error}"
    return status, out.getvalue()


def _judge(place: Path, file: Path, status: int, said: str, wanted: dict[str, Any]) -> str:
    """The outcome. An error that names neither the file nor one of its folders is wrong."""
    if status == 2:
        inside = [file, file.parent, *(each for each in file.parents if place in each.parents)]
        return "named" if any(str(each) in said for each in inside) else "wrong"
    lost = file.relative_to(place).as_posix()
    spoilt = {lost} | {name for name in wanted if lost.startswith(f"{name}/")}
    if status != 0:
        return "wrong"
    try:
        found = _content(place) | _table(place)
    except InputError as error:  # the command had no need of the file, and left it as it is
        return "named" if str(file) in str(error) else "wrong"
    differing = {name for name in wanted if found.get(name) != wanted[name]}
    if "is damaged" in said:
        return "wrong" if differing - {"table"} else "mended"  # its times differ
    return "wrong" if differing - spoilt else "harmless"


if __name__ == "__main__":
    main()
