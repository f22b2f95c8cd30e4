"""A per-user cache of decoded images: decoding 60,000 lossless WebP or PNG images takes several seconds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dirprune.core.atomic import atomic_write
from dirprune.core.folders import make_cache_folder

MIN_IMAGES = 5_000  # fewer are decoded again sooner than a file is worth keeping
FORMAT = 1  # part of the key: raise it when decoded arrays change their meaning

logger = logging.getLogger(__name__)


def cached_images(
    files: Sequence[Path], column: str, shape: tuple[int, ...], decode: Callable[[], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return decoded images from the cache if it has them, else decode and keep them.

    An entry belongs to the path, size and modification time of every source file, so a changed source is
    decoded anew. A damaged entry is replaced; a cache that cannot be written, or that others could write
    into, costs time, never the run.

    Args:
        files: the source files; none means that nothing is cached.
        column: which column of the files holds the images.
        shape: the shape that the array must have, [n, channels, height, width].
        decode: makes the array.

    Returns:
        uint8 array of that shape.

    Example:
        >>> cached_images([], "img", (2, 1, 8, 8), lambda: np.ones((2, 1, 8, 8), np.uint8)).sum()
        np.uint64(128)
    """
    if not files or shape[0] < MIN_IMAGES:
        return decode()
    key = _key(files, column)
    try:
        path = make_cache_folder() / f"{key}.npy"
    except OSError as error:
        logger.warning("decoded images are not cached: %s", error)
        return decode()
    images = _load(path, shape)
    if images is None:
        images = decode()
        try:
            with atomic_write(path) as file:
                np.save(file, images, allow_pickle=False)
        except OSError as error:
            logger.warning("decoded images are not cached: %s", error)
    return images


def _key(files: Sequence[Path], column: str) -> str:
    """Hash what identifies the source files."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((FORMAT, column, stats)).encode()).hexdigest()[:32]


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Read an entry; None where there is none or it is not what it should be."""
    try:
        # Mapping checks the file's length against its header before memory is asked for, and takes no pickle.
        mapped: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy's reader raises many kinds on a damaged header
        logger.warning("damaged cache entry %s is decoded again: %s", path, error)
        return None
    if mapped.shape != shape or mapped.dtype != np.uint8:
        logger.warning("cache entry %s has the wrong form and is decoded again", path)
        return None
    return np.array(mapped, order="C")
