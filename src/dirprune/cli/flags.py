"""Settings in the words of the command line: the library says `batch_size`, a person reads --batch-size."""

import re
from collections.abc import Iterable

_SETTING = re.compile(r"`([a-z]\w*)`")
_OF_ANOTHER_NAME = {"at_once": "jobs", "folder": "out", "target": "target_sparsity"}
_taken: set[str] = set()  # what is not among them, of another library perhaps, is left as it is


def take(settings: Iterable[str]) -> None:
    """Note the settings that the command at work has flags for, by their names in Python."""
    _taken.clear()
    _taken.update(settings)


def as_flags(text: str) -> str:
    """Write each setting that a text has in backquotes as the flag of the command at work, if it has one.

    Example:
        >>> take(["batch_size", "jobs"])
        >>> as_flags("lower `batch_size` or `at_once`; `c` is chosen")
        'lower --batch-size or --jobs; `c` is chosen'
    """
    return _SETTING.sub(_as_flag, text)


def _as_flag(setting: re.Match[str]) -> str:
    name = _OF_ANOTHER_NAME.get(setting[1], setting[1])
    return f"--{name.replace('_', '-')}" if name in _taken else setting[0]
