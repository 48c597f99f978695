"""Tokenizers: ids by hand, the ids of transformers' CLIP tokenizer, damaged files.

The vocabulary and the expected ids are written by
`tests/models/pretrained/references/stable_diffusion.py`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.models.tokenizer import ClipTokenizer, WordTokenizer
from jaxunlearn.types import InputError

DATA = Path(__file__).parent / "pretrained" / "data" / "stable_diffusion"


def test_words():
    tokenizer = WordTokenizer(["Red", "of", "boot"], length=5)
    assert tokenizer.size == 6
    ids = tokenizer.encode(["boot of RED", "", " of\tof "])
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 5, 4, 3, 2], [1, 2, 0, 0, 0], [1, 4, 4, 2, 0]]
    assert tokenizer.encode([]).shape == (0, 5)
    assert tokenizer == WordTokenizer(("red", "of", "boot"), length=5)


def test_words_that_are_not_there():
    tokenizer = WordTokenizer(("sandal", "sneaker", "coat"), length=5)
    said = "the word 'sandel' of the prompt 'a sandel' is not in .* 3 words; close ones are sandal"
    with pytest.raises(InputError, match="the word 'a' of .*; they are sandal, sneaker, coat"):
        tokenizer.encode(["coat", "a sandel"])
    with pytest.raises(InputError, match=said.replace("'a sandel'", "'Sandel'")):
        tokenizer.encode(["Sandel"])
    with pytest.raises(InputError, match="has 4 words, but must have at most 3 for 5 ids"):
        tokenizer.encode(["coat coat coat coat"])
    with pytest.raises(InputError, match="are 'coat', but must be a sequence of texts.*a list"):
        tokenizer.encode("coat")


@pytest.mark.parametrize(
    ("vocabulary", "length", "said"),
    [
        (("ankle boot",), 8, "'ankle boot', but each entry must be one word"),
        (("",), 8, "'', but each entry must be one word"),
        (("a", "b", "A"), 8, "'a' 2 times"),
        ("coat", 8, "words of the vocabulary are .*, but must be a sequence of texts"),
        (("a", 3), 8, "words of the vocabulary are .*, but must be a sequence of texts"),
        (("a",), 2, "is 2, but must be a whole number from 3 to 4096"),
        (("a",), 8.0, "is 8.0, but must be a whole number"),
    ],
)
def test_bad_vocabularies(vocabulary, length, said):
    with pytest.raises(InputError, match=said):
        WordTokenizer(vocabulary, length)


def test_ids_of_the_reference():
    tokenizer = ClipTokenizer.load(DATA / "tokenizer")
    expected = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    ids = tokenizer.encode(expected["prompts"])
    assert ids.dtype == np.int32
    assert len(ids) > 40
    for prompt, ours, theirs in zip(
        expected["prompts"], ids.tolist(), expected["ids"], strict=True
    ):
        assert ours == theirs, prompt


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a\x1cb\x1d\x1e \x1f!", ["a</w>", "Ĝ</w>", "b</w>", "ĝ", "Ğ</w>", "ğ", "!</w>"]),
        ("\u3000a\x85b\u2028\xa0c\t", ["a</w>", "b</w>", "c</w>"]),
        ("a\u200bb", ["a</w>", "â", "Ģ", "ĭ</w>", "b</w>"]),
        ("B<|endoftext|>4 2", ["b</w>", "<|endoftext|>", "4</w>", "2</w>"]),
    ],
)
def test_separators(text, tokens):
    """Unicode's blanks are not quite Python's: the four bytes are characters, U+0085 is a blank."""
    tokenizer = ClipTokenizer.load(DATA / "tokenizer")
    tokenizer = ClipTokenizer(tokenizer.ids, tokenizer.merges, length=len(tokens) + 2)
    names = {i: token for token, i in tokenizer.ids.items()}
    assert [names[i] for i in tokenizer.encode([text])[0].tolist()][1:-1] == tokens


def test_round_trip(tmp_path):
    tokenizer = ClipTokenizer.load(DATA / "tokenizer")
    assert (tokenizer.size, tokenizer.length, len(tokenizer.merges)) == (658, 12, 144)
    other = ClipTokenizer(tokenizer.ids, tokenizer.merges, length=5, padding="!")
    other.save(tmp_path)
    again = ClipTokenizer.load(tmp_path)
    assert again == other
    end = tokenizer.size - 1
    assert again.encode([""])[0].tolist() == [end - 1, end, *[tokenizer.ids["!"]] * 3]
    merges = (tmp_path / "merges.txt").read_bytes()
    assert merges == (DATA / "tokenizer" / "merges.txt").read_bytes()
    (tmp_path / "tokenizer_config.json").unlink()
    assert ClipTokenizer.load(tmp_path).length == 77


def test_words_need_no_packages_of_other_libraries():
    """They come with an extra, which only weights of other libraries need."""
    script = (
        "import sys; from jaxunlearn.models.tokenizer import WordTokenizer\n"
        "WordTokenizer(('a',)).encode(['a'])\n"
        "sys.exit(bool({'safetensors', 'tokenizers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def change(folder, file, edit):
    """Edits a JSON file."""
    value = json.loads((folder / file).read_text(encoding="utf-8"))
    edit(value)
    (folder / file).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        (
            "vocab.json",
            lambda v: v.pop("i"),
            "do not have the ids 0, 1, 2 ..., but must have each once",
        ),
        (
            "vocab.json",
            lambda v: v.update({"i": "8"}),
            "do not have the ids 0, 1, 2 ..., but must have each once",
        ),
        ("vocab.json", lambda v: v.update({"~~": v.pop("the</w>")}), "lacks the token 'the</w>'"),
        ("vocab.json", lambda v: v.update({"~~": v.pop("Ń")}), "lacks the token 'Ń'"),
        (
            "tokenizer_config.json",
            lambda c: c.update(eos_token="</s>"),
            "'eos_token' in .* is '</s>', but must be",
        ),
        ("tokenizer_config.json", lambda c: c.update(pad_token="<pad>"), "lacks the token '<pad>'"),
        ("tokenizer_config.json", lambda c: c.update(pad_token=[1]), r"lacks the token \[1\]"),
        ("tokenizer_config.json", lambda c: c.update(model_max_length=10**6), "from 3 to 4096"),
    ],
)
def test_bad_files(file, edit, said, tmp_path):
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    change(tmp_path, file, edit)
    with pytest.raises(InputError, match=said) as error:
        ClipTokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def as_one_file(folder, **model):
    """`tokenizer.json` alone, as transformers 5 writes it; other options of its model."""
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    specials = [{"id": ids[t], "content": t, "special": True} for t in list(ids)[-2:]]
    whole = {
        "version": "1.0",
        "added_tokens": specials,
        "normalizer": {"type": "Lowercase"},
        "model": {
            "type": "BPE",
            "end_of_word_suffix": "</w>",
            "vocab": ids,
            "merges": [line.split(" ") for line in lines],
        }
        | model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()


def test_tokenizer_json_alone(tmp_path):
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    as_one_file(tmp_path)
    wanted = ClipTokenizer.load(DATA / "tokenizer")
    assert ClipTokenizer.load(tmp_path) == wanted
    older = [" ".join(pair) for pair in wanted.merges]
    change(tmp_path, "tokenizer.json", lambda whole: whole["model"].update(merges=older))
    assert ClipTokenizer.load(tmp_path) == wanted


def test_files_of_the_tokenizer_before_are_not_left(tmp_path):
    """transformers reads `tokenizer.json` where it is there, and so do we."""
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    as_one_file(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{}")
    wanted = ClipTokenizer.load(tmp_path)
    other = ClipTokenizer(wanted.ids, wanted.merges[:100], length=9)
    other.save(tmp_path)
    assert ClipTokenizer.load(tmp_path) == other
    files = {"vocab.json", "merges.txt", "tokenizer_config.json"}
    assert {file.name for file in tmp_path.iterdir()} == files
    as_one_file(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(DATA / "tokenizer" / name, tmp_path)
    assert ClipTokenizer.load(tmp_path).merges == other.merges


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda whole: whole["model"].update(type="WordPiece"), "of the type 'WordPiece'"),
        (lambda whole: whole["model"].pop("end_of_word_suffix"), "words that end in None"),
        (lambda whole: whole["model"].update(merges=["a b c"]), "'merges' of two tokens each"),
        (lambda whole: whole["model"].update(merges=[[1, 2]]), "'merges' of two tokens each"),
        (lambda whole: whole["model"].update(merges=3, vocab=[]), "a 'vocab' and 'merges'"),
        (lambda whole: whole.pop("model"), "of the type None"),
        (lambda whole: whole["added_tokens"].append([1]), r"the token \[1\]"),
        (lambda whole: whole["added_tokens"].append({"content": "<cat>"}), "the token '<cat>'"),
    ],
)
def test_another_tokenizer_json(edit, said, tmp_path):
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    as_one_file(tmp_path)
    change(tmp_path, "tokenizer.json", edit)
    with pytest.raises(InputError, match=said) as error:
        ClipTokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_tokens_that_were_added(tmp_path):
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    (tmp_path / "added_tokens.json").write_text('{"<|endoftext|>": 657}')
    ClipTokenizer.load(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<my-cat>": 658}')
    with pytest.raises(InputError, match="adds the token '<my-cat>' .*not supported"):
        ClipTokenizer.load(tmp_path)


def test_files_with_a_byte_order_mark_or_carriage_returns(tmp_path):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        text = (DATA / "tokenizer" / name).read_text(encoding="utf-8").replace("\n", "\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert ClipTokenizer.load(tmp_path) == ClipTokenizer.load(DATA / "tokenizer")


def test_bad_merges(tmp_path):
    shutil.copytree(DATA / "tokenizer", tmp_path, dirs_exist_ok=True)
    (tmp_path / "merges.txt").write_text("#version: 0.2\ni n\nth e x\n")
    with pytest.raises(InputError, match=r"line 3 of .*merges.txt is 'th e x', but must hold two"):
        ClipTokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe i\n")
    with pytest.raises(InputError, match=r"merges.txt is damaged or unreadable"):
        ClipTokenizer.load(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"merges.txt does not exist"):
        ClipTokenizer.load(tmp_path)
