"""The code in README and docs runs, and does what the text around it says."""

import functools
import itertools
import re
from pathlib import Path

import jax.numpy as jnp

ROOT = Path(__file__).parent.parent


def blocks(path: Path) -> list[str]:
    """The Python blocks of a Markdown file."""
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def test_the_ten_lines_of_the_readme_forget_within_the_tolerance():
    code = blocks(ROOT / "README.md")[0]
    body = code[code.index("    tx =") :].strip().splitlines()
    assert len([line for line in body if "return params, ju" not in line]) <= 14
    names: dict = {}
    exec(code, names)
    # The forget loss pulls to (3, 1); the retain loss holds the first coordinate near 0.
    params, multiplier = names["unlearn"](
        jnp.array([0.1, 0.0]),
        lambda p, batch: jnp.sum((p - batch) ** 2),
        lambda p, batch: (p[0] - batch) ** 2 + 0.01,
        [(jnp.array([3.0, 1.0]), jnp.array(0.0))] * 100,
    )
    assert abs(params[1] - 1.0) < 0.02  # forgotten where it costs nothing
    assert params[0] < 0.25 * 3.0  # held where it would cost retain loss
    assert multiplier > 0


def test_the_readme_example_with_own_model_and_data_runs(capsys):
    names: dict = {}
    exec(blocks(ROOT / "README.md")[1], names)
    assert float(capsys.readouterr().out) >= 0
    assert int(names["state"].step) == 1


def test_the_code_of_the_page_on_sharp_edges_runs():
    names: dict = {}
    for block in blocks(ROOT / "docs" / "sharp-edges.md"):
        exec(block, names)
    assert set(names["updates"]) == {"w", "b"}


def test_links_and_names_in_the_documents_exist():
    import jaxunlearn
    from jaxunlearn import methods

    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    table = (ROOT / "README.md").read_text("utf-8").split("## What is implemented")[1]
    row = next(line for line in table.splitlines() if line.startswith("| transformations"))
    assert all(hasattr(jaxunlearn, name) for name in re.findall(r"`(\w+)`", row))
    row = next(line for line in table.splitlines() if line.startswith("| methods"))
    shipped = {name for name in methods.available() if hasattr(methods, name)}
    assert set(re.findall(r"`(\w+)`", row)) == shipped


def test_every_method_has_a_row_in_the_catalogue():
    """With an equation, a source, and settings that it has, at the defaults that they have."""
    from jaxunlearn import methods

    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| `\w+` \|", line)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    names = [row[0].strip("`") for row in cells]
    assert names == [name for name in methods.available() if hasattr(methods, name)]
    kinds = re.findall(r"^- \*(\w+)\*:", page, re.MULTILINE)
    for name, (_, equation, source, task, shown) in zip(names, cells, strict=True):
        assert equation and source and task in kinds
        defaults = methods.settings(name)
        for setting, value in re.findall(r"`(\w+)` ([^\s,]+)", shown):
            default = defaults[setting]
            close = isinstance(default, float) and float(value) == default
            assert close or value == str(default), f"{name}: {setting} is {default} by default"


def commands(path: Path) -> list[list[str]]:
    """The words of every command in the code blocks of a Markdown file, fenced or indented.

    They begin with the name of a jaxunlearn command, or with the path of a script.
    """
    page = path.read_text("utf-8")
    fenced = re.findall(r"```(?:sh|yaml)\n(.*?)```", page, re.DOTALL)
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    indented = re.findall(r"(?<=\n\n)(?: {4}.*\n)+", outside)
    text = re.sub(r"\\\n|,\n", " ", "\n".join(fenced + indented))
    text = re.sub(r"#.*", "", text)
    found = re.findall(r"(?<!from )(?<!import )jaxunlearn[ ,]+([a-z][^\n]*)", text)
    found += re.findall(r"python (experiments/[^\n]*)", text)
    return [re.sub(r"[\[\]\",]", " ", line).split() for line in found]


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_the_commands_in_the_documents_exist_with_their_flags():
    from jaxunlearn import methods
    from tests.shell.commands import done

    known = functools.cache(lambda command: set(re.findall(r"--[a-z-]+", done(command, "--help"))))
    for page in PAGES:
        for command, *words in commands(page):
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            if command.endswith(".py"):
                source = (ROOT / command).read_text("utf-8").replace("_", "-")
                assert all(flag in source or flag[2:] in source for flag in given), (page, command)
            else:
                assert given <= known(command), f"{page.name}: {command} has no {given}"
            for word in words:
                if word.startswith("experiments/"):
                    assert (ROOT / word).exists(), f"{page.name}: {word}"
            if "--method" in words and "--settings" in words:
                pairs = words[words.index("--settings") + 1 :]
                names = [pair.split("=")[0] for pair in itertools.takewhile(is_setting, pairs)]
                assert set(names) <= set(methods.settings(words[words.index("--method") + 1]))
    counts = {page.name: len(commands(page)) for page in PAGES}
    assert counts["scaling.md"] >= 6 and counts["studies.md"] >= 30 and counts["generation.md"] >= 9


def is_setting(word: str) -> bool:
    return "=" in word and not word.startswith("--")
