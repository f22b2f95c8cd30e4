"""Folders of the user's."""

import os
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


def make_cache_folder() -> Path:
    """Make that folder if need be: whatever the umask nobody else may write into it, for it holds code too.

    Returns:
        The folder.

    Raises:
        OSError: It cannot be made.
    """
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
