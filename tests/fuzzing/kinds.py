"""Every kind of input: its cases, the code that gets them, and the judgement on the outcome."""

import gzip
import json
import os
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests.fuzzing.damage import JUNK, NUMBERS, WORDS, as_toml, damaged, one_of_files, trees
from tests.fuzzing.give import (
    Accepted,
    files_in,
    give_idx,
    give_json,
    give_predictions,
    give_report,
    give_request,
    give_request_file,
    give_run,
    give_saved_request,
    give_search,
    give_settings,
    give_study,
    give_study_text,
    give_sweep,
    give_tensors,
    give_tuning,
    give_vary,
    give_words,
)
from tests.fuzzing.sound import (
    IDX,
    REPORTED,
    RUN,
    SAVED,
    SCRATCH,
    SEARCH,
    STUDY,
    SWEPT,
    TENSORS,
    TUNED,
    npz,
)

_LONGEST = 1000


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        cases: strategy that draws cases.
        give: `give(case)` hands it to the code it is for, in an empty current folder.
    """

    cases: st.SearchStrategy[Any]
    give: Callable[[Any], object]


_CHOICES = (*methods.available(), "digits", "cifar10", "mlp", "ddpm-tiny", "vit-s", "sgd", "exact")

_VALUES = st.one_of(JUNK.map(lambda v: json.dumps(v, default=str)), WORDS, NUMBERS.map(str))


@st.composite
def pairs(draw: Any) -> tuple[str, list[str]]:
    """A method and name=value words, most of which name settings that it has."""
    method = draw(st.one_of(st.sampled_from([*methods.available(), "retrain"]), WORDS))
    known = ["num_steps"]
    if method in methods.available():
        known = [*methods.settings(method), *methods.optional_settings(method)]
    names = st.one_of(st.sampled_from(known), st.sampled_from(known), WORDS)
    words = [f"{draw(names)}={draw(_VALUES)}" for _ in range(draw(st.integers(1, 3)))]
    return method, [*words, *draw(st.lists(WORDS, max_size=1))]


@st.composite
def ranges(draw: Any) -> tuple[str, list[str], dict[str, Any]]:
    """A method, name=values words, and the number of trials and the seeds of a sweep."""
    method, words = draw(pairs())
    ends = st.one_of(NUMBERS.map(str), st.sampled_from(["0.1", "1", "nan", "", "x"]))
    name = draw(st.sampled_from(["learning_rate", "momentum", "num_steps", "guard_budget", "x"]))
    joined = draw(st.sampled_from([",", ":", "::", " "])).join(
        draw(st.lists(ends, min_size=0, max_size=3))
    )
    trials = draw(st.one_of(st.none(), st.integers(-2, 5)))
    seeds = draw(st.lists(st.integers(-2, 2**40), max_size=3))
    chosen = draw(st.sampled_from([[f"{name}={joined}"], [f"{name}={joined}"], words]))
    return method, chosen, {"trials": trials, "seeds": seeds}


_LISTS = st.one_of(JUNK, st.lists(JUNK, max_size=4), st.lists(st.integers(-2, 2000), max_size=4))

_REQUESTS = st.dictionaries(
    st.sampled_from(["fraction", "classes", "words", "subclass", "indices", "file"]),
    st.one_of(_LISTS, _LISTS.map(lambda v: tuple(v) if isinstance(v, list) else v)),
    max_size=2,
)

_FILES = st.one_of(
    damaged(b"[4, 5, 77, 1300]"),
    damaged(b"4\n5\n77\n1300\n"),
    st.binary(max_size=40),
    st.lists(JUNK, max_size=3).map(lambda v: json.dumps(v).encode()),
    st.integers(1, 200_000).map(lambda n: b"[" * n),
    st.integers(1, 6000).map(lambda n: b"9" * n),
    NUMBERS.map(lambda n: f"3\n{n}".encode()),
    trees({"indices": [4, 5]}).map(lambda v: json.dumps(v).encode()),
)

_UNLEARN = "unlearn run eupmu --pretrained PRETRAINED --fraction 0.1".split()

_COMMANDS = (
    [*_UNLEARN, "--num-steps=4", "--tolerance=0.1", "--guard-budget=0.1"],
    [*_UNLEARN, "--trainable", "head", "--adapter-rank", "2", "--devices", "1"],
    "retrain run --pretrained PRETRAINED --indices 1 8".split(),
    "pretrain run --model mlp-tiny --training.num-steps 4 --validation-fraction 0.2".split(),
    "pretrain run --model ddpm-tiny --diffusion.num-timesteps 60 --diffusion.samples 3".split(),
    "sweep run salun --pretrained PRETRAINED --classes 3 --vary fraction=0.1,0.2".split(),
    "sweep run eupmu --pretrained PRETRAINED --classes 3 --vary tolerance=1:2 --trials 3 "
    "--seeds 0 1 --group-size 4 --shard 1/2".split(),
    "evaluate PRETRAINED --retrained PRETRAINED".split(),
    "select run --pretrained PRETRAINED --by gradient_norm --fraction 0.1".split(),
    "ulira run --config STUDY --shadows 6 --group-size 2 --fpr 0.1".split(),
    "compare run --config STUDY --seeds 3".split(),
    "sample picture.png --run PRETRAINED --labels 1 --count 2".split(),
    "report PRETRAINED --rank-by five_part_gap".split(),
    "evidence PRETRAINED".split(),
    "list eupmu".split(),
)

_WORD = st.one_of(
    WORDS,
    NUMBERS.map(str),
    st.sampled_from([word for command in _COMMANDS for word in command]),
    _VALUES,
)


@st.composite
def commands(draw: Any) -> list[str]:
    """The words of a command, one or two of them replaced, left out or put in."""
    words = list(draw(st.sampled_from(_COMMANDS)))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(words) - 1))
        how = draw(st.sampled_from(["replace", "replace", "drop", "insert"]))
        words[at : at + (how != "insert")] = [] if how == "drop" else [draw(_WORD)]
    return [word.replace("\0", "") for word in words]


FOLDERS = ("run folders", "command lines")  # these need a pretraining run

KINDS: dict[str, Kind] = {
    "studies": Kind(trees(STUDY, _CHOICES), give_study),
    "study files": Kind(damaged(as_toml(STUDY).encode()), give_study_text),
    "searches": Kind(trees(SEARCH, _CHOICES), give_search),
    "settings": Kind(pairs(), give_settings),
    "what sweeps vary": Kind(ranges(), give_vary),
    "forget requests": Kind(_REQUESTS, give_request),
    "request files": Kind(_FILES, give_request_file),
    "saved requests": Kind(trees(SAVED), give_saved_request),
    "idx files": Kind(
        st.one_of(damaged(IDX), damaged(gzip.compress(IDX)).map(lambda b: b"gz" + b)), give_idx
    ),
    "safetensors": Kind(damaged(TENSORS), give_tensors),
    "predictions": Kind(damaged(npz()), give_predictions),
    "JSON files": Kind(damaged(json.dumps(REPORTED).encode()), give_json),
    "run folders": Kind(one_of_files(RUN), give_run),
    "study folders": Kind(one_of_files(REPORTED), give_report),
    "sweep folders": Kind(one_of_files(SWEPT), give_sweep),
    "search folders": Kind(trees(TUNED), give_tuning),
    "command lines": Kind(commands(), give_words),
}


class Found(NamedTuple):
    """The outcomes of one kind's cases: the number of each, and the failures by place."""

    counts: Counter[str]
    failures: dict[str, str]


