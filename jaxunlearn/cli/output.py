"""The outcome of commands, as lines and as JSON."""

from pathlib import Path

from jaxunlearn.files import read_json, read_record
from jaxunlearn.studies.console import duration, outcome, say, show
from jaxunlearn.studies.runs import adopt, folder
from jaxunlearn.studies.runs.folder import read_done


def trained(kind: str, run: Path, before: bool) -> None:
    """Prints the outcome of a training command."""
    done = read_done(run)
    if before:
        say(f"{run} is already finished; nothing to do")
    else:
        read = done.get("programs_read", 0)
        say(
            f"{done['steps']} steps in {duration(done['seconds'])}, after "
            f"{duration(done['compile_seconds'])} of compilation"
            f"{f', {read} of the compiled programs read from the cache' if read else ''}"
        )
    if "guard" in done:
        guard = done["guard"]
        say(
            f"held-out retain loss: {guard['start']:.4g} at the start, {guard['end']:.4g} at the "
            f"end, limit {guard['limit']:.4g}, {guard['rollbacks']} rollbacks"
        )
    say(f"{kind} model: {run / 'weights'}")
    outcome({"run": run, **done})


def adopted(run: Path, before: bool) -> None:
    """Prints the source of an adopted model, and its accuracies if it classifies."""
    if before:
        say(f"{run} is already finished; nothing to do")
    record = read_record(run / adopt.FILE)
    step = "" if record["step"] is None else f", step {record['step']}"
    place = f" at {record['params']}" if record["params"] else ""
    source = f"{record['checkpoint']} ({record['layout']}{step})"
    say(f"{record['arrays']} arrays{place} in {source}")
    if record["other_params"]:
        say(f"parameters of the same shapes are at {', '.join(record['other_params'])}")
    for note in record.get("notes", ()):
        say(note)
    accuracies = {}
    if folder.read_started(run).problem.classifies:
        accuracies = adopt.accuracies(run)
        said = (f"{value:.2f} % on {name} data" for name, value in accuracies.items())
        say(f"accuracy: {', '.join(said)}")
    say(f"original model: {run / 'weights'}")
    outcome({"run": run, **record, "accuracies": accuracies})


def show_study(study: Path) -> None:
    """Prints the table of a study and the path of its report; `results.json` is the outcome."""
    from jaxunlearn.studies.report import read_study, render_table

    show(render_table(read_study(study)))
    say(f"report: {study / 'report.html'}")
    outcome(read_json(study / "results.json"))
