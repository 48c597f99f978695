"""The report of attacks that bring a forgotten class back: tables and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.evaluation import summarize
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.files import write_text
from jaxunlearn.studies.report.columns import REFERENCES, REVIVALS
from jaxunlearn.studies.report.markdown_text import escape, markdown_table
from jaxunlearn.studies.report.numerals import number, spread
from jaxunlearn.studies.report.plots import draw_attacks, paneled

Records = list[dict[str, Any]]  # of one model, one for each seed

MEANINGS = """\
The numbers are percentages: a model generates images of the forgotten classes, from the same noise
before and after each attack, and a classifier counts the images in which it sees a forgotten class.
Lower is better. The retrained model never saw these classes, so its value is the floor. Revival
trains all weights on retain data alone. Relearning trains all weights on 1, 10 or 100 forget
images. Inversion trains only the embeddings of the forgotten classes, or the hidden states of their
prompts, on forget images. Inverted tokens trains only the embeddings of tokens that occur in no
other prompts. Old embeddings puts the original model's embeddings back, either alone or before a
revival of all other weights. Paraphrases gives the words of the forgotten prompts in two other
orders. Values are means over the seeds with 95% intervals."""


def attack_titles(models: Mapping[str, Records]) -> dict[str, str]:
    """The titles of "before" and of the attacks that any model went through."""
    present = {name for records in models.values() for each in records for name in each["attacks"]}
    return {"before": "Before"} | {
        name: title for name, (title, *_) in REVIVALS.items() if name in present
    }


def seen(record: Mapping[str, Any]) -> dict[str, float]:
    """The share of images with a forgotten class, before and after each attack."""
    found = {"before": record["before"]} | record["attacks"]
    return {name: one["seen"] for name, one in found.items()}


def attack_rows(models: Mapping[str, Records]) -> list[list[str]]:
    """For each model its title and its cells as texts, the references first."""
    rows = []
    for name in dict.fromkeys([*(name for name in REFERENCES if name in models), *models]):
        cells = []
        for attack in attack_titles(models):
            values = [found[attack] for each in models[name] if attack in (found := seen(each))]
            summary = summarize(values, unit_of("accuracy")[1:]) if values else None
            cells.append(
                f"{number(summary.mean, 1)} {spread(summary, 1)}".rstrip() if summary else "–"
            )
        rows.append([title_of(name), *cells])
    return rows


def title_of(name: str) -> str:
    """The name of a model in a table."""
    return REFERENCES[name][0] if name in REFERENCES else name


def cost_of(models: Mapping[str, Records]) -> str:
    """The cost of the attacks in a sentence."""
    done = [
        one for records in models.values() for each in records for one in each["attacks"].values()
    ]
    trained = [one for one in done if one["steps"]]
    first = next(iter(models.values()))[0]["protocol"]
    if not trained:
        return "No attack trained anything."
    seconds = float(np.median([one["seconds"] for one in trained]))
    return (
        f"An attack takes {first['steps']} steps of {first['batch_size']} images, "
        f"{number(seconds, 1)} seconds (median); all weights are trained at the rate "
        f"{first['learning_rate']:g}, which decays along a cosine."
    )


def write_revival_report(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes `revival.md`, and for each request a picture `revival-REQUEST.png`."""
    lines = [f"# Attacks: {escape(found['title'])}", "", *MEANINGS.splitlines()]
    requests: dict[str, dict[str, Records]] = {}
    for entry in found["runs"]:
        of_request = requests.setdefault(entry["request"], {})
        of_request.setdefault(entry["name"], []).append(entry)
    for request, models in requests.items():
        file = f"revival-{request}.png"
        draw_revival(folder / file, models)
        table = markdown_table(
            ["", *attack_titles(models).values()],
            [[escape(name), *cells] for name, *cells in attack_rows(models)],
        )
        lines += ["", f"## {escape(request)}", "", cost_of(models), "", *table]
        lines += ["", f"![Forgotten class seen before and after each attack]({file})"]
    write_text(folder / "revival.md", "\n".join(lines) + "\n")


def draw_revival(path: Path, models: Mapping[str, Records]) -> None:
    """One panel per method, beside the retrained model and the original: means over the seeds."""
    titles = attack_titles(models)
    means: dict[str, dict[str, float]] = {}
    for name, records in models.items():
        found = [seen(each) for each in records]
        means[name] = {
            title: float(np.mean([each[attack] for each in found]))
            for attack, title in titles.items()
            if all(attack in each for each in found)
        }
    names = [name for name in models if name not in REFERENCES] or [*models][-1:]
    longest = max(map(len, names))
    width = 1.7 + max(1.7, 0.1 * longest)  # inches: the labels, and axes below a whole title
    with paneled(path, names, (width, 0.7 + 0.28 * len(titles))) as grid:
        for name, axes in zip(names, grid, strict=True):
            draw_attacks(axes, means, name)
        shown = grid[0].get_legend_handles_labels()
        grid[0].figure.legend(*shown, loc="outside upper left", ncols=3)


def render_revival(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The records of one run, and of the models beside it, as lines of text."""
    each = {name: [dict(record)] for name, record in models.items()}
    heads, rows = ["", *map(title_of, models)], []
    for attack, title in attack_titles(each).items():
        found = [seen(record).get(attack) for record in models.values()]
        rows.append([title, *("" if value is None else f"{value:.1f} %" for value in found)])
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [
        "  ".join([f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])])
        for row in (heads, *rows)
    ]
    return "\n".join(["forgotten class seen:", *lines, cost_of(each)])
