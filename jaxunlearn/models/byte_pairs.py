"""The byte-pair encoding of CLIP: from a text to tokens, and the list of merges it goes by.

A text in lower case falls into words: runs of letters, single digits, runs of other characters,
and the English endings ('s, 't, 're, 've, 'm, 'll, 'd). A word becomes the characters that stand
for its bytes, the last of them marked as the end of the word. Then, again and again, the adjacent
pair of tokens that comes first in the list of merges becomes one, until no pair is in the list.

Sources: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL
2016, algorithm 1; Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
section 2.2 (bytes); Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021, section 2.4 (lower case, start and end).
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxunlearn.models.pretrained.published import read_text
from jaxunlearn.types import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
Pair = tuple[str, str]

_WHOLE = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)")
_RUN = re.compile(r"L+|N|O+")  # of classes, as `_class_of` gives them
_BLANKS = re.compile(r"[^\S\x1c-\x1f]+")  # Unicode's; Python counts four separators more
_HEADER = "#version"


def _byte_characters() -> tuple[str, ...]:
    """A visible character for each byte: itself where Latin-1 has one, else one above 255."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return tuple(chr(256 + hidden.index(b)) if b in hidden else chr(b) for b in range(256))


BYTES = _byte_characters()


def tokens_of(text: str, ranks: Mapping[Pair, int]) -> Iterator[str]:
    """The tokens of a text.

    Args:
        text: any characters.
        ranks: the place of each pair in the list of merges.

    Yields:
        Tokens; the last of each word ends in "</w>".

    Example:
        >>> ranks = {("c", "o"): 0, ("a", "t</w>"): 1, ("co", "at</w>"): 2}
        >>> list(tokens_of("Coat  boat's", ranks))
        ['coat</w>', 'b', 'o', 'at</w>', "'", 's</w>']
    """
    for word in words_of(_BLANKS.sub(" ", unicodedata.normalize("NFC", text)).lower()):
        if word in (START, END):
            yield word
        else:
            yield from merged(word, ranks)


def words_of(text: str) -> Iterator[str]:
    """The words that a text in lower case falls into, blanks left out.

    Example:
        >>> list(words_of("it's 42 t-shirts!"))
        ['it', "'s", '4', '2', 't', '-', 'shirts', '!']
    """
    classes = "".join(map(_class_of, text))
    position = 0
    while position < len(text):
        match = _WHOLE.match(text, position) or _RUN.match(classes, position)
        if match:
            yield text[position : match.end()]
        position = match.end() if match else position + 1


def _class_of(character: str) -> str:
    """L for letters, N for numbers, a blank for blanks, O for others."""
    if _BLANKS.fullmatch(character):
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


def merged(word: str, ranks: Mapping[Pair, int]) -> list[str]:
    """The tokens of one word: the algorithm itself.

    Args:
        word: at least one character.
        ranks: the place of each pair in the list of merges.

    Returns:
        The tokens.

    Example:
        >>> merged("aaaa", {("a", "a"): 0, ("a", "aa"): 1})
        ['aa', 'a', 'a</w>']
    """
    tokens = [BYTES[byte] for byte in word.encode("utf-8")]
    tokens[-1] += END_OF_WORD
    while pairs := set(itertools.pairwise(tokens)) & ranks.keys():
        first = min(pairs, key=lambda pair: ranks[pair])
        tokens = _with_merged(tokens, first)
    return tokens


def _with_merged(tokens: list[str], pair: Pair) -> list[str]:
    """Merges every occurrence of the pair, from left to right."""
    out: list[str] = []
    position = 0
    while position < len(tokens):
        found = tuple(tokens[position : position + 2]) == pair
        out.append("".join(pair) if found else tokens[position])
        position += 2 if found else 1
    return out


def read_merges(path: Path) -> tuple[Pair, ...]:
    """Reads a list of merges: two tokens a line, after a line that gives the version.

    Args:
        path: the file.

    Returns:
        The pairs, in order.

    Raises:
        InputError: the file is missing or damaged.
    """
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith(_HEADER)):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"line {number} of {path} is {line!r}, but must hold two tokens with one blank "
                "between them; download the file again."
            )
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def merges_text(merges: tuple[Pair, ...]) -> str:
    """What `read_merges` reads."""
    return "".join(f"{line}\n" for line in (f"{_HEADER}: 0.2", *map(" ".join, merges)))