def fuzz(name: str, count: int, number: int) -> Found:
    """Draws cases of one kind, always the same for one seed.

    Args:
        name: name of the kind.
        count: number of cases.
        number: seed of the draws.

    Returns:
        Their outcomes.
    """
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[name].cases)
    def one(case: Any) -> None:
        outcome, why = judge(KINDS[name].give, case)
        counts[outcome] += 1
        if outcome == "failed":
            failures.setdefault(why, repr(case)[:500])

    one()
    return Found(counts, failures)


def judge(give: Callable[[Any], object], case: Any) -> tuple[str, str]:
    """Gives one case: "refused", "accepted", or "failed" and why."""
    here, empty = Path.cwd(), Path(tempfile.mkdtemp(dir=SCRATCH[0]))
    os.chdir(empty)
    try:
        give(case)
    except Accepted:
        return "accepted", ""
    except InputError as error:
        said = str(error)
        if "\n" in said or not 10 < len(said) < _LONGEST:
            return "failed", f"an error that is no sentence: {said[:200]!r}"
        if left := files_in(empty):
            return "failed", f"refused, but left {sorted(left)}"
        return "refused", ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "jaxunlearn/" in f.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        return "failed", f"{type(error).__name__} in {place}: {str(error)[:200]}"
    finally:
        os.chdir(here)
    return "accepted", ""
