"""The house rules that a machine can check: short files and plain words."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_LINES = 450
# Words of another century or another language, and the plain ones.
PLAIN = {
    r"anew": "again, from scratch",
    r"mend(?:s|ed|ing)?": "fix",
    r"shall": "should, will",
    r"(?:is|are|was|were) told": "receives",
    r"(?:that|those) of (?:that|those)": "the noun",
    r"go(?:es)? on": "continues",
    r"lies in": "is in",
    r"nought|whilst|thereof|therein|hitherto": "plain words",
}
PROSE = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("jaxunlearn/**/*.py")]
TESTS = [file for file in ROOT.glob("tests/**/*.py") if file != Path(__file__)]


@pytest.mark.parametrize("file", sorted(ROOT.glob("jaxunlearn/**/*.py")), ids=str)
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


def test_words_are_plain():
    """Also in the names of tests."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]} -> {plain}"
        for file in (*PROSE, *TESTS)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for words, plain in PLAIN.items()
        if (match := re.search(rf"\b(?:{words})\b", line.replace("_", " "), re.IGNORECASE))
    ]
    assert not found, "\n".join(found)
