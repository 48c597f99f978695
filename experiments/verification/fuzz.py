"""Damaged input of every kind: always the documented error, never a traceback or a half-result.

    python -m experiments.verification.fuzz --cases 300

Hypothesis draws, for each kind of input below, that many cases from a sound one: values of another
type, size or sign, fields that are missing, unknown or in the wrong place, bytes flipped, cut off
or put in. Each is given to the code that a command would give it to, in an empty folder. It may be

    refused     by an `InputError` of one sentence (the commands print it and end with status 2),
                with the folder as it was before
    accepted    because the case is sound; work stops before anything is trained

Anything else is a failure: any other exception, an error of several lines or without end, or a file
left behind after a refusal. `tests/long_forms/test_fuzz.py` draws a few of each kind, always
the same.

Writes `experiments/results/fuzz.json` and `fuzz.md`: counts by kind, the seed, and each failure.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from jaxunlearn.files import write_json
from jaxunlearn.studies import config
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.runs import train
from jaxunlearn.training.hosts import machine
from tests.fuzzing.give import prepare
from tests.fuzzing.kinds import KINDS, fuzz
from tests.fuzzing.sound import PRETRAINED, problem_fields

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Draws cases of every kind, or of some, and writes the counts of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS), nargs="*", default=list(KINDS))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), Path(folder) / "data")
        problem = from_dict(config.Problem, problem_fields(), "the problem")
        train.pretrain(Path(PRETRAINED[0]), problem, 0)
        rows = {}
        for name in words.only:
            clock = time.perf_counter()
            found = fuzz(name, words.cases, words.seed)
            rows[name] = dict(found.counts) | {"failures": found.failures}
            print(f"{name}: {dict(found.counts)}, {time.perf_counter() - clock:.0f} s", flush=True)
            for why, case in found.failures.items():
                print(f"    {why}\n        {case}", flush=True)
    if words.only == list(KINDS):
        write(rows, words.seed)


def write(rows: dict[str, dict[str, Any]], number: int) -> None:
    """Writes the counts as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "fuzz.json", {"seed": number, "machine": machine(), "kinds": rows})
    outcomes, cells = ("refused", "accepted", "failed"), []
    rows |= {"all": {key: sum(row.get(key, 0) for row in rows.values()) for key in outcomes}}
    for name, row in rows.items():
        counts = [row.get(key, 0) for key in outcomes]
        cells.append([name, *(f"{count:,}" for count in (sum(counts), *counts))])
    lines = markdown_table(["input", "cases", *outcomes], cells)
    (RESULTS / "fuzz.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
