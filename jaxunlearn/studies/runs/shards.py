"""Shares of work: which of a folder's pieces one job of a job array does."""

import re
from typing import NamedTuple

from jaxunlearn.types import InputError


class Shard(NamedTuple):
    """One of several shares.

    Attributes:
        share: its number, from 1.
        shares: how many there are.
    """

    share: int = 1
    shares: int = 1

    @property
    def part(self) -> str:
        """The name of the part of a folder's work, as a lock needs it; "" for all of it."""
        return f"{self.share}-of-{self.shares}" if self.shares > 1 else ""

    def has(self, number: int) -> bool:
        """Whether the piece of work with this number, from 0, belongs to this share."""
        return number % self.shares == self.share - 1


def parse_shard(text: str) -> Shard:
    """Reads a share from its short form.

    Args:
        text: "i/n", the i-th of n shares.

    Returns:
        The share.

    Raises:
        InputError: it has another form, or i is not from 1 to n.

    Example:
        >>> shard = parse_shard("2/4")
        >>> [number for number in range(8) if shard.has(number)]
        [1, 5]
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"shard is {text!r}, but must be i/n with i from 1 to n, such as 1/4 for the first of "
            "four jobs."
        )
    return Shard(int(match[1]), int(match[2]))
