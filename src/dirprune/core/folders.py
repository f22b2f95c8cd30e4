"""Folders of the user's."""

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of the cache, which may be deleted at any time.

    Returns:
        `$XDG_CACHE_HOME/dirprune`, or `~/.cache/dirprune` where the variable is unset.

    Example:
        >>> cache_folder().name
        'dirprune'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dirprune"  # noqa: PTH111


def make_cache_folder(name: str = "") -> Path:
    """Make that folder, or one in it, if need be: nobody else may write into either, for they hold code too.

    Args:
        name: Of the folder in it.

    Returns:
        The folder.

    Raises:
        OSError: It cannot be made; or there is one that others could write into, or that is not the user's.
    """
    cache = cache_folder()
    cache.parent.mkdir(parents=True, exist_ok=True)
    for folder in dict.fromkeys((cache, cache / name)):
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid"):  # elsewhere modes say nothing
            held = folder.stat()
            if held.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or held.st_uid != os.getuid():
                raise PermissionError(f"{folder} must belong to the user, and be writable by nobody else")
    return cache / name
