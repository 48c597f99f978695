"""A study from Python: two methods against retraining, with a report.

python docs/examples/study.py runs/example
"""

import json
import sys
from pathlib import Path

from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies import Problem, Study, compare

STUDY = Study(
    title="Two methods on the digits",
    problem=Problem(data="digits", model="mlp", training={"num_steps": 300}),
    requests=(ForgetRequest(fraction=0.1),),
    seeds=(0,),
    methods={
        "finetune": {"num_steps": 50, "learning_rate": 0.05},
        "eupmu_sfron": {"num_steps": 50, "objective": "track_unseen", "tolerance": 0.01},
    },
)


def main(folder: Path, study: Study = STUDY) -> dict[str, dict[str, float]]:
    """Runs the study, or the missing rest of it, and prints the gaps to the retrained model."""
    files = compare(folder, study)
    gaps = {}
    for request, found in json.loads(files["json"].read_text("utf-8"))["requests"].items():
        runs = {name: run["metrics"].get("five_part_gap") for name, run in found["runs"].items()}
        gaps[request] = {name: gap["mean"] for name, gap in runs.items() if gap}
        print(request, {name: round(gap, 2) for name, gap in gaps[request].items()})
    print(f"The report is {files['html']}.")
    return gaps


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "runs/example"))
