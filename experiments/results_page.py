"""The pages with results: docs/results.md with gaps.png, docs/reproduction.md, README's demo.

    python experiments/results_page.py

writes all of them. The text is in `results_page.md` and `reproduction_page.md`; its numbers are
calls that read result files, so none can differ from its file.
"""

import functools
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np

from jaxunlearn.evaluation import Summary, summarize
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.report.numerals import spread

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGES = {"results_page.md": DOCS / "results.md", "reproduction_page.md": DOCS / "reproduction.md"}
PUBLISHED = HERE / "configs" / "published"
README = HERE.parent / "README.md"
DEMO = re.compile(r"(<!-- demo -->\n).*(<!-- end of the demo -->)", re.DOTALL)
METRICS = {
    "FA": "forget_accuracy",
    "RA": "retain_accuracy",
    "TA": "test_accuracy",
    "svc_non_member_rate": "svc_non_member_rate",
    "entropy_member_rate": "entropy_member_rate",
    "KL": "kl_to_retrained",
    "JS": "js_to_retrained",
    "ToW": "tow",
    "s": "seconds",
    "gap": "five_part_gap",
    "five-part gap": "five_part_gap",
    "% of retraining": "share_of_retraining",
    "weights moved, %": "weights_moved",
    "seen, %": "generated_forget_accuracy",
    "others seen, %": "generated_retain_accuracy",
    "Frechet / original": "frechet_ratio",
    "retain data": "seen_after_revival",
    "1 image": "seen_after_relearning_1",
    "inversion": "seen_after_inversion",
    "tokens": "seen_after_token_inversion",
    "old embeddings": "seen_after_old_embeddings",
    "old, then retain data": "seen_after_revival_old_embeddings",
}
DIGITS = {"KL": 2, "JS": 3, "ToW": 3, "gap": 2, "Frechet / original": 2}
NAMES = {"original": "original", "retrained": "retrain", "retrained again": "retrain-again"}
T_OF_TWO = (
    12.706204736  # half the width of the 95% t-interval of two values, over half of their distance
)
LABELS = {key: f"*{label}*" for label, key in NAMES.items()}


@functools.cache
def result(name: str, folder: str = "results") -> dict[str, Any]:
    """The content of `results/NAME.json`, or of a file in another folder of experiments/."""
    return json.loads((HERE / folder / f"{name}.json").read_text("utf-8"))


def summary(value: dict[str, Any], metric: str) -> Summary:
    """A mean in a result file with its interval; older files hold half of its width."""
    bounds = unit_of(metric)[1:]
    if "values" in value:
        return summarize(value["values"], bounds)
    mean, width, n = value["mean"], value["half_width"], value["n"]
    distance = (width or 0.0) / T_OF_TWO
    return Summary(mean, width, n, (mean - distance, mean + distance) if n == 2 else (), bounds)


def cell(run: dict[str, Any], title: str, digits: int | None = None, interval: bool = True) -> str:
    """The mean of a run under a title with its interval; a dash where the run has none."""
    value = run["metrics"].get(METRICS[title])
    if value is None:
        return "–"
    digits = DIGITS.get(title, 1) if digits is None else digits
    mean = f"{value['mean']:.{digits}f}"
    return f"{mean} {spread(summary(value, METRICS[title]), digits)}".strip() if interval else mean


def percent(value: dict[str, float], scale: float = 1.0) -> str:
    """A value of U-LiRA with its bootstrap interval."""
    mean, low, high = (scale * value[key] for key in ("value", "low", "high"))
    return f"{mean:.1f} [{low:.1f} to {high:.1f}]"


def rows(titles: list[str], body: list[list[str]]) -> str:
    """A Markdown table, with numbers on the right."""
    return "\n".join(markdown_table(titles, body))


def table(
    name: str, request: str, titles: list[str], runs: list[str], attack: str = "", rough: str = ""
) -> str:
    """Runs of a study in the order given; with an attack, the last column is U-LiRA's AUC.

    The column of the title `rough` has means without intervals.
    """
    found = result(name)["requests"][request]["runs"]
    attacked = result(attack)["models"] if attack else {}
    body = []
    for run in runs:
        cells = [cell(found[run], title, interval=title != rough) for title in titles]
        if attack:
            cells.append(percent(attacked[run]["auc"]) if run in attacked else "–")
        body.append([LABELS.get(run, run), *cells])
    return rows(["run", *titles, *(["U-LiRA AUC"] if attack else [])], body)


