"""Pictures: what goes into them is right, and what comes out fits a page in two colour schemes."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions
from jaxunlearn.studies.report.plots import (
    BINS,
    POINTS,
    confidence_shares,
    draw_confidence,
    draw_history,
    has_series,
    series,
    svg,
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


def of_history(*histories, ratios=(1,)):
    return svg(draw_history, histories, ratios=ratios)


def test_pictures_are_well_formed_and_follow_light_and_dark_mode():
    shares = {name: np.full(BINS, 100.0 / BINS) for name in ("forget", "retain", "test")}
    noisy = [
        {"step": s, "forget_loss": math.sin(s), "retain_loss": 0.5, "multiplier": abs(math.cos(s))}
        for s in range(2000)
    ]
    confidence = svg(draw_confidence, shares, shares["test"])
    for picture in (confidence, of_history(noisy, noisy, ratios=(2, 1))):
        root = ElementTree.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style, drawing = picture.split("</style>", 1)
        used = set(re.findall(r"var\((--\w+)\)", drawing))
        assert {"--forget", "--muted"} <= used
        light, dark = style.split("prefers-color-scheme: dark")
        assert all(f"{name}:" in half for name in used for half in (light, dark))
        assert not re.search(r"#(1b1d21|5b6268|dfdcd5|d55e00|0072b2|009e73|aa4499)", drawing)
        assert len(picture) < 60_000


def test_only_what_was_logged_is_drawn():
    plain = of_history(history(30, forget_loss=1.0, retain_loss=2.0))
    assert "var(--multiplier)" not in plain
    both = of_history(history(30, forget_loss=1.0, multiplier=2.0), ratios=(2, 1))
    assert ">multiplier</text>" in both and "var(--multiplier)" in both
    assert not has_series([], "forget_loss") and not has_series([[]], "forget_loss")
    assert not has_series([history(3, retain_accuracy=1.0)], "forget_loss")


def test_seeds_of_different_length_are_drawn_without_a_mean():
    picture = of_history(history(30, forget_loss=1.0), history(20, forget_loss=2.0))
    assert picture.count("var(--forget)") == 2
    picture = of_history(history(30, forget_loss=1.0), history(30, forget_loss=2.0))
    assert picture.count("var(--forget)") == 3


def test_tick_labels_of_tiny_losses_keep_their_digits():
    picture = of_history([{"step": step, "retain_loss": 0.0002 * step} for step in range(1, 6)])
    labels = [float(text) for text in re.findall(r">([\d.]+)</text>", picture)]
    ticks = [label for label in labels if 0 < label < 0.01]
    assert len(set(ticks)) >= 2  # not all rounded to 0.00
