"""The types of the records of studies, for their writers and their readers.

Fields that are not listed are allowed, so that records may grow.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from jaxunlearn.studies.fields import first_error

T = TypeVar("T")
Filled = Annotated[list[T], Field(min_length=1)]
FilledTable = Annotated[dict[str, T], Field(min_length=1)]
_REMEDY = "; restore the file, or delete it and run again the command that wrote it"


def with_entries(*names: str) -> AfterValidator:
    """An annotation of a table without fixed fields that needs entries of these names."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            if name not in table:
                raise ValueError(f"has no {name}, but needs one")
        return table

    return AfterValidator(check)


Table = dict[str, Any]
Parts = Annotated[dict[str, float], with_entries("forget", "test")]
Interval = Annotated[dict[str, float], with_entries("value", "low", "high")]
Percentiles = Annotated[dict[str, float], with_entries("targets", "retain", "test")]
Accuracies = Annotated[dict[str, float], with_entries("forget_accuracy", "validation_accuracy")]


class OwnMetric(TypedDict):
    """A metric or an attack of the user."""

    kind: Literal["metric", "attack"]
    direction: Literal["near", "low", "high", "neither"]
    about: str
    unit: str
    low: float | None
    high: float | None


class Results(TypedDict):
    """`results.json` of a run."""

    metrics: dict[str, float]
    counts: NotRequired[dict[str, int] | None]
    own_metrics: NotRequired[dict[str, OwnMetric]]
    seconds: NotRequired[float | None]
    weights_moved: NotRequired[float | None]
    finished: NotRequired[str | None]
    guard: NotRequired[
        Annotated[dict[str, float], with_entries("start", "limit", "end", "rollbacks")] | None
    ]


class Done(TypedDict):
    """`done.json` of a run that trained."""

    steps: int
    seconds: float
    compile_seconds: float
    weights: str
    weights_moved: NotRequired[float]
    machine: NotRequired[Table | None]


class Evidence(TypedDict):
    """The evidence on one run in `evidence.json`."""

    seed: int
    request: str
    name: str
    weights: str
    retrained: str
    relearning_curve: Filled[float]
    probe_accuracy: NotRequired[float | None]  # a single forget example has no halves
    calibration_error: Parts
    brier_score: Parts
    class_damage: Filled[float | None]  # a class without test examples has none
    disagreement_map: Annotated[dict[str, list[list[int]]], with_entries("forget", "test")]
    disagreement: Parts
    exposure_auc: NotRequired[float]  # from here on: missing in files of older versions
    perturbed_accuracy: NotRequired[Filled[float]]
    residual_knowledge: NotRequired[float]
    discrepancy: NotRequired[Annotated[dict[str, Filled[float]], with_entries("retain", "test")]]


class EvidenceRecord(TypedDict):
    """`evidence.json` of a study."""

    title: str
    dataset: str
    model: str
    relearning: Annotated[Table, with_entries("epochs")]
    radii: NotRequired[Filled[float]]
    runs: list[Evidence]


class Revived(TypedDict):
    """The result of one attack on a model that generates, or of none."""

    seen: float
    probability: float
    steps: int
    seconds: float


REVIVAL = "revival.json"


class RevivalRecord(TypedDict):
    """`revival.json` of a run."""

    weights: str
    original: NotRequired[str | None]  # the original model's weights, if they are known
    protocol: Annotated[Table, with_entries("steps", "learning_rate", "judge")]
    before: Revived
    attacks: dict[str, Revived]


class Attacked(TypedDict):
    """The results of U-LiRA on one model; all rates are in percent."""

    auc: Interval
    tpr: dict[str, Interval]
    roc_curve: Annotated[dict[str, Filled[float]], with_entries("fpr", "tpr")]
    forget_accuracy: float
    retain_accuracy: float
    test_accuracy: float
    epsilon_lower_bound: NotRequired[float]
    retain_auc: NotRequired[float]  # from here on: missing in files of older versions
    memorised_auc: NotRequired[Annotated[dict[str, float], with_entries("most", "least")]]
    klom: NotRequired[Percentiles]
    gaussian_klom: NotRequired[Percentiles]


class Chosen(TypedDict):
    """A method and its settings."""

    method: str
    settings: Table


class UliraRecord(TypedDict):
    """`ulira.json` of a folder of shadow models."""

    title: str
    dataset: str
    model: str
    shadows: int
    targets: int
    fraction: float
    seed: int
    variance: str
    methods: dict[str, Chosen]
    models: FilledTable[Attacked]
    retrained_again: NotRequired[list[Attacked]]  # other halves of the retrained models


class Trial(TypedDict):
    """One setting that a search tried."""

    target: float
    five_part_gap: NotRequired[float | None]
    settings: Table


class Tried(TypedDict):
    """All settings that a search tried for one run."""

    ranges: Table
    trials: Filled[Trial]


class Protocol(TypedDict):
    """The plan of a search."""

    seeds: list[Any]
    trials: int
    problem: NotRequired[Table | None]


class TuningRecord(TypedDict):
    """`tuning.json` of a search."""

    protocol: Protocol
    found: dict[str, dict[str, Tried]]


class SweepIdentity(TypedDict):
    """The fields that identify a sweep."""

    problem: Annotated[Table, with_entries("data", "model")]
    method: str
    varied: FilledTable[list[float] | Annotated[dict[str, float], with_entries("low", "high")]]
    search: str


class SweepRecord(TypedDict):
    """`sweep.json` of a sweep."""

    identity: SweepIdentity
    request: str
    unseen_accuracy: float
    original: Accuracies
    retrained: NotRequired[Accuracies | None]
    cells: list[str]
    machine: Table


class SweepCell(TypedDict):
    """One run of a sweep."""

    settings: dict[str, float]
    seed: int
    seconds: float
    metrics: NotRequired[Accuracies | None]


def check_record(path: Path, value: Any, kind: Any) -> None:
    """Raises unless a value is a record of a kind.

    Example:
        >>> trial = {"target": 3, "settings": {}}
        >>> check_record(Path("a.json"), trial, Trial)
        >>> check_record(Path("a.json"), {"settings": {}}, Trial)
        Traceback (most recent call last):
        ...
        jaxunlearn.types.InputError: a.json has no target, but needs one; restore the file, or ...
    """
    try:
        _adapter(kind).validate_python((value,))
    except ValidationError as error:
        raise first_error(error, kind, str(path), _REMEDY) from None


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, allow_inf_nan=False))
