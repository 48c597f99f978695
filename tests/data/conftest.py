"""Digits are loaded once for all tests."""

import pytest

from jaxunlearn.data import Dataset, load


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")
