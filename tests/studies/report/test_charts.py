"""Pictures: what goes into them is right, and what comes out fits a page in two colour schemes."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions
from jaxunlearn.studies.report.charts import (
    BINS,
    POINTS,
    confidence_shares,
    draw_confidence,
    draw_history,
    series,
)


def test_shares_count_the_confidence_in_the_true_class():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.0, 1.0]])
    shares = confidence_shares(Predictions(p, np.array([0, 1, 1, 1])))
    assert shares.shape == (BINS,)
    assert shares.sum() == pytest.approx(100.0)
    assert shares[-1] == 25.0
    assert shares[int(0.1 * BINS)] == 25.0


def test_series_are_thinned_by_averaging():
    history = [{"step": step, "loss": float(step)} for step in range(1, 1201)]
    steps, values = series(history, "loss")
    assert len(steps) == POINTS
    np.testing.assert_allclose(values, steps)
    assert steps[0] == pytest.approx(5.5)
    history[0]["loss"] = math.nan
    history[1]["loss"] = "1.0"
    del history[2]["loss"]
    assert series(history, "loss")[1][0] == pytest.approx(np.mean(range(4, 14)), abs=1.0)
    assert len(series(history, "unknown")[0]) == 0


def history(count, **keys):
    return [{"step": step, **keys} for step in range(1, count + 1)]


def test_pictures_are_well_formed_and_coloured_by_the_page():
    shares = {name: np.full(BINS, 100.0 / BINS) for name in ("forget", "retain", "test")}
    noisy = [
        {"step": s, "forget_loss": math.sin(s), "retain_loss": 0.5, "multiplier": abs(math.cos(s))}
        for s in range(2000)
    ]
    for picture in (draw_confidence(shares, shares["test"]), draw_history([noisy, noisy])):
        ElementTree.fromstring(picture.replace("<svg", '<svg xmlns:xlink="x"', 1))
        assert "var(--forget)" in picture
        assert "var(--muted)" in picture
        assert not re.search(r"#0[0-9]{5}|#d55e00|DejaVu|<metadata|http", picture)
        assert len(picture) < 40_000


def test_only_what_was_logged_is_drawn():
    assert draw_history([]) is None
    assert draw_history([[]]) is None
    assert draw_history([history(3, retain_accuracy=1.0)]) is None
    plain = draw_history([history(30, forget_loss=1.0, retain_loss=2.0)])
    assert "var(--multiplier)" not in plain
    assert "multiplier" in draw_history([history(30, forget_loss=1.0, multiplier=2.0)])
    assert "var(--multiplier)" in draw_history([history(30, forget_loss=1.0, multiplier=2.0)])


def test_seeds_of_different_length_are_drawn_without_a_mean():
    picture = draw_history([history(30, forget_loss=1.0), history(20, forget_loss=2.0)])
    assert picture.count("var(--forget)") == 2
    picture = draw_history([history(30, forget_loss=1.0), history(30, forget_loss=2.0)])
    assert picture.count("var(--forget)") == 3


def test_tick_labels_of_tiny_losses_keep_their_digits():
    history = [{"step": step, "retain_loss": 0.0002 * step} for step in range(1, 6)]
    svg = draw_history([history])
    labels = [float(text) for text in re.findall(r">([\d.]+)</text>", svg)]
    ticks = [label for label in labels if 0 < label < 0.01]
    assert len(set(ticks)) >= 2  # not all rounded to 0.00
    assert re.search(r"<[^>]*\d\.\d{3}", svg) is None  # while coordinates are short
