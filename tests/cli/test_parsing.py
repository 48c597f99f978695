"""Words that make no command: each is refused in one sentence, before anything is written."""

import pytest

from tests.shell.commands import assert_refused, call

REQUEST = ["--pretrained", "p", "--fraction", "0.1"]
REFUSED = {
    "a missing folder": (["pretrain"], "FOLDER is not given; see jaxunlearn pretrain --help."),
    "several missing": (["sweep", "s", "eupmu"], "--pretrained and --vary are not given"),
    "a missing value": (["compare", "s", "--config"], "--config has no value, but needs one"),
    "not a whole number": (["pretrain", "r", "--seed", "one"], "--seed is 'one', but must be a wh"),
    "not a number": (
        ["pretrain", "r", "--validation-fraction", "x"],
        "--validation-fraction is 'x', but must be a number.",
    ),
    "an unknown flag": (
        ["pretrain", "r", "--sed", "1"],
        "--sed is no flag of jaxunlearn pretrain (did you mean '--seed'?); see jaxunlearn pretrain",
    ),
    "an unknown setting": (
        ["unlearn", "r", "eupmu", *REQUEST, "--tolerence", "1"],
        "--tolerence is no flag of jaxunlearn unlearn eupmu (did you mean '--tolerance'?)",
    ),
    "a setting of other methods": (
        ["unlearn", "r", "famo_released", *REQUEST, "--forget-weight", "0.3"],
        "--forget-weight is no flag of jaxunlearn unlearn famo_released",
    ),
    "an unknown choice": (
        ["pretrain", "r", "--augmentation", "crops"],
        "--augmentation is 'crops' (did you mean 'crop'?), but must be one of none, crop, flip_",
    ),
    "an unknown method": (
        ["unlearn", "r", "eupm", *REQUEST],
        "the method is 'eupm' (did you mean 'eupmu'?), which does not exist",
    ),
    "no method": (["unlearn", "r", *REQUEST], "no method is given; see jaxunlearn list."),
    "no request": (
        ["unlearn", "r", "eupmu", "--pretrained", "p"],
        "no forget request is given; give one of --fraction, --classes, --words,",
    ),
    "two requests": (
        ["unlearn", "r", "eupmu", *REQUEST, "--classes", "3"],
        "--fraction and --classes are given, but only one may be; drop one.",
    ),
    "a flag of an earlier version": (
        ["unlearn", "r", "eupmu", "--pretrained", "p", "--file", "f"],
        "--file is now --indices; see jaxunlearn unlearn --help.",
    ),
    "one word too many": (["verify", "r", "more"], "'more' is one word too many"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_words_that_make_no_command(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, sentence = REFUSED[case]
    assert_refused(call(*words), sentence)
    assert not list(tmp_path.iterdir())
