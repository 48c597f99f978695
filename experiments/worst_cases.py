"""Which examples are hard to forget? A random tenth beside the worst tenths, by four measures.

    python experiments/worst_cases.py        (resumes where it stopped)

On the digits (an MLP) a tenth of the training data is forgotten: drawn at random, and chosen by
`jaxunlearn select` as the most memorised, with the largest gradients or the largest influence on
validation data, and nearest to the retain data. Four methods with the settings that were
chosen blind for a random tenth (`configs/digits_catalogue.toml`), two of them with another
objective, the confidences of teachers (`match_teachers`), and `dmm` as chosen for a random tenth in
`configs/digits_attack.toml`; three pretraining seeds, each model beside one retrained without the
same examples.

Writes `experiments/results/worst_cases.json` and `.md`; a few minutes on two cores.
"""

from pathlib import Path
from typing import Any

from jaxunlearn import studies
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import summarize
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.studies.audits import worst_cases
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.report.numerals import number, spread
from jaxunlearn.studies.runs import train
from jaxunlearn.studies.study import Study, load_study
from jaxunlearn.training.hosts import machine

HERE = Path(__file__).parent
RUNS, RESULTS = Path("runs/worst-cases"), HERE / "results"
MEASURES = ("memorisation", "gradient_norm", "influence", "nearest")
METHODS = ("sfron_unseen", "eupmu_sfron_unseen", "finetune", "random_labels")
ATTACKED = ("dmm",)
TAUGHT = ("sfron_teachers", "eupmu_sfron_teachers")  # the first two with another objective
TEACHERS = {"objective": "match_teachers", "num_teachers": 2}
FRACTION, SEEDS = 0.1, (0, 1, 2)
COLUMNS = ("forget_accuracy", "retain_accuracy", "test_accuracy", "five_part_gap")
Entry = dict[str, Any]


def requests(original: Path) -> dict[str, ForgetRequest]:
    """The random request, and for each measure the examples that are worst by it."""
    found = {"random": ForgetRequest(fraction=FRACTION)}
    for measure in MEASURES:
        file = original.parent / f"{measure}.json"
        if not file.exists():
            worst_cases.select(original, measure, FRACTION, file)
        found[measure] = ForgetRequest(indices=str(file))
    return found


def run_seed(study: Study, seed: int) -> list[Entry]:
    """All requests by all methods, each beside its own retrained model."""
    problem, found = study.problem, []
    original = RUNS / f"seed-{seed}" / "original"
    train.pretrain(original, problem, seed)
    for name, request in requests(original).items():
        oracle = RUNS / f"seed-{seed}" / name / "retrain"
        train.retrain(oracle, original, request)
        found.append({"request": name, "model": "retrain"} | evaluated(oracle, None))
        for method in (*METHODS, *TAUGHT, *ATTACKED):
            run = oracle.parent / method
            train.unlearn(run, original, request, *planned(study, method))
            found.append({"request": name, "model": method} | evaluated(run, oracle))
    return found


def planned(study: Study, name: str) -> tuple[str, Entry]:
    """The method of a row and its settings."""
    if name in ATTACKED:
        study = load_study(HERE / "configs" / "digits_attack.toml")
    method, settings = study.run_settings(study.requests[0], name.replace("_teachers", "_unseen"))
    return method, settings | (TEACHERS if name in TAUGHT else {})


def evaluated(run: Path, oracle: Path | None) -> Entry:
    """The metrics of a run, evaluated unless that is done."""
    if not (run / "results.json").exists():
        studies.evaluate(run, oracle)
    found = read_json(run / "results.json")
    return {"seed": found["seed"]} | {name: found["metrics"].get(name) for name in COLUMNS}


def table(found: list[Entry]) -> str:
    """Means over seeds as Markdown."""
    titles, rows = ["forgotten", "model", "FA", "RA", "TA", "five-part gap"], []
    for request in ("random", *MEASURES):
        for model in ("retrain", *METHODS, *TAUGHT, *ATTACKED):
            of = [e for e in found if (e["request"], e["model"]) == (request, model)]
            cells = []
            for name in COLUMNS:
                values = [e[name] for e in of]
                if None in values:
                    cells.append("–")
                    continue
                summary = summarize(values, bounds=(0.0, 100.0))
                cells.append(f"{number(summary.mean, 2)} {spread(summary, 2)}")
            shown = "*retrained*" if model == "retrain" else model
            rows.append([request, shown, *cells])
    lines = [
        "# A random tenth of the digits, and the worst tenths",
        "",
        f"MLP, {len(SEEDS)} pretraining seeds, mean ± half the 95% interval, [low to high] if it "
        "is cut at the smallest or largest possible value. Accuracies in percent; the gap is to "
        "the model retrained without the same examples.",
        "",
        *markdown_table(titles, rows),
        "",
        "`python experiments/worst_cases.py`",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs and writes."""
    study = load_study(HERE / "configs" / "digits_catalogue.toml")
    found = [entry for seed in SEEDS for entry in run_seed(study, seed)]
    write_json(RESULTS / "worst_cases.json", {"machine": machine(), "runs": found})
    text = table(found)
    write_text(RESULTS / "worst_cases.md", text)
    print(text)


if __name__ == "__main__":
    main()
