"""From prompts to token ids, for text encoders: a closed list of words, or CLIP's vocabulary.

Both tokenizers have `size` (the number of ids), `length` (L, the number of ids of a prompt) and

    encode(prompts) -> int32 [N, L]:   start, the tokens of the prompt, end, padding
"""

import dataclasses
import difflib
import functools
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.files import write_json, write_text
from jaxunlearn.models.published import read_json, read_text
from jaxunlearn.types import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_VERSION = "#version"  # the first line of a list of merges
_LONGEST = 4096  # ids of a prompt; far beyond any text encoder
_OTHER_FILES = ("tokenizer.json", "added_tokens.json", "special_tokens_map.json")
_NO_LENGTH = int(1e30)  # transformers' length where none was given
_SPECIAL = 3  # padding, start and end of WordTokenizer
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """One id for each word of a closed list; case does not matter.

    Ids 0, 1 and 2 are padding, start and end; the words follow in the order given.

    Attributes:
        vocabulary: the words.
        length: number of ids of a prompt, start and end included.

    Raises:
        InputError: a word is empty, holds blanks or is repeated, or the length is not a whole
            number from 3 to 4096.

    Example:
        >>> tokenizer = WordTokenizer(("a", "coat", "photo", "of"), length=7)
        >>> tokenizer.encode(["A photo of a coat", ""]).tolist()
        [[1, 3, 5, 6, 3, 4, 2], [1, 2, 0, 0, 0, 0, 0]]
    """

    vocabulary: tuple[str, ...]
    length: int = 16

    def __post_init__(self) -> None:
        words = tuple(
            str(word).lower() for word in _texts(self.vocabulary, "words of the vocabulary")
        )
        for word in words:
            if word.split() != [word]:
                raise InputError(
                    f"the vocabulary holds {word!r}, but each entry must be one word without "
                    "blanks; give the words of a phrase one by one."
                )
            if words.count(word) > 1:
                raise InputError(
                    f"the vocabulary holds {word!r} {words.count(word)} times (case does not "
                    "matter); give each word once."
                )
        _check_length(self.length)
        object.__setattr__(self, "vocabulary", words)

    @property
    def size(self) -> int:
        """The number of ids."""
        return _SPECIAL + len(self.vocabulary)

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids of N prompts of known words, which may be empty; int32 `[N, length]`.

        Raises:
            InputError: a word is not in the vocabulary, or a prompt is too long.
        """
        padding, start, end = range(_SPECIAL)
        ids = {word: i for i, word in enumerate(self.vocabulary, start=_SPECIAL)}
        texts = _texts(prompts, "the prompts")
        rows = np.full((len(texts), self.length), padding, np.int32)
        for row, prompt in zip(rows, texts, strict=True):
            words = prompt.lower().split()
            for word in words:
                if word not in ids:
                    raise self._unknown(word, prompt)
            if len(words) > self.length - 2:
                raise InputError(
                    f"the prompt {prompt!r} has {len(words)} words, but must have at most "
                    f"{self.length - 2} for {self.length} ids; shorten it, or raise the length."
                )
            row[: len(words) + 2] = [start, *(ids[word] for word in words), end]
        return rows

    def _unknown(self, word: str, prompt: str) -> InputError:
        close = difflib.get_close_matches(word, self.vocabulary)
        known = close or self.vocabulary
        return InputError(
            f"the word {word!r} of the prompt {prompt!r} is not in the vocabulary of "
            f"{len(self.vocabulary)} words; "
            f"{'close ones are' if close else 'they are'} {reprlib.repr(', '.join(known))[1:-1]}."
        )


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
    """CLIP's byte-pair encoding, by the library `tokenizers`; longer prompts are cut, as published.

    Attributes:
        ids: id of each token.
        merges: pairs of tokens to merge, in order of priority.
        length: number of ids of a prompt, start and end included.
        padding: token that follows the end.

    Raises:
        InputError: the ids are not 0, 1, 2 ..., a token is missing, or the length is not a whole
            number from 3 to 4096.
    """

    ids: Mapping[str, int]
    merges: tuple[Pair, ...]
    length: int = 77
    padding: str = END

    def __post_init__(self) -> None:
        from tokenizers.pre_tokenizers import ByteLevel

        _check_length(self.length)
        whole = all(type(i) is int for i in self.ids.values())
        if not whole or sorted(self.ids.values()) != list(range(len(self.ids))):
            raise InputError(
                f"the {len(self.ids)} tokens do not have the ids 0, 1, 2 ..., but must have each "
                "once; download the vocabulary again."
            )
        of_bytes = [byte + end for byte in ByteLevel.alphabet() for end in ("", _END_OF_WORD)]
        of_merges = ["".join(pair) for pair in self.merges]
        for token in (START, END, self.padding, *of_bytes, *of_merges):
            if not isinstance(token, str) or token not in self.ids:
                raise InputError(
                    f"the vocabulary lacks the token {token!r}, which texts may need; "
                    "download the vocabulary and the merges again."
                )

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        merges = list(self.merges)
        tokenizer = Tokenizer(models.BPE(dict(self.ids), merges, end_of_word_suffix=_END_OF_WORD))
        blanks = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), blanks, normalizers.Lowercase()]
        )
        words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
        of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, of_bytes])
        tokenizer.add_special_tokens([START, END])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(token, self.ids[token]) for token in (START, END)],
        )
        tokenizer.enable_truncation(self.length)
        tokenizer.enable_padding(
            length=self.length, pad_id=self.ids[self.padding], pad_token=self.padding
        )
        return tokenizer

    @classmethod
    def load(cls, folder: str | os.PathLike[str], length: int = 77) -> "ClipTokenizer":
        """Reads `tokenizer.json`, or `vocab.json` and `merges.txt` where it is absent.

        Args:
            folder: folder of these files and, optionally, of `tokenizer_config.json`.
            length: length where the configuration has none.

        Raises:
            InputError: a file is missing or damaged, or belongs to another kind of tokenizer.
        """
        folder = Path(folder)
        config_file = folder / "tokenizer_config.json"
        config = read_json(config_file) if config_file.exists() else {}
        for option, only in (("bos_token", START), ("eos_token", END)):
            if _content(config.get(option, only)) != only:
                raise InputError(
                    f"{option!r} in {config_file} is {config[option]!r}, but must be {only!r}, as "
                    "in CLIP; give the folder of a CLIP tokenizer."
                )
        ids, merges, added = _read_vocabulary(folder)
        for token in added:
            if not isinstance(token, str) or token not in ids:
                raise InputError(
                    f"{folder} adds the token {token!r} to the vocabulary, which is not supported "
                    "here; give the tokenizer without it."
                )
        given = config.get("model_max_length", _NO_LENGTH)
        length = length if given == _NO_LENGTH else given
        try:
            return cls(ids, merges, length, _content(config.get("pad_token", END)))
        except InputError as error:
            raise InputError(f"in {folder}, {error}") from error

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer_config.json`, which `load` reads.

        The folder is created. Files of an earlier tokenizer in it (`tokenizer.json`, added tokens)
        are deleted.

        Raises:
            InputError: a file cannot be written.
        """
        folder = Path(folder)
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.length,
            "bos_token": START,
            "eos_token": END,
            "unk_token": END,
            "pad_token": self.padding,
        }
        lines = (f"{_VERSION}: 0.2", *map(" ".join, self.merges))
        write_text(folder / "merges.txt", "".join(f"{line}\n" for line in lines))
        write_json(folder / "vocab.json", dict(self.ids))
        write_json(folder / "tokenizer_config.json", config)
        for name in _OTHER_FILES:
            (folder / name).unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.ids)

    def encode(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids of N prompts, int32 `[N, length]`; tokens that do not fit are left out.

        Raises:
            InputError: the prompts are not a sequence of texts.
        """
        encodings = self._tokenizer.encode_batch(list(_texts(prompts, "the prompts")))
        rows = [encoding.ids for encoding in encodings]
        return np.array(rows, np.int32).reshape(len(rows), self.length)


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], tuple[Pair, ...], list[Any]]:
    """The ids, the merges, and the tokens that were added later."""
    file = folder / "tokenizer.json"
    if not file.exists():
        ids, merges = read_json(folder / "vocab.json"), _read_merges(folder / "merges.txt")
        added_file = folder / "added_tokens.json"
        return ids, merges, list(read_json(added_file)) if added_file.exists() else []
    whole = read_json(file)
    model = whole.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type"), model.get("end_of_word_suffix")
    pairs = [p.split(" ") if isinstance(p, str) else p for p in _list(model.get("merges"))]
    added = [_content(token) for token in _list(whole.get("added_tokens"))]
    vocabulary = model.get("vocab")
    if (
        kind != ("BPE", _END_OF_WORD)
        or not isinstance(vocabulary, dict)
        or not all(isinstance(p, list) and [type(t) for t in p] == [str, str] for p in pairs)
    ):
        raise InputError(
            f"{file} is of the type {kind[0]!r} with words that end in {kind[1]!r}, but must be "
            f"'BPE' with {_END_OF_WORD!r}, a 'vocab' and 'merges' of two tokens each; give the "
            "folder of a CLIP tokenizer."
        )
    return vocabulary, tuple((left, right) for left, right in pairs), added


def _read_merges(path: Path) -> tuple[Pair, ...]:
    """Pairs of tokens, one a line, in order."""
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line or (number == 1 and line.startswith(_VERSION)):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"line {number} of {path} is {line!r}, but must hold two tokens with one blank "
                "between them; download the file again."
            )
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _texts(texts: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{what} are {reprlib.repr(texts)}, but must be a sequence of texts; put a single "
            "text into a list."
        )
    return texts


def _check_length(length: int) -> None:
    if type(length) is not int or not 3 <= length <= _LONGEST:
        raise InputError(
            f"the length of a prompt is {length!r}, but must be a whole number from 3 to "
            f"{_LONGEST}; give the length of the text encoder, such as 77."
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _content(token: Any) -> Any:
    """The text of a token, which some configurations wrap in an object."""
    return token.get("content") if isinstance(token, dict) else token
