"""The user's home and cache folders, where they can be found; importing this is quick."""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The folder for what can be made again: $XDG_CACHE_HOME, by default `~/.cache`.

    Returns:
        The folder, which need not exist; None if it is not set and the home folder is unknown, as
        for a numeric user of a container.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if cache.startswith("~") else Path(cache)


def expanded(path: str | os.PathLike[str]) -> Path:
    """An absolute path, with the home folder in place of `~`; nothing is created.

    Args:
        path: as the user gave it.

    Returns:
        The path.

    Raises:
        InputError: the path begins with `~`, but that home folder is unknown; or it holds a null
            character.

    Example:
        >>> expanded("/data/digits").as_posix()
        '/data/digits'
    """
    from jaxunlearn.types import InputError

    if "\0" in os.fspath(path):
        raise InputError(f"{os.fspath(path)!r} holds a null character, which no path can.")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(
            f"{os.fspath(path)} begins with ~, but that home folder is unknown; give the path in "
            "full."
        ) from error
