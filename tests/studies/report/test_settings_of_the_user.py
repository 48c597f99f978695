"""What the user has set for pictures and for the terminal is no matter to reports."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from jaxunlearn.studies.report import write_report
from jaxunlearn.studies.report.grids import sample_grid
from jaxunlearn.studies.report.plots import picture

SETTINGS = {
    "text.usetex": True,
    "font.size": 20.0,
    "font.family": ["monospace"],
    "savefig.bbox": "tight",
    "savefig.facecolor": "red",
    "axes.prop_cycle": matplotlib.cycler(color=["#123456"]),
    "axes.formatter.use_locale": True,
    "lines.marker": "o",
    "path.simplify": False,
}


@pytest.fixture
def drawings(small_study, tmp_path):
    """Writes each kind of picture; what they hold, by name."""

    def write():
        found = {path.name: path.read_bytes() for path in write_report(small_study).values()}
        images = np.arange(2 * 8 * 8 * 1, dtype=np.uint8).reshape(2, 8, 8, 1)
        sample_grid(tmp_path / "grid.png", {"sfron": images}, ["cat", "dog"], "Samples", ["cat"])
        with picture(tmp_path / "line.svg", 1, 1, (2, 2)) as figure:
            figure.subplots().plot([0, 1], [0, 1000], label="a_b")
        return found | {name: (tmp_path / name).read_bytes() for name in ("grid.png", "line.svg")}

    return write


def test_pictures_do_not_depend_on_settings_of_matplotlib(drawings):
    plain = drawings()
    with matplotlib.rc_context(SETTINGS):
        ours = drawings()
        assert matplotlib.rcParams["font.size"] == 20.0  # and they are the user's again
    assert ours.keys() == plain.keys() and len(plain) == 5
    for name, content in plain.items():
        assert ours[name] == content, name


def test_a_report_in_a_process_with_a_notebook_s_backend_latex_and_an_ascii_terminal(
    small_study, tmp_path
):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "MPLBACKEND": "module://a_package_that_is_not_there",
        "PYTHONIOENCODING": "ascii",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "jaxunlearn", "report", str(small_study)],
        capture_output=True,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode("ascii")
    assert "eupmu" in text and f"report: {small_study / 'report.html'}" in text
    assert "?" not in text
    assert (small_study / "report.html").is_file()
