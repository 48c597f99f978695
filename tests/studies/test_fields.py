"""Fields: what becomes a dataclass, and what is said of what may not."""

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from jaxunlearn.studies.fields import from_dict, parse_settings, read_toml
from jaxunlearn.types import InputError


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float = 1.0
    on: bool = False
    limit: int | None = None
    extra: dict[str, dict[str, Any]] | None = None
    others: tuple[Inner, ...] = ()
    named: dict[str, Inner] | None = None


def test_from_dict_makes_what_was_written():
    values = {
        "inner": {"name": "x", "sizes": [1, 2]},
        "rate": 3,
        "on": True,
        "limit": None,
        "extra": {"a": {"b": [1]}},
    }
    made = from_dict(Outer, values, "it")
    assert made == Outer(Inner("x", (1, 2)), 3.0, True, None, {"a": {"b": [1]}})
    assert type(made.rate) is float
    assert from_dict(Outer, asdict(made), "it") == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"it is \[\], but must be a table of fields"),
        ({}, "it has no inner, but needs one; add it"),
        ({"inner": {}}, "it: inner has no name, but needs one"),
        ({"inner": 3}, "it: inner is 3, but must be a table"),
        (
            {"iner": {}},
            r"no field 'iner' \(did you mean 'inner'\?\), only inner, rate, on, limit, extra, oth",
        ),
        ({"zzz": {}}, "no field 'zzz', only inner, rate, on, limit, extra, others, named."),
        ({"inner": {"name": 3}}, "it: inner.name is 3, but must be text"),
        ({"inner": {"name": "x", "sizes": 3}}, "sizes is 3, but must be a list"),
        (
            {"inner": {"name": "x", "sizes": [1, "2"]}},
            r"sizes\[1\] is '2', but must be a whole num",
        ),
        ({"inner": {"name": "x", "sizes": [1.0]}}, r"sizes\[0\] is 1.0, but must be a whole num"),
        ({"inner": {"name": "x"}, "rate": True}, "rate is True, but must be a number"),
        ({"inner": {"name": "x"}, "rate": "1"}, "rate is '1', but must be a number"),
        ({"inner": {"name": "x"}, "on": 1}, "on is 1, but must be true or false"),
        ({"inner": {"name": "x"}, "limit": True}, "limit is True, but must be a whole number"),
        (
            {"inner": {"name": "x"}, "others": [{"name": "y"}, {"nam": "z"}]},
            r"it: others\[1\] has no field 'nam' \(did you mean 'name'\?\), only name, sizes\.",
        ),
        (
            {"inner": {"name": "x"}, "named": {"a": {"zzz": 1}}},
            r"it: named\.a has no field 'zzz', only name, sizes\.",
        ),
        ({"inner": {"name": "x"}, "extra": {"a": 1}}, "extra.a is 1, but must be a table"),
    ],
)
def test_from_dict_refuses(values, message):
    with pytest.raises(InputError, match=message):
        from_dict(Outer, values, "it")


def test_parse_settings():
    given = ("a=1", "b=1.5", "c=true", "d=[32, 16]", "e=text", "f=x=y", "g=", "h=1e-3", 'i="3"')
    parsed = parse_settings(given, "--settings")
    expected = {"a": 1, "b": 1.5, "c": True, "d": [32, 16], "e": "text", "f": "x=y", "g": ""}
    assert parsed == expected | {"h": 0.001, "i": "3"}
    assert [type(parsed[key]) for key in "abc"] == [int, float, bool]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("False", False),
        ("None", None),
        ("null", None),
        (".01", 0.01),
        ("1.", 1.0),
        ("+3", 3),
        ("[.1, True, 'relu']", [0.1, True, "relu"]),
        ("(32, 16)", [32, 16]),
        ("{'num_steps': 1000}", {"num_steps": 1000}),
        ("true-ish", "true-ish"),
        ("Trues", "Trues"),
        ("{1, 2}", "{1, 2}"),
        ("2j", "2j"),
    ],
)
def test_a_setting_may_be_spelt_as_in_json_or_in_python(text, value):
    parsed = parse_settings((f"x={text}",), "--settings")["x"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("depth", [3_000, 100_000])
def test_what_is_nested_too_deeply_is_refused(tmp_path, depth):
    nested = "[" * depth + "]" * depth
    with pytest.raises(InputError, match="--settings: the value of x is nested too deeply; write"):
        parse_settings((f"x={nested}",), "--settings")
    (tmp_path / "study.toml").write_text(f"x = {nested}")
    with pytest.raises(InputError, match=r"study.toml is not TOML .*correct the file"):
        read_toml(tmp_path / "study.toml")


def test_a_byte_order_mark_is_no_part_of_the_toml(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xef\xbb\xbftitle = 'T'\r\n")
    assert read_toml(tmp_path / "study.toml") == {"title": "T"}
    (tmp_path / "study.toml").write_bytes("title = 'T'".encode("utf-16"))
    with pytest.raises(InputError, match=r"study.toml is not TOML in UTF-8"):
        read_toml(tmp_path / "study.toml")


@pytest.mark.parametrize("pairs", [("a",), ("=1",), ("a=1", "a=2"), ("",)])
def test_parse_settings_refuses(pairs):
    with pytest.raises(
        InputError, match="--training is .*, but must give each setting once, as name=value"
    ):
        parse_settings(pairs, "--training")
