"""Arguments from dataclasses by tyro, with errors in one line."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from dirprune.cli.flags import take
from dirprune.core.threads import check_threads
from dirprune.errors import UsageError
from dirprune.runs import is_of_a_run

Options = TypeVar("Options")

_RULE = re.compile(r"[\s\u2500-\u257f-]*[\u2500-\u257f-]{3,}[\s\u2500-\u257f-]*")


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    prog: str,
    default: Options | None = None,
    before: type | None = None,
) -> Options:
    """Read arguments into a dataclass.

    Args:
        options: The dataclass.
        arguments: What the user typed after ``prog``.
        prog: The command so far, for the help.
        default: Values of the options that are not given.
        before: Options of the command that made what this one reads; messages may name them too.

    Returns:
        An instance of the dataclass.

    Raises:
        UsageError: An argument is unknown or unreadable.
        SystemExit: Help was asked for and printed.
    """
    take(chain(_settings(options), _settings(before) if before else ()))

    def read(given: Sequence[str]) -> Options:
        start = tyro.MISSING_NONPROP if default is None else default
        return tyro.cli(options, prog=prog, args=given, default=start, config=(tyro.conf.OmitArgPrefixes,))

    if {"-h", "--help"} & set(arguments):
        return read(["--help"])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            return read(arguments)
    except SystemExit:
        raise UsageError(f"{_in_one_line(complaint.getvalue())} ({prog} --help lists the options)") from None


def _settings(options: Any) -> Iterator[str]:
    """Names of the fields that have flags, those of dataclasses within included."""
    for field in fields(options):
        marks = get_args(field.type)
        if is_dataclass(field.type):
            yield from _settings(field.type)
        elif tyro.conf.Suppress not in marks and tyro.conf.Positional not in marks:
            yield field.name


def at_least_one(**options: int | None) -> None:
    """Raise UsageError for an option, named as its field, that is given and below 1, or too many threads."""
    check_threads(options.pop("threads", None))
    for name, value in options.items():
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be >= 1, got {value}")


def in_a_folder(**options: Path | None) -> None:
    """Raise UsageError for a file to be written, named as its option, without a folder or of a run's own."""
    for name, path in options.items():
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"--{name} {path}: there is no folder {path.parent}")
        if path is not None and path.is_dir():
            raise UsageError(f"--{name} {path} is a folder: name a file")
        if path is not None and is_of_a_run(path):
            raise UsageError(f"--{name} {path} is a file of the run in that folder: name another one")


def _in_one_line(complaint: str) -> str:
    """Take tyro's box apart: a title, the message, and perhaps options of a similar name."""
    _, message, *more = (" ".join(block.split()) for block in _RULE.split(complaint))
    # ours names the option already
    message = re.sub(r"^Error parsing [\w.]+: (?=--|`|unknown )", "", message)
    similar = [
        option for block in more if "Perhaps you meant" in block for option in re.findall(r"--[\w-]+", block)
    ]
    return f"{message}; did you mean {similar[0]}?" if similar else message
