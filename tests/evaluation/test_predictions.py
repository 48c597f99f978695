"""Predictions: bad ones are refused, batching changes nothing, files come back whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxunlearn.evaluation import Predictions, SplitPredictions, accuracy, predict
from jaxunlearn.training.compilation import compilation_seconds
from jaxunlearn.types import InputError

GOOD = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
LABELS = np.array([0, 2])


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "empty"),
        (GOOD[0], LABELS, r"\[examples, classes\]"),
        (GOOD, LABELS[:1], "one label for each row"),
        (GOOD, LABELS[:, None], "one label for each row"),
        (np.where(GOOD == 0.7, np.nan, GOOD), LABELS, "not finite in 1 of 2 rows"),
        (np.where(GOOD == 0.7, np.inf, GOOD), LABELS, "not finite"),
        (GOOD * 1.01, LABELS, "softmax"),
        (np.log(GOOD), LABELS, "softmax"),
        (np.array([[1.2, -0.2, 0.0], [0.1, 0.1, 0.8]]), LABELS, "non-negative"),
        (GOOD, np.array([0, 3]), "must have labels from 0 to 2"),
        (GOOD, np.array([-1, 0]), "labels from -1 to 0"),
        (GOOD, np.array([0.0, 1.0]), "must have integers"),
    ],
)
def test_malformed_predictions_are_refused_with_a_reason(probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        accuracy(Predictions(probabilities, labels))


def test_rounding_of_short_floats_is_no_error():
    assert accuracy(Predictions(GOOD.astype(np.float16), LABELS)) == 100.0
    assert accuracy(Predictions(jnp.asarray(GOOD), jnp.asarray(LABELS))) == 100.0


def make_split(count):
    rng = np.random.default_rng(count)
    return {
        "image": jnp.asarray(rng.normal(size=(count, 4)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, count), jnp.int32),
    }


WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_the_batch_size_changes_nothing(batch_size):
    split = make_split(10)
    predictions = predict(lambda batch: jax.nn.softmax(batch["image"] @ WEIGHTS), split, batch_size)
    expected = jax.nn.softmax(split["image"] @ WEIGHTS)
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-6)
    np.testing.assert_array_equal(predictions.labels, split["label"])
    assert predictions.probabilities.dtype == np.float32
    assert predictions.labels.dtype == np.int32


def test_one_compilation_serves_every_split_and_every_model():
    traces = []

    def apply(weights, batch):
        traces.append(batch["image"].shape)
        return jax.nn.softmax(batch["image"] @ weights)

    results = [
        predict(Partial(apply, weights), make_split(count), 4).probabilities
        for count in (10, 7, 3)
        for weights in (WEIGHTS, -WEIGHTS)
    ]
    assert traces == [(4, 4)]
    assert not np.allclose(results[0], results[1])


def test_an_empty_split_keeps_its_classes():
    predictions = predict(lambda batch: jax.nn.softmax(batch["image"] @ WEIGHTS), make_split(0), 4)
    assert predictions.probabilities.shape == (0, 3)
    assert predictions.labels.shape == (0,)


@pytest.mark.parametrize(
    ("predict_fn", "arrays", "batch_size", "message"),
    [
        (lambda batch: batch["image"], make_split(3), 0, "batch_size is 0"),
        (lambda batch: batch["image"], {"image": jnp.ones((3, 4))}, 2, 'must include "label"'),
        (
            lambda batch: batch["image"],
            {"image": jnp.ones((3, 4)), "label": jnp.ones(2, int)},
            2,
            "must all have the same length",
        ),
        (lambda batch: batch["image"][0], make_split(3), 2, r"must have \[2, classes\]"),
        (lambda batch: batch["image"][:1], make_split(3), 2, r"must have \[2, classes\]"),
    ],
)
def test_bad_requests_for_predictions_are_refused(predict_fn, arrays, batch_size, message):
    with pytest.raises(InputError, match=message):
        predict(predict_fn, arrays, batch_size)


def make_all_splits():
    predictions = Predictions(GOOD.astype(np.float32), LABELS.astype(np.int32))
    empty = Predictions(np.zeros((0, 3), np.float32), np.zeros(0, np.int32))
    return SplitPredictions(predictions, predictions, empty, predictions, empty)


def test_saved_predictions_come_back_equal(tmp_path):
    saved = make_all_splits()
    saved.save(tmp_path / "predictions.npz")
    loaded = SplitPredictions.load(tmp_path / "predictions.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert loaded.forget.probabilities.dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    with np.load(tmp_path / "predictions.npz") as file:
        assert "test_forget_probabilities" in file.files


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="gone.npz does not exist"):
        SplitPredictions.load(tmp_path / "gone.npz")
    make_all_splits().save(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut.npz is damaged or has no"):
        SplitPredictions.load(tmp_path / "cut.npz")
    (tmp_path / "text.npz").write_text("no arrays here")
    with pytest.raises(InputError, match="text.npz is damaged or has no"):
        SplitPredictions.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", forget_probabilities=GOOD)
    with pytest.raises(InputError, match="other.npz is damaged or has no"):
        SplitPredictions.load(tmp_path / "other.npz")


def test_splits_of_any_size_share_one_program():
    function = Partial(lambda scale, batch: jax.nn.softmax(scale * batch["image"]), 2.0)
    splits = [{k: np.asarray(v) for k, v in make_split(n).items()} for n in (5, 7)]
    predict(function, splits[0], 4)
    with compilation_seconds() as seconds:
        predict(function, splits[1], 4)
    assert not seconds
