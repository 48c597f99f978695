"""Sound input of every kind, for the strategies to damage."""

import io
from typing import Any

import numpy as np
import safetensors.numpy

from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.studies.report.sweep import cell_file

DATA_DIR, PRETRAINED, SCRATCH = [""], [""], [""]


def problem_fields() -> dict[str, Any]:
    training = {"num_steps": 2, "retain_batch_size": 32, "learning_rate": 0.1}
    fields = {"data": "digits", "data_dir": DATA_DIR[0], "validation_fraction": 0.1}
    return fields | {"model": "mlp-tiny", "model_settings": {"hidden": [8]}, "training": training}


_SETTINGS = {"num_steps": 4, "learning_rate": 0.02, "optimizer": "sgd", "forget_batch_size": 16}

STUDY: dict[str, Any] = {
    "title": "A study",
    "seeds": [0, 1],
    "problem": {
        "data": "digits",
        "validation_fraction": 0.1,
        "train_size": 600,
        "model": "mlp-tiny",
        "model_settings": {"hidden": [8], "activation": "relu"},
        "training": {"num_steps": 2, "retain_batch_size": 32, "learning_rate": 0.1},
    },
    "requests": [{"fraction": 0.1}, {"classes": [3]}, {"indices": [1, 8]}],
    "methods": {
        "finetune": _SETTINGS,
        "mine": {"method": "eupmu", "tolerance": 0.1, "estimator": "exact", "trainable": "head"},
        "guarded": {"method": "gradient_ascent", "guard_budget": 0.1, "guard_every": 5},
    },
    "overrides": {"random-0.1": {"mine": {"tolerance": 0.2}}},
}

SEARCH = {key: STUDY[key] for key in ("problem", "seeds")} | {
    "requests": [{"fraction": 0.1}, {"indices": [1, 8]}],
    "trials": 3,
    "search": {
        "finetune": {"learning_rate": [0.01, 0.1], "num_steps": 4},
        "mine": {"method": "eupmu", "tolerance": [0.1, 1.0], "objective": "match_unseen"},
    },
    "oracle": True,
}


def _metrics(shift: float) -> dict[str, float]:
    names = "forget_accuracy retain_accuracy test_accuracy validation_accuracy".split()
    names += ["svc_non_member_rate", "entropy_member_rate"]
    return {name: 90.0 + shift + i for i, name in enumerate(names)}


def _results(name: str) -> dict[str, Any]:
    found = {"method": name, "request": "random-0.1", "seed": 0, "steps": 4, "seconds": 1.5}
    guard = {"start": 0.2, "limit": 0.3, "end": 0.25, "rollbacks": 1}
    counts = {"forget": 10, "retain": 90, "validation": 9, "test": 30, "test_forget": 0}
    return found | {"metrics": _metrics(len(name) / 10), "counts": counts, "guard": guard}


REPORTED: dict[str, Any] = {
    "study.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "requests": ["random-0.1"],
        "seeds": [0],
        "methods": ["eupmu"],
        "machine": {"platform": "cpu", "devices": 1},
    },
    "seed-0/random-0.1/retrain/results.json": _results("retrain"),
    "seed-0/random-0.1/eupmu/results.json": _results("eupmu"),
    "seed-0/random-0.1/eupmu/metrics.jsonl": {"step": 1, "forget_loss": 1.0, "retain_loss": 0.5},
    "seed-0/random-0.1/eupmu/config.json": {
        "stage": "unlearn",
        "problem": {"data": "digits", "model": "mlp"},
        "method": "eupmu",
        "settings": {"estimator": "exact", "tolerance": 0.1},
    },
    "evidence.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "relearning": {"epochs": 2},
        "runs": [
            {
                "seed": 0,
                "request": "random-0.1",
                "name": name,
                "weights": "00",
                "retrained": "00",
                "relearning_curve": [90.0, 91.0, 92.0],
                "probe_accuracy": 55.0,
                "calibration_error": {"forget": 2.0, "test": 3.0},
                "brier_score": {"forget": 0.1, "test": 0.2},
                "class_damage": [0.5, None, -0.5],
                "disagreement_map": {"forget": [[3, 1]], "test": [[4, 0]]},
                "disagreement": {"forget": 2.0, "test": 3.0},
            }
            for name in ("retrain", "eupmu")
        ],
    },
    "ulira/ulira.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "shadows": 6,
        "targets": 20,
        "fraction": 0.1,
        "seed": 0,
        "variance": "shared",
        "methods": {
            "eupmu": {"method": "eupmu", "settings": {"estimator": "exact", "tolerance": 0.1}}
        },
        "models": {
            name: {
                "auc": {"value": 55.0, "low": 50.0, "high": 60.0},
                "tpr": {"0.01": {"value": 1.0, "low": 0.5, "high": 2.0}},
                "roc_curve": {"fpr": [1.0, 100.0], "tpr": [2.0, 100.0]},
                "forget_accuracy": 90.0,
                "retain_accuracy": 99.0,
                "test_accuracy": 91.0,
            }
            for name in ("original", "retrain", "eupmu")
        },
    },
}

SWEPT: dict[str, Any] = {
    "sweep.json": {
        "identity": {
            "problem": {"data": "digits", "model": "mlp"},
            "method": "eupmu",
            "varied": {"tolerance": [0.1, 0.2]},
            "search": "grid",
        },
        "request": "random-0.1",
        "unseen_accuracy": 95.0,
        "original": _metrics(0.0),
        "retrained": None,
        "counts": {"forget": 10},
        "cells": [cell_file({"tolerance": value}, 0) for value in (0.1, 0.2)],
        "machine": {},
    },
    f"cells/{cell_file({'tolerance': 0.1}, 0)}": {
        "settings": {"tolerance": 0.1},
        "seed": 0,
        "seconds": 0.1,
        "group_size": 2,
        "metrics": _metrics(0.1),
    },
    f"cells/{cell_file({'tolerance': 0.2}, 0)}": {
        "settings": {"tolerance": 0.2},
        "seed": 0,
        "seconds": 0.1,
        "group_size": 2,
        "diverged": 3,
    },
}

TUNED = {
    "machine": {},
    "protocol": {"seeds": [0], "trials": 2, "oracle": True},
    "found": {
        "random-0.1": {
            "eupmu": {
                "ranges": {"tolerance": [0.1, 1.0]},
                "trials": [
                    {"target": 3.0, "five_part_gap": 2.0, "settings": {"tolerance": 0.1}}
                    | _metrics(0.0),
                    {"target": 5.0, "five_part_gap": 1.0, "settings": {"tolerance": 0.2}}
                    | _metrics(1.0),
                ],
            }
        }
    },
}

RUN = {
    "config.json": {
        "stage": "pretrain",
        "problem": problem_fields(),
        "seed": 0,
        "method": "retrain",
        "settings": {"num_steps": 4, "learning_rate": 0.1},
        "request": None,
        "again": False,
        "start": None,
        "aim": None,
    },
    "done.json": {"steps": 2, "seconds": 0.1, "compile_seconds": 0.1, "weights": "00ff"},
    "fingerprints.json": {"data": "00ff"},
}

SAVED = {"format": 1, "dataset": "digits", "request": {"fraction": 0.1}, "forget": [4, 5]}


def npz() -> bytes:
    rows = np.full((4, 3), 1 / 3, np.float32)
    arrays = {}
    for name in SplitPredictions._fields:
        arrays |= {f"{name}_probabilities": rows, f"{name}_labels": np.zeros(4, np.int32)}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18)

TENSORS = safetensors.numpy.save({"dense": np.ones((3, 2), np.float32)})
