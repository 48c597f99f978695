"""Hooks of mkdocs: the pages whose source is outside docs/, and the API reference."""

import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
NOTEBOOK = "experiments/NOTEBOOK.md"
# The pages of the API reference and the modules on each.
API = {
    "core": ["jaxunlearn", "jaxunlearn.types"],
    "methods": ["jaxunlearn.methods", "jaxunlearn.methods.objectives"],
    "tasks": ["jaxunlearn.tasks", "jaxunlearn.tasks.latents"],
    "models": [
        "jaxunlearn.models",
        "jaxunlearn.models.denoisers",
        "jaxunlearn.models.latent",
        "jaxunlearn.models.process",
        "jaxunlearn.models.diffusion_process",
    ],
    "pretrained": [
        "jaxunlearn.models.pretrained",
        "jaxunlearn.models.pretrained.stable_diffusion",
        "jaxunlearn.models.pretrained.diffusers_unet",
        "jaxunlearn.models.pretrained.diffusers_dit",
        "jaxunlearn.models.pretrained.classifiers",
    ],
    "data": ["jaxunlearn.data"],
    "training": [
        "jaxunlearn.training",
        "jaxunlearn.training.devices",
        "jaxunlearn.training.streaming",
    ],
    "evaluation": ["jaxunlearn.evaluation"],
    "studies": ["jaxunlearn.studies", "jaxunlearn.studies.report"],
}


def exports(module: ModuleType) -> dict[str, str]:
    """The public names of a module and their full paths: its `__all__`, or all it defines."""
    defined = [name for name, value in vars(module).items() if _module(value) == module.__name__]
    names = getattr(module, "__all__", defined)
    public = [name for name in names if not name.startswith("_")]
    public.sort(key=lambda name: inspect.isclass(getattr(module, name)))  # functions first
    return {name: _path(module, name) for name in public}


def _module(value: Any) -> str:
    callables = inspect.isclass(value) or inspect.isroutine(value)
    return str(getattr(value, "__module__", "")) if callables else ""


def _path(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    home = _module(value)
    if home.startswith("jaxunlearn") and value.__qualname__ == name:
        return f"{home}.{name}"
    return f"{module.__name__}.{name}"


def reference(page: str) -> str:
    """The Markdown of one page of the API reference."""
    parts = [f"# {page.capitalize()}\n"]
    for name in API[page]:
        module = importlib.import_module(name)
        summary = (inspect.getdoc(module) or "").split("\n\n")[0]
        parts += [f"## {name}\n", f"{summary}\n"]
        parts += [f"::: {path}\n" for path in exports(module).values()]
    return "\n".join(parts)


_STUDY_FILES = """\
# Study files

The fields of the TOML files of `jaxunlearn compare` and `jaxunlearn tune`, made from their types by
`python -m docs._site`. `jaxunlearn schema study` and `jaxunlearn schema search` print the same for
editors, and `experiments/configs` has examples. Relative paths begin at the folder of the file.
"""
_TABLES = {  # the heading of each table, by its type
    "Study": "The file of compare",
    "Search": "The file of tune",
    "Problem": "[problem]",
    "Diffusion": "[problem.diffusion]",
    "ForgetRequest": "[[requests]]",
    "Aim": "[methods.RUN], besides the settings of the method",
}
_KINDS = {
    **{"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"},
    **{"object": "table"},
}


def study_files() -> str:
    """The Markdown of the page on the fields of study and search files."""
    from jaxunlearn.studies.config import Aim
    from jaxunlearn.studies.fields import json_schema
    from jaxunlearn.studies.search.tuning import Search
    from jaxunlearn.studies.study import Study

    tables: dict[str, Any] = {}
    for kind in (Study, Search, Aim):
        schema = json_schema(kind)
        tables = {kind.__name__: schema} | schema["$defs"] | tables
    parts = [_STUDY_FILES]
    for name, heading in _TABLES.items():
        table = tables.pop(name)
        code = re.sub(r"^\[.*\]", r"`\g<0>`", heading)
        parts += [f"## {code}\n", f"{table['description']}\n"]
        parts += ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
        for field, entry in table["properties"].items():
            value = _default(entry.get("default"))
            text = entry["description"].replace("|", "\\|")
            parts.append(
                f"| `{field}` | {_kind(entry)} | {value} | {text} |".replace("|  |", "| |")
            )
        parts.append("")
    assert not tables, f"a heading is missing for {', '.join(tables)}"
    return "\n".join(parts).rstrip() + "\n"


def _default(value: Any) -> str:
    """A default as code, in the spelling of JSON; empty where nothing or a table is the default."""
    if isinstance(value, list):  # requests, without the fields that they leave out
        value = [
            {k: x for k, x in each.items() if x} if isinstance(each, dict) else each
            for each in value
        ]
    empty = value in (None, [], "") or isinstance(value, dict)
    return "" if empty else f"`{json.dumps(value)}`"


def _kind(entry: dict[str, Any]) -> str:
    """The kind of a value in words, from its JSON schema."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return f"table `{_TABLES[name]}`" if name in _TABLES else "table"
    if "enum" in entry or "const" in entry:
        return " or ".join(f"`{json.dumps(x)}`" for x in entry.get("enum", [entry.get("const")]))
    if "anyOf" in entry:
        kinds = [_kind(each) for each in entry["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if entry.get("type") == "array":
        items = entry.get("items") or (entry.get("prefixItems") or [{}])[0]
        kind = _kind(items)
        if kind.startswith("table"):
            return f"list of {kind.replace('table', 'tables', 1)}"
        return f"list of {kind}" if kind == "text" or "`" in kind else f"list of {kind}s"
    return _KINDS.get(entry.get("type", ""), "any value")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside docs/, their pictures, and the API reference."""
    from mkdocs.structure.files import File

    def page(uri: str, text: str) -> None:
        files.append(File.generated(config, uri, content=text))

    for source, uri in OUTSIDE.items():
        page(uri, inside((ROOT / source).read_text("utf-8")))
    notebook = (ROOT / NOTEBOOK).read_text("utf-8").replace("](../docs/", "](../")
    page(NOTEBOOK, notebook)
    for name in API:
        page(f"api/{name}.md", reference(name))
    for picture in sorted(ROOT.glob("experiments/**/results/*")):
        if picture.suffix in (".png", ".svg"):
            uri = str(picture.relative_to(ROOT))
            files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


class Examples(griffe.Extension):
    """Reads "Example:" as griffe's "Examples:", whose doctests are code."""

    def on_instance(self, *, obj: griffe.Object, **unused: Any) -> None:
        """Renames the section in one docstring."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE
            )


def inside(text: str) -> str:
    """Links of a page at the root of the repository, as seen from docs/."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?:LICENSE|CITATION\.cff)\)", r"\1", text)


def on_page_markdown(markdown: str, **unused: Any) -> str:
    """Links of docs/ to the experiments, which are inside the site; intervals on one line."""
    markdown = re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", markdown)
    markdown = re.sub(
        r"([\[(][\d.,−]+) (to|and) ([\d.,−]+[\])])",
        "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}\\3",
        markdown,
    )
    return markdown.replace("](../experiments/", "](experiments/")


if __name__ == "__main__":
    (ROOT / "docs" / "study-files.md").write_text(study_files(), "utf-8")
