"""The plug-ins of a command: of installed packages, of an environment variable, and of flags."""

import os

GROUP, VARIABLE = "jaxunlearn.plugins", "JAXUNLEARN_PLUGINS"


def without_plugins(words: list[str]) -> tuple[list[str], list[str | None]]:
    """The words of a command without its `--plugin` flags, and the plug-ins that they name.

    Example:
        >>> without_plugins(["--plugin", "mine.py", "list", "methods", "--plugin=theirs"])
        (['list', 'methods'], ['mine.py', 'theirs'])
    """
    rest: list[str] = []
    found: list[str | None] = []
    left = iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag == "--plugin":
            found.append(value if equals else next(left, None))
        else:
            rest.append(word)
    return rest, found


def load_plugins(given: list[str | None]) -> None:
    """Loads the plug-ins of installed packages, of the environment variable, and of flags.

    Raises:
        InputError: see `jaxunlearn.plugins.load`; a flag without a value.
    """
    from importlib.metadata import entry_points

    from jaxunlearn import plugins
    from jaxunlearn.types import InputError

    for entry in entry_points(group=GROUP):
        try:
            plugins.load(entry.module)
        except InputError as error:
            of = f"the package {entry.dist.name}" if entry.dist else entry.name
            raise InputError(f"{error} It belongs to {of}; correct or uninstall it.") from error
    for path in os.environ.get(VARIABLE, "").split(os.pathsep):
        if path:
            plugins.load(path)
    for flag in given:
        if not flag or flag.startswith("-"):
            raise InputError(
                f"--plugin is {flag or 'empty'}, but must be a Python file or a module; name one, "
                "such as --plugin my_method.py."
            )
        plugins.load(flag)
