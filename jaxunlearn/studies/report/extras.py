"""Findings of other commands on a study.

    STUDY/evidence.json           written by `jaxunlearn evidence STUDY`
    STUDY/ulira/ulira.json        written by `jaxunlearn ulira STUDY/ulira --config ...`

Evidence on other weights is left out; U-LiRA on another problem or other settings is an error.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from jaxunlearn import methods
from jaxunlearn.files import read_json
from jaxunlearn.studies.report.evidence import Entries, by_request
from jaxunlearn.studies.report.study import Run, Study, check_alike, has_weights
from jaxunlearn.studies.runs.schema import EvidenceRecord, UliraRecord, check_record, with_entries

ULIRA_FOLDER = "ulira"


@dataclass(frozen=True)
class Extras:
    """Findings on a study beside its runs.

    Attributes:
        evidence: the content of `evidence.json`, or None.
        entries: evidence on the present runs of the study, by request and then by name.
        without_evidence: number of runs of the study without evidence.
        ulira: the content of `ulira.json`, or None.
    """

    evidence: dict[str, Any] | None = None
    entries: dict[str, dict[str, Entries]] = field(default_factory=dict)
    without_evidence: int = 0
    ulira: dict[str, Any] | None = None

    def ulira_on(self, request: str) -> dict[str, Any] | None:
        """The results of U-LiRA, if it attacked this request."""
        matches = self.ulira is not None and request == f"random-{self.ulira['fraction']!r}"
        return self.ulira if matches else None


def read_extras(study: Study) -> Extras:
    """Reads the findings on a study, without evidence on outdated weights or deleted runs."""
    ulira = _read_ulira(study)
    path = study.folder / "evidence.json"
    if not path.exists():
        return Extras(ulira=ulira)
    evidence = read_json(path)
    check_record(path, evidence, EvidenceRecord)
    present = {(run.seed, run.request, run.name): run for run in study.runs}
    oracles = {(run.seed, run.request): run for run in study.runs if run.name == "retrain"}
    kept = []
    for entry in evidence["runs"]:
        run = present.get((entry["seed"], entry["request"], entry["name"]))
        oracle = oracles.get((entry["seed"], entry["request"]))
        if run is not None and oracle is not None:
            pairs = ((run.folder, "weights"), (oracle.folder, "retrained"))
            if all(has_weights(folder, entry[key]) for folder, key in pairs):
                kept.append(entry)
    return Extras(evidence, by_request({"runs": kept}), len(present) - len(kept), ulira)


def _read_ulira(study: Study) -> dict[str, Any] | None:
    folder = study.folder / ULIRA_FOLDER
    path = folder / "ulira.json"
    if not path.exists():
        return None
    found = read_json(path)
    check_record(path, found, UliraRecord)
    first = next(iter(found["models"].values()))
    needed = with_entries(*({"epsilon_lower_bound"} & first.keys()))
    for model in found["models"].values():
        check_record(path, model, Annotated[dict[str, Any], needed])
        check_record(path, model["tpr"], Annotated[dict[str, Any], with_entries(*first["tpr"])])
    request = f"random-{found['fraction']!r}"
    if (folder / "config.json").exists():
        theirs = read_json(folder / "config.json").get("problem")
        for run in study.runs:
            ours = _config(run).get("problem")
            if ours is not None:
                check_alike(run.folder, {"problem": ours}, folder, {"problem": theirs})
                break
    for name, chosen in found["methods"].items():
        for run in study.select(request, name):
            config, chosen = methods.completed(_config(run)), methods.completed(chosen)
            ours = {key: config[key] for key in ("method", "settings") if key in config}
            check_alike(run.folder, ours, folder, {key: chosen.get(key) for key in ours})
    return found


def _config(run: Run) -> dict[str, Any]:
    path = run.folder / "config.json"
    return read_json(path) if path.exists() else {}


def multiplier_settings(run: Run) -> tuple[str, dict[str, Any]] | None:
    """The method of a run and all its settings, or None if it chooses no multiplier."""
    config = _config(run)
    settings = config.get("settings")
    if not isinstance(settings, dict) or "estimator" not in settings:
        return None
    return str(config.get("method")), settings
