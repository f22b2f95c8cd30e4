"""Writes that happen whole or not at all."""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` only if the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and then renamed over
    `path`; the folder is flushed too. If anything raises, the temporary file is removed and whatever `path`
    held stays as it was. A reader sees the old file or the new one, never a part. A link stays a link, to the
    new file, and a file that is replaced leaves it its mode.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        A binary file, open for writing and seeking. Its `name` is the temporary path, for writers that take
        only a path; such a writer must write to that very file and not put another in its place.

    Raises:
        OSError: The folder is missing or not writable, the disk is full, or `path` is a folder or a device.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder) / "note.txt") as file:
        ...         _ = file.write(b"whole")
        ...     (Path(folder) / "note.txt").read_bytes()
        b'whole'
    """
    target = Path(os.path.realpath(path))
    mode = _mode_of(target)
    temporary = target.parent / f".dirprune-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                with suppress(OSError):  # some mounts know no modes
                    temporary.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:  # an interrupt must not leave the temporary file behind either
        with suppress(OSError):  # which would hide the error
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None  # the name that was asked for
        raise
    _flush_folder(target.parent)


def _mode_of(target: Path) -> int | None:
    """Return the mode of a file that is there; refuse what a rename would take the place of."""
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found) and not stat.S_ISDIR(found):  # the rename itself refuses a folder
        raise OSError(errno.EINVAL, "not a regular file", str(target))
    return stat.S_IMODE(found) if stat.S_ISREG(found) else None


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        content: What JSON can hold.
        indent: Spaces of a level; None for a single line.

    Raises:
        ValueError: A number is not finite, which JSON does not know.
        OSError: As for `atomic_write`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "note.json", {"whole": True}, indent=None)
        ...     print((Path(folder) / "note.json").read_text(), end="")
        {"whole": true}
    """
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=indent, allow_nan=False).encode() + b"\n")


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Any]) -> None:
    """Write a line of JSON for each record, all or none.

    Args:
        path: The file to write; its folder must exist.
        records: What JSON can hold.

    Raises:
        ValueError: A number is not finite, which JSON does not know.
        OSError: As for `atomic_write`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json_lines(Path(folder) / "notes.jsonl", [{"epoch": 1}, {"epoch": 2}])
        ...     print((Path(folder) / "notes.jsonl").read_text(), end="")
        {"epoch": 1}
        {"epoch": 2}
    """
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, on systems where a folder can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts cannot flush a folder
            raise
    finally:
        os.close(descriptor)
