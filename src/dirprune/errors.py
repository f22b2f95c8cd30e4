"""Exceptions and warnings: each says what was expected, what came, and what to do.

A message names a setting in backquotes, by its name in Python; the command line makes flags of them.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_NO_MEMORY = re.compile("can't allocate memory|out of memory")  # of the CPU; of MPS and others


class DirpruneError(Exception):
    """Base of every error that the package raises on purpose."""


class UsageError(DirpruneError, ValueError):
    """The caller asked for something that cannot be: a wrong name, value, shape or file. Exit code 2."""


class HyperparameterError(UsageError):
    """An optimiser was given a value outside its range."""


class DataError(UsageError):
    """A data set is missing, empty, or not of the form that its recipe needs."""


class SparseFileError(UsageError):
    """A sparse file is malformed, truncated, or contradicts itself; or a state has no place in one."""


class MissingFileError(FileNotFoundError, SparseFileError):
    """There is no sparse file by that name."""


class NotSafetensorsError(SparseFileError):
    """A file is none of safetensors, or its header is damaged."""


class PlainFileError(SparseFileError):
    """A safetensors file is not a sparse file, but tensors as they are."""


class ExportError(UsageError):
    """A network cannot be exported as asked: its graph is not understood, or the result would differ."""


class MissingPackageError(ModuleNotFoundError, UsageError):
    """A part needs a package that is not installed; the message names the extra that brings it."""


class CompilerError(UsageError):
    """C or C++ code cannot be compiled or loaded here."""


class RunFolderError(UsageError):
    """A run folder cannot be read or written."""


class OtherRunError(RunFolderError):
    """A run folder belongs to another configuration."""


class RunInUseError(RunFolderError):
    """Another process trains into that run folder."""


class FailedRunsError(DirpruneError):
    """Runs of a set failed or diverged; the others are done."""


class DivergenceError(DirpruneError):
    """Training met a non-finite loss or weight."""


class PeerError(DirpruneError):
    """Another process of the same run failed; the message is its."""


class LostPeerError(DirpruneError):
    """Another process of the same run exited without reporting an error."""


class LostShadowWarning(UserWarning):
    """A new GRDA starts on weights that are already sparse, without the accumulator that made them so."""


def out_of_memory(error: BaseException, remedy: str | None = None) -> str | None:
    """Return what to do, in training or else by `remedy`, if the machine or a device had no memory left.

    Example:
        >>> out_of_memory(MemoryError())
        'out of memory: lower `batch_size`, `width` or `at_once`, or raise `accumulation`'
        >>> out_of_memory(ValueError("memory"))
    """
    # torch's own class by its name: what only prints help does not import torch.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not named and not (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return None
    return f"out of memory: {remedy or 'lower `batch_size`, `width` or `at_once`, or raise `accumulation`'}"


@contextmanager
def from_extra(extra: str, purpose: str, package: str | None = None) -> Iterator[None]:
    """Say which extra brings a package, if an import within fails for want of one.

    Args:
        extra: Of this package.
        purpose: What needs the package.
        package: What to install; by default what was not found.

    Raises:
        MissingPackageError: A package is not installed. A module of our own that is not there is no such
            case, nor is what says already which extra it needs.

    Example:
        >>> try:
        ...     with from_extra("train", "a table"):
        ...         import no_such_package
        ... except MissingPackageError as error:
        ...     print(error)
        a table needs no_such_package: pip install 'directional-pruning[train]'
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == __package__:
            raise
        raise MissingPackageError(
            f"{purpose} needs {package or missing}: pip install 'directional-pruning[{extra}]'",
            name=error.name,
        ) from error


def unknown(kind: str, name: str, known: Collection[str], unlisted: Collection[str] = ()) -> str:
    """Say that a name is not known, which one was perhaps meant, and which there are.

    Args:
        kind: What the name is of.
        name: The unknown one.
        known: All that are listed.
        unlisted: More that may be meant.

    Returns:
        The message, one line.

    Example:
        >>> unknown("fruit", "aple", ["apple", "pear"])
        "unknown fruit 'aple'; did you mean 'apple'? known: apple, pear"
        >>> unknown("way", "fast", ["bf16", "bf16, compiled"])  # names with a comma are quoted
        "unknown way 'fast'; known: 'bf16', 'bf16, compiled'"
    """
    close = difflib.get_close_matches(name, [*known, *unlisted], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    quoted = any(", " in each for each in known)
    names = ", ".join(repr(each) if quoted else each for each in known)
    return f"unknown {kind} {name!r}; {hint}known: {names}"


def first_line(error: BaseException) -> str:
    """Return an exception's type and the first line of its message, to quote in a message of one line.

    Args:
        error: any exception.

    Returns:
        A line without line breaks, at most 200 characters.

    Example:
        >>> first_line(OSError("no route"))
        'OSError: no route'
    """
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"[:200]
