"""Reads a result of `jaxunlearn ulira`, and states what the attacker learns about each method.

python docs/examples/read_ulira.py experiments/results/fashion12k_ulira.json
"""

import json
import sys
from pathlib import Path

RESULT = Path(__file__).parents[2] / "experiments" / "results" / "fashion12k_ulira.json"


def main(path: Path = RESULT) -> dict[str, str]:
    """One sentence for each method; AUC and rates are in percent, with 95% intervals."""
    result = json.loads(path.read_text("utf-8"))
    original = result["models"]["original"]["auc"]
    sentences = {}
    for name, model in result["models"].items():
        auc, found = model["auc"], model["tpr"]["0.01"]["value"]
        if name == "original":
            verdict = "recognises what the original model learned"
        elif auc["low"] <= 50.0:
            verdict = "is no better than a coin"
        elif auc["high"] < original["low"]:
            verdict = "learns less than from the original model"
        elif auc["low"] > original["high"]:
            verdict = "learns more than from the original model"
        else:
            verdict = "learns about as much as from the original model"
        rate = f"finds {found:.1f}% of the forgotten examples at 1% false alarms"
        interval = f"AUC {auc['value']:.1f} [{auc['low']:.1f} to {auc['high']:.1f}]"
        sentences[name] = f"{name}: the attacker {verdict} ({interval}) and {rate}."
    return sentences


if __name__ == "__main__":
    print("\n".join(main(Path(sys.argv[1]) if sys.argv[1:] else RESULT).values()))
