"""Whole studies from Python: train, forget and evaluate in folders, as the command line does.

A stopped function continues where it stopped, and finished work is never repeated. The names below
are imported on first use.

Example: three methods against retraining, with two seeds, and a report.

    from pathlib import Path

    from jaxunlearn.data import ForgetRequest
    from jaxunlearn.studies import Problem, Study, compare

    study = Study(
        problem=Problem(data="digits", model="mlp"),
        requests=(ForgetRequest(fraction=0.1),),
        methods={"eupmu": {}, "sfron": {}, "finetune": {"num_steps": 100}},
        seeds=(0, 1),
    )
    written = compare(Path("runs/study"), study)
    print(written["html"])

Example: the same steps one by one.

    from jaxunlearn.studies import evaluate, pretrain, retrain, unlearn

    runs, request = Path("runs"), ForgetRequest(classes=(3,))
    pretrain(runs / "original", Problem(), seed=0)
    retrain(runs / "retrained", runs / "original", request)
    evaluate(runs / "retrained")
    unlearn(runs / "eupmu", runs / "original", request, "eupmu", {"num_steps": 100})
    print(evaluate(runs / "eupmu", retrained=runs / "retrained")["five_part_gap"])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxunlearn.studies.config import Problem as Problem
    from jaxunlearn.studies.one_call import unlearn_model as unlearn_model
    from jaxunlearn.studies.report import write_report as write_report
    from jaxunlearn.studies.run_study import compare as compare
    from jaxunlearn.studies.runs.adopt import adopting as adopting
    from jaxunlearn.studies.runs.evaluate import evaluate as evaluate
    from jaxunlearn.studies.runs.export import export as export
    from jaxunlearn.studies.runs.train import pretrain as pretrain
    from jaxunlearn.studies.runs.train import retrain as retrain
    from jaxunlearn.studies.runs.train import unlearn as unlearn
    from jaxunlearn.studies.sampling import sample as sample
    from jaxunlearn.studies.study import Study as Study

_MODULES = {
    "Problem": "config",
    "Study": "study",
    "adopting": "runs.adopt",
    "compare": "run_study",
    "evaluate": "runs.evaluate",
    "export": "runs.export",
    "pretrain": "runs.train",
    "retrain": "runs.train",
    "sample": "sampling",
    "unlearn": "runs.train",
    "unlearn_model": "one_call",
    "write_report": "report",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxunlearn.studies' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxunlearn.studies.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
