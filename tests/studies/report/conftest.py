"""A synthetic study folder, as the commands would have written it."""

import json

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions, SplitPredictions, evaluate

CLASSES = 5
SHARPNESS = {
    "original": (6.0, 6.0),
    "retrain": (3.0, 6.0),
    "retrain-again": (3.0, 6.0),
    "fine-tune": (5.0, 6.0),
    "eupmu": (3.2, 5.6),
    "sfron": (3.6, 5.8),
}


def sample(rng, labels, sharpness):
    """Probabilities that favour the true class the more, the larger `sharpness` is."""
    logits = rng.normal(size=(len(labels), CLASSES)) * 1.3 + sharpness * np.eye(CLASSES)[labels]
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = (exponent / exponent.sum(1, keepdims=True)).astype(np.float32)
    return Predictions(probabilities, labels.astype(np.int32))


def make_predictions(name, seed, by_class):
    """Predictions of one run; forgotten classes are unknown to the retrained models."""
    rng = np.random.default_rng([seed, len(name), by_class])
    forget, retain = SHARPNESS[name]
    data = np.random.default_rng(seed)
    if by_class:
        forget = {"original": 6.0, "fine-tune": 2.0}.get(name, -2.0)
    labels = {
        "forget": np.full(60, 3) if by_class else data.integers(0, CLASSES, 60),
        "retain": data.integers(0, CLASSES, 300),
        "validation": data.integers(0, CLASSES, 80),
        "test": data.integers(0, CLASSES, 120),
        "test_forget": np.full(40 if by_class else 0, 3),
    }
    strength = {"forget": forget, "retain": retain, "test_forget": forget}
    return SplitPredictions(
        **{key: sample(rng, value, strength.get(key, 3.0)) for key, value in labels.items()}
    )


def make_history(rng, name):
    """Losses of 120 steps; the surgery methods log a multiplier."""
    steps = np.arange(1, 121)
    forget = 2.0 * (1 - np.exp(-steps / 40)) + rng.normal(size=120) * 0.08
    retain = 0.1 + 0.3 * np.exp(-((steps - 30) ** 2) / 300) + rng.normal(size=120) * 0.02
    entries = [
        {"step": int(s), "forget_loss": float(f), "retain_loss": float(r)}
        for s, f, r in zip(steps, forget, retain, strict=True)
    ]
    if name == "eupmu":
        for entry, value in zip(entries, np.cumsum(rng.normal(size=120) * 0.05), strict=True):
            entry["multiplier"] = max(0.0, 0.4 + float(value))
    return entries


def write_run(folder, name, request, seed, predictions, retrained=None):
    """Writes one finished run."""
    folder.mkdir(parents=True)
    seconds = {"original": 44.0, "retrain": 40.0, "retrain-again": 41.0}.get(name, 2.0 + seed)
    results = {
        "method": name,
        "request": request,
        "seed": seed,
        "steps": 120,
        "seconds": seconds,
        "retrain_seconds": 40.0,
        "share_of_retraining": 100.0 * seconds / 40.0,
        "metrics": evaluate(predictions, retrained),
        "dataset": "digits",
        "model": "mlp",
        "counts": {key: len(value.labels) for key, value in predictions._asdict().items()},
    }
    if name not in ("original", "retrain", "retrain-again"):
        results["weights_moved"] = 1.5 + seed
    (folder / "results.json").write_text(json.dumps(results))
    predictions.save(folder / "predictions.npz")
    lines = [json.dumps(e) for e in make_history(np.random.default_rng(seed), name)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def make_study(root, seeds=(0, 1), requests=("random-0.1", "class-3"), names=tuple(SHARPNESS)):
    """Writes a whole study and returns its folder."""
    root.mkdir(parents=True, exist_ok=True)
    plan = {
        "title": "Forgetting handwritten digits",
        "dataset": "digits",
        "model": "mlp",
        "requests": list(requests),
        "seeds": list(seeds),
        "methods": ["fine-tune", "sfron", "eupmu"],
        "machine": {"platform": "cpu", "devices": 1, "processor": "2 cores", "jax": "0.10.2"},
    }
    (root / "study.json").write_text(json.dumps(plan))
    for seed in seeds:
        (root / f"seed-{seed}" / "pretrain" / "checkpoints").mkdir(parents=True)
        for request in requests:
            predictions = {
                name: make_predictions(name, seed, request.startswith("class")) for name in names
            }
            for name in names:
                write_run(
                    root / f"seed-{seed}" / request / name,
                    name,
                    request,
                    seed,
                    predictions[name],
                    None if name == "retrain" else predictions.get("retrain"),
                )
    return root


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory):
    """Two seeds, two requests, three methods and the three reference models; do not write to it."""
    return make_study(tmp_path_factory.mktemp("studies") / "digits")


@pytest.fixture
def small_study(tmp_path):
    """One seed, one request, one method and the retrained model; free to be damaged."""
    return make_study(
        tmp_path / "small", seeds=(0,), requests=("random-0.1",), names=("retrain", "eupmu")
    )
