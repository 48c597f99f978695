"""The user's home and cache folders."""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The user's cache folder, which need not exist: `~/.cache` or $XDG_CACHE_HOME on Linux.

    None if the home folder is unknown, as for a user of a container that has a number only.
    """
    import platformdirs  # in an extra: the command reports a missing package

    try:
        return platformdirs.user_cache_path()
    except RuntimeError:
        return None


def expanded(path: str | os.PathLike[str]) -> Path:
    """An absolute path, with the home folder in place of `~`; nothing is created.

    Raises:
        InputError: the path begins with `~`, but that home folder is unknown; or it holds a null
            character.

    Example:
        >>> expanded("/data/digits").as_posix()
        '/data/digits'
    """
    from jaxunlearn.types import InputError

    if "\0" in os.fspath(path):
        raise InputError(
            f"{os.fspath(path)!r} holds a null character, but a path must not; remove it."
        )
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InputError(
            f"{os.fspath(path)} begins with ~, but that home folder is unknown; give the path in "
            "full."
        ) from error
