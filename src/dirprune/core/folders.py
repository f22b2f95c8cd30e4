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
