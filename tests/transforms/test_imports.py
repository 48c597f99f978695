"""The core needs jax and optax, and nothing else."""

import ast
import doctest
import pathlib
import subprocess
import sys

import pytest

import jaxunlearn

PACKAGE = pathlib.Path(jaxunlearn.__file__).parent
CORE = [
    PACKAGE / "__init__.py",
    PACKAGE / "types.py",
    *sorted((PACKAGE / "transforms").glob("*.py")),
]
ALLOWED = {"jax", "jaxlib", "optax", "jaxunlearn"}

SCRIPT = """
import sys
import jax, optax
before = set(sys.modules)
import jaxunlearn
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(" ".join(sorted(added - set(sys.stdlib_module_names))))
print(" ".join(sorted(jaxunlearn.__all__)))
"""


def test_importing_the_library_adds_nothing_to_jax_and_optax() -> None:
    """In a fresh interpreter; flax, tfds, sklearn, matplotlib, orbax and chex would show here."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    added, names = result.stdout.splitlines()
    assert set(added.split()) <= ALLOWED
    assert "jaxunlearn" in added.split()
    assert set(names.split()) == set(jaxunlearn.__all__)


LATER = """
import sys
import jaxunlearn
assert "jax" not in sys.modules
assert "sfron" in jaxunlearn.methods.available()
assert not hasattr(jaxunlearn, "method")
from jaxunlearn import *
assert {"implicit_surgery", "__version__", "LossPair"} <= globals().keys()
for name in list(sys.modules):
    if name.startswith(("jaxunlearn", "flax")):
        del sys.modules[name]
sys.modules["flax"] = None  # as if it were not installed
try:
    from jaxunlearn import tasks
except ImportError as error:
    print(error)
"""


def test_modules_are_found_by_name_and_say_what_they_need() -> None:
    """`jaxunlearn.methods` needs no import of its own; without flax, the extra is named."""
    result = subprocess.run(
        [sys.executable, "-c", LATER],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert result.stdout == (
        "jaxunlearn.tasks needs the package flax, which is not installed; install "
        "jaxunlearn[pipeline].\n"
    )


def test_type_checkers_read_the_annotations() -> None:
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_is_written_with_jax_and_optax_only(path: pathlib.Path) -> None:
    """Also inside functions, where an import would not show above."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) <= ALLOWED


PUBLIC = """
LossPair InputError implicit_surgery multiplier loss_weights surgery_value_and_grad
unilateral_surgery pcgrad mgda cagrad nash gdr_gma famo fast_slow shared_fast_slow fast_slow_carry
saliency_mask fisher_diagonal fisher_ratio_mask top_fraction_mask adaptive_weights
"""


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_names_are_there_and_documented(name: str) -> None:
    """Each in an example of its own docstring, or in one of its module that compares several."""
    assert name in jaxunlearn.__all__
    value = getattr(jaxunlearn, name)
    texts = (value.__doc__, sys.modules[value.__module__].__doc__)
    examples = [e for text in texts for e in doctest.DocTestParser().get_examples(text or "")]
    assert any(name in example.source for example in examples) or name == "InputError"
