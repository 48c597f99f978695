"""Are the first examples still forgotten after four more requests? And is the model still good?

    python experiments/one_after_another.py        (resumes where it stopped)

On digits with an MLP five random 2% of the training data are forgotten one after
another, each from the weights before, by SFR-on and by EUPMU, with settings found for a
single random 10%. After each request the model is compared with one retrained without all of
them. Three pretraining seeds.

Writes `experiments/results/one_after_another.json`, `.md` and `.png`; a few minutes on two cores.
The runs are in `runs/one-after-another`, each with its record of deletions.
"""

from pathlib import Path
from typing import Any

from jaxunlearn import studies
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import summarize
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.studies.report import numerals
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.report.plots import BLUE, DASHES, INK, MUTED, ORANGE, panels, picture
from jaxunlearn.studies.runs import deletions, train
from jaxunlearn.studies.study import Study, load_study
from jaxunlearn.training.hosts import machine

HERE = Path(__file__).parent
RUNS = Path("runs/one-after-another")
RESULTS = HERE / "results"
REQUEST, TIMES, SEEDS = ForgetRequest(fraction=0.02), 5, (0, 1, 2)
METHODS = ("sfron", "eupmu")
NAMES = {"retrain": "Retrained", "sfron": "SFR-on", "eupmu": "EUPMU"}
Entry = dict[str, Any]


def run_chain(study: Study, seed: int) -> list[Entry]:
    """All requests by all methods, and the results of each model after each request."""
    problem, found = study.problem, []
    original = RUNS / f"seed-{seed}" / "original"
    train.pretrain(original, problem, seed)
    before = dict.fromkeys(METHODS, original)
    for number in range(1, TIMES + 1):
        folder = RUNS / f"seed-{seed}" / f"request-{number}"
        oracle = folder / "retrain"
        train.retrain(oracle, before[METHODS[0]], REQUEST)
        found.append(evaluated(oracle, original, None) | {"number": number})
        for method in METHODS:
            settings = study.run_settings(ForgetRequest(fraction=0.1), method)[1]
            train.unlearn(folder / method, before[method], REQUEST, method, settings)
            before[method] = folder / method
            found.append(evaluated(folder / method, original, oracle) | {"number": number})
            assert len(deletions.read(folder / method)) == number
    return found


def evaluated(run: Path, original: Path, oracle: Path | None) -> Entry:
    """The results of a run, evaluated unless that is done."""
    if not (run / "results.json").exists():
        studies.evaluate(run, oracle, original)
    found = read_json(run / "results.json")
    drift, metrics = found["drift"], found["metrics"]
    return {
        "seed": found["seed"],
        "method": found["method"],
        "forgotten": [row["accuracy"] for row in drift["requests"]],
        "examples": [row["examples"] for row in drift["requests"]],
        "retain": drift["kept"]["model"]["retain_accuracy"],
        "test": drift["kept"]["model"]["test_accuracy"],
        "original_test": drift["kept"]["original"]["test_accuracy"],
        "js_to_original": drift["js_to_original"],
        "js_to_retrained": metrics.get("js_to_retrained"),
        "five_part_gap": metrics.get("five_part_gap"),
        "seconds": found["seconds"],
    }


def over_seeds(found: list[Entry], method: str, number: int, value: Any) -> str:
    """Mean over seeds of a number from 0 to 100, and its 95% interval, as text."""
    values = [value(e) for e in found if (e["method"], e["number"]) == (method, number)]
    if values[0] is None:
        return "–"
    summary = summarize(values, bounds=(0.0, 100.0))
    return f"{numerals.number(summary.mean, 2)} {numerals.spread(summary, 2)}"


COLUMNS = {
    "newest forgotten": lambda e: e["forgotten"][-1],
    "first forgotten": lambda e: e["forgotten"][0],
    "retain": lambda e: e["retain"],
    "test": lambda e: e["test"],
    "five-part gap": lambda e: e["five_part_gap"],
    "100 JS to original": lambda e: 100 * e["js_to_original"],
}


def table(found: list[Entry]) -> str:
    """The drift as Markdown."""
    rows = [
        [
            str(number),
            name,
            *(over_seeds(found, method, number, value) for value in COLUMNS.values()),
        ]
        for number in range(1, TIMES + 1)
        for method, name in NAMES.items()
    ]
    lines = [
        "# Five random 2% requests, one after another",
        "",
        f"Digits, MLP, {len(SEEDS)} pretraining seeds, mean ± half the 95% interval, [low to high] "
        "if it is cut at the smallest or largest possible value. Accuracies in percent; the gap is "
        "to the model retrained without all requests so far.",
        "",
        *markdown_table(["after request", "model", *COLUMNS], rows),
        "",
        "![The drift](one_after_another.png)",
        "",
        "`python experiments/one_after_another.py`",
    ]
    return "\n".join(lines) + "\n"


def draw(found: list[Entry]) -> None:
    """Accuracy on the first request and on test data, and the gap, after each request."""
    shown = {
        "Accuracy on the first request, %": COLUMNS["first forgotten"],
        "Accuracy on test data, %": COLUMNS["test"],
        "Five-part gap": COLUMNS["five-part gap"],
    }
    look = dict(zip(NAMES, zip((INK, BLUE, ORANGE), DASHES, strict=False), strict=True))
    path = RESULTS / "one_after_another.png"
    with picture(path, 1, len(shown), (3.1, 2.6)) as figure:
        every = panels(figure, list(shown), len(shown))
        for axes, value in zip(every, shown.values(), strict=True):
            for method, (colour, dash) in look.items():
                numbers = range(1, TIMES + 1)
                rows = [
                    [value(e) for e in found if (e["method"], e["number"]) == (method, number)]
                    for number in numbers
                ]
                if rows[0][0] is None:
                    continue
                means = [sum(row) / len(row) for row in rows]
                axes.plot(numbers, means, color=colour, ls=dash, label=NAMES[method])
                axes.fill_between(
                    numbers, list(map(min, rows)), list(map(max, rows)), color=colour, alpha=0.15
                )
            axes.set(xlabel="after request", xticks=range(1, TIMES + 1))
        every[0].legend(fontsize=7.5, labelcolor=MUTED)


def main() -> None:
    """Runs, writes and draws."""
    study = load_study(HERE / "configs" / "one_after_another.toml")
    found = [entry for seed in SEEDS for entry in run_chain(study, seed)]
    write_json(RESULTS / "one_after_another.json", {"machine": machine(), "runs": found})
    text = table(found)
    write_text(RESULTS / "one_after_another.md", text)
    draw(found)
    print(text)


if __name__ == "__main__":
    main()