def attacks(name: str, runs: list[str]) -> str:
    """AUC and true-positive rates of U-LiRA, in percent."""
    found = result(name)["models"]
    body = [
        [
            LABELS.get(run, run),
            percent(found[run]["auc"]),
            *(percent(found[run]["tpr"][rate]) for rate in ("0.01", "0.001")),
            f"{found[run]['test_accuracy']:.1f}",
        ]
        for run in runs
    ]
    return rows(["run", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR", "TA"], body)


def requests_by_model(name: str, models: list[str], kinds: dict[str, str]) -> str:
    """Mean forget accuracy and gap of each model on each kind of request, over seeds."""
    body = []
    for kind, label in kinds.items():
        cells = []
        for model in models:
            runs = [r for r in result(name)["runs"] if (r["request"], r["model"]) == (kind, model)]
            fields = ["forget_accuracy", "five_part_gap"][: 1 if model == "retrain" else 2]
            cells.append(
                ", ".join(f"{np.mean([run[field] for run in runs]):.1f}" for field in fields)
            )
        body.append([label, *cells])
    titles = [f"{LABELS.get(model, model)}: FA" for model in models]
    return rows(["forgotten", titles[0], *(f"{title}, gap" for title in titles[1:])], body)


def value(name: str, request: str, run: str, title: str, digits: int | None = None) -> str:
    """The mean of one run without its interval, for the text."""
    found = result(name)["requests"][request]["runs"][run]
    return cell(found, title, digits, interval=False)


def auc(name: str, run: str) -> str:
    """The AUC of U-LiRA on one run without its interval, for the text; a dash where it has none."""
    model = result(name)["models"].get(run)
    return f"{model['auc']['value']:.1f}" if model else "–"


def audited(name: str, run: str, *keys: str, digits: int = 1) -> str:
    """A number of a run under U-LiRA, found by its keys."""
    found = functools.reduce(lambda value, key: value[key], keys, result(name)["models"][run])
    return f"{found:.{digits}f}"


def multiplier(estimator: str, key: str, scale: float = 1.0) -> float:
    """A number about EUPMU's multiplier beside the exact one."""
    found: float = result("exactness")["multiplier"]["summary"][estimator][key]
    return scale * found


def angle(against: str, key: str) -> float:
    """The largest angle to the exact direction, against the number of fast or of slow steps."""
    return max(row[key] for row in result("exactness")["geometry"][f"against_{against}_steps"])


def flops(model: str, step: str) -> float:
    """The operations of a step of surgery, as a multiple of a plain step's."""
    rows = result("overhead", "benchmarks/results")["rows"]
    return next(row["flops"] for row in rows if (row["model"], row["step"]) == (model, step))


def published() -> str:
    """The files of published settings: what each is about, and whether it was run."""
    body = []
    for path in sorted(PUBLISHED.glob("*.toml")):
        text = path.read_text("utf-8")
        about, status = text.splitlines()[1].strip("# "), text.partition("# Status: ")[2]
        cells = (f"`{path.name}`", about.rstrip("."), status.partition(",")[0])
        body.append(f"| {' | '.join(cells)} |")
    return "\n".join(["| file | setting | run |", "| --- | --- | --- |", *body])


def draw_gaps(path: Path) -> None:
    """Gaps on Fashion-MNIST with their intervals; the gap of a second retrained model is grey."""
    runs = result("fashion12k")["requests"]["random-0.1"]["runs"]
    shown = {
        "EUPMU + SFR-on, track_unseen": "eupmu_sfron_track",
        "SFR-on, track_unseen": "sfron_track",
        "SCRUB+R": "scrub_r",
        "fine-tuning": "finetune",
        "l1-sparse": "l1_sparse",
        "EUPMU, as published": "eupmu",
        "SFR-on, as published": "sfron",
        "original model": "original",
        "EUPMU + SFR-on, random labels": "eupmu_sfron",
        "SalUn": "salun",
        "random labels": "random_labels",
    }
    gaps = {
        run: summary(runs[run]["metrics"]["five_part_gap"], "five_part_gap")
        for run in runs
        if run != "retrain"
    }
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    axes.axvspan(0, gaps["retrain-again"].mean, color="0.85")
    for place, run in enumerate(shown.values()):
        colour = "C1" if run == "original" else "C0"
        axes.errorbar(
            gaps[run].mean, place, xerr=gaps[run].half_width, fmt="o", color=colour, capsize=3
        )
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set(
        xlim=(0, None), xlabel="gap to the retrained model, points (grey: a second retrained model)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def page(template: str) -> str:
    """A page of results from its template."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    functions = (table, attacks, requests_by_model, value, auc, audited, multiplier, angle, flops)
    environment.globals.update({each.__name__: each for each in (*functions, published)})
    environment.globals.update(LABELS=LABELS)
    text = environment.from_string((HERE / template).read_text("utf-8"))
    return text.render() + "\n"


def readme() -> str:
    """README with the demo's headline and the table of its first request."""
    demo = result("digits_demo")
    request, found = next(iter(demo["requests"].items()))
    titles = [
        title
        for title in ("FA", "RA", "TA", "gap", "JS", "weights moved, %", "% of retraining")
        if any(METRICS[title] in run["metrics"] for run in found["runs"].values())
    ]
    lines = [textwrap.fill(f"*{demo['headline']}*", 118) + "\n"] if "headline" in demo else []
    seeds = ", ".join(map(str, demo["seeds"]))
    lines.append(f"Request `{request}`, pretraining seeds {seeds}:\n")
    lines.append(
        table("digits_demo", request, titles, list(found["runs"]), rough="% of retraining")
    )
    block = "\n".join(lines)
    return DEMO.sub(lambda match: f"{match[1]}\n{block}\n\n{match[2]}", README.read_text("utf-8"))


if __name__ == "__main__":
    for template, place in PAGES.items():
        place.write_text(page(template), "utf-8")
    README.write_text(readme(), "utf-8")
    draw_gaps(DOCS / "gaps.png")
