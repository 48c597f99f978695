"""Digits are prepared once for all tests."""

import pytest

from jaxunlearn.data import Dataset, load


@pytest.fixture(scope="session")
def digits_place(tmp_path_factory):
    """A folder that holds prepared digits; not to be written to."""
    place = tmp_path_factory.mktemp("prepared")
    load("digits", data_dir=place)
    return place


@pytest.fixture(scope="session")
def digits(digits_place) -> Dataset:
    return load("digits", data_dir=digits_place)
