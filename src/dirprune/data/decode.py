"""From rows of encoded images and labels to a checked `Split`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dirprune.data.cache import cached_images
from dirprune.data.catalogue import DatasetSpec, Split
from dirprune.errors import DataError, first_line, from_extra

MAX_ROWS = 1_000_000  # run-length coding lets a tiny file claim any number of rows
_ROWS_AT_ONCE = 16  # and a dictionary lets it hold a large image once for all of them
FORMATS = ("PNG", "WEBP", "JPEG")  # Pillow's other readers are not for files from strangers
PILLOW_MODE = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Rows:
    """One split as it lies on disk, of which nothing but the description has been read.

    Args:
        origin: the file or hub split, for messages.
        schema: the Arrow schema (pyarrow.Schema).
        count: number of rows.
        read: returns one column by name, piece after piece (pyarrow.Array).
        files: the files that hold the rows.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"label": [3, 1]})
        >>> rows = Rows("here", table.schema, 2, lambda name: table.column(name).chunks, ())
        >>> [piece.to_pylist() for piece in rows.read("label")]
        [[3, 1]]
    """

    origin: str
    schema: Any
    count: int
    read: Callable[[str], Iterable[Any]]
    files: tuple[Path, ...]

    def check(self, spec: DatasetSpec, most: int) -> None:
        """Raise DataError unless there are rows, `most` at most, and the columns of the specification."""
        import pyarrow as pa

        for column in (spec.image_column, spec.label_column):
            if self.schema.names.count(column) != 1:
                names = ", ".join(self.schema.names)
                raise DataError(
                    f"{self.origin} should have one column {column!r} for {spec.name}; it has: {names}"
                )
        stored = self.schema.field(spec.image_column).type
        if not pa.types.is_struct(stored) or stored.get_field_index("bytes") < 0:
            wanted = "images as HF `datasets` stores them (a struct with a field 'bytes')"
            raise DataError(
                f"{self.origin}: column {spec.image_column!r} should hold {wanted}; it is {stored}"
            )
        if not 0 < self.count <= most:
            raise DataError(f"{self.origin} should have 1 to {most:,} rows; it has {self.count:,}")


def parquet_rows(path: Path) -> Rows:
    """Open a parquet file.

    Args:
        path: an existing file.

    Returns:
        Its rows, columns unread.

    Raises:
        DataError: the file is not readable as parquet; the same when a column is read.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"label": [3, 1]}), Path(folder, "train.parquet"))
        ...     parquet_rows(Path(folder, "train.parquet")).count
        2
    """
    with from_extra("train", "a data set in parquet files"):
        import pyarrow.parquet as pq

    @contextmanager
    def guarded() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # pyarrow raises many kinds on damaged files
            raise DataError(
                f"{path} cannot be read as parquet ({first_line(error)}); fetch it again"
            ) from error

    def read(column: str) -> Iterator[Any]:
        with guarded():
            batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column])
        while True:
            with guarded():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch.column(column)

    with guarded():
        file = pq.ParquetFile(path)
    return Rows(
        origin=str(path),
        schema=file.schema_arrow,
        count=file.metadata.num_rows,
        read=read,
        files=(path,),
    )


def decode_split(rows: Rows, spec: DatasetSpec) -> Split:
    """Check rows against the specification and decode them.

    Args:
        rows: where from.
        spec: what columns, shape and classes to expect.

    Returns:
        images uint8 [n, channels, height, width] and labels int64 [n].

    Raises:
        DataError: a column is missing or of the wrong type, the split is empty, an image is damaged or of
            another shape or mode, a label is missing or out of range.

    Example:
        >>> import io, pyarrow as pa
        >>> from PIL import Image
        >>> from dirprune.data.catalogue import DatasetSpec
        >>> png = io.BytesIO()
        >>> Image.new("L", (8, 8), 7).save(png, "PNG")
        >>> table = pa.table({"image": [{"bytes": png.getvalue()}], "label": [3]})
        >>> spec = DatasetSpec("tiny", None, "image", "label", 10, (1, 8, 8), (1, 1))
        >>> rows = Rows("here", table.schema, 1, lambda name: table.column(name).chunks, ())
        >>> split = decode_split(rows, spec)
        >>> split.images.shape, split.images.unique(), split.labels
        (torch.Size([1, 1, 8, 8]), tensor([7], dtype=torch.uint8), tensor([3]))
    """
    rows.check(spec, MAX_ROWS)
    labels = read_labels(rows, spec)
    shape = (rows.count, *spec.image_shape)
    images = cached_images(rows.files, spec.image_column, shape, lambda: _images(rows, spec))
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def read_labels(rows: Rows, spec: DatasetSpec) -> NDArray[np.int64]:
    """Read the labels and check their range.

    Args:
        rows: where from.
        spec: which column holds labels, and how many classes there are.

    Returns:
        int64 [n], in 0..num_classes-1.

    Raises:
        DataError: a label is missing, not an integer, or out of range.

    Example:
        >>> import pyarrow as pa
        >>> spec = DatasetSpec("pets", None, "image", "label", 2, (1, 8, 8), (2, 1))
        >>> table = pa.table({"label": [1, 0]})
        >>> read_labels(Rows("here", table.schema, 2, lambda name: table.column(name).chunks, ()), spec)
        array([1, 0])
    """
    import pyarrow as pa

    stored = rows.schema.field(spec.label_column).type
    whole = pa.types.is_integer(stored)
    pieces = list(_pieces(rows, spec.label_column)) if whole else []  # others may be large
    missing = sum(piece.null_count for piece in pieces)
    if not whole or missing:
        got = f"{stored} with {missing:,} missing" if whole else str(stored)
        raise DataError(
            f"{rows.origin}: column {spec.label_column!r} should hold integers, none missing; it is {got}"
        )
    values: NDArray[np.int64] = np.concatenate([piece.to_numpy() for piece in pieces])
    wrong = np.flatnonzero((values < 0) | (values >= spec.num_classes))
    if wrong.size:
        row = int(wrong[0])
        limits = f"0..{spec.num_classes - 1}"
        raise DataError(
            f"{rows.origin}: labels of {spec.name} should be {limits}; row {row} has {values[row]}"
        )
    return values.astype(np.int64)


def class_names(schema: Any, spec: DatasetSpec) -> tuple[str, ...]:
    """Read the names of the classes that HF `datasets` leaves in an Arrow schema.

    Args:
        schema: the Arrow schema (pyarrow.Schema).
        spec: which column holds labels, and how many classes there should be.

    Returns:
        One name per class; empty where the schema has none.

    Raises:
        DataError: another number of classes is named than the data set has.

    Example:
        >>> import pyarrow as pa
        >>> spec = DatasetSpec("pets", None, "image", "label", 2, (1, 8, 8), (2, 1))
        >>> note = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
        >>> class_names(pa.schema([("label", pa.int64())], {"huggingface": note}), spec)
        ('cat', 'dog')
    """
    try:
        notes = json.loads((schema.metadata or {})[b"huggingface"])
        names = tuple(str(name) for name in notes["info"]["features"][spec.label_column]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):  # no such note, and nothing depends on it
        return ()
    if len(names) != spec.num_classes:
        raise DataError(f"{spec.name} should have {spec.num_classes} classes; the data name {len(names)}")
    return names


def _pieces(rows: Rows, name: str) -> Iterator[Any]:
    """Read a column piece after piece; it must be as long as the file says."""
    seen = 0
    for piece in rows.read(name):
        seen += len(piece)
        if seen > rows.count:
            break
        yield piece
    if seen != rows.count:
        more = " or more" if seen > rows.count else ""
        raise DataError(f"{rows.origin} claims {rows.count:,} rows; column {name!r} has {seen:,}{more}")


def _images(rows: Rows, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Decode every image, uint8 [n, channels, height, width]."""
    images = np.empty((rows.count, *spec.image_shape), np.uint8)
    # One thread: small images spend their time under the interpreter's lock; two threads measured slower.
    cells = (cell for piece in _pieces(rows, spec.image_column) for cell in piece.field("bytes"))
    with from_extra("train", "a data set of images", "pillow"):
        for row, cell in enumerate(cells):
            try:
                images[row] = _pixels(cell.as_py(), spec.image_shape)
            except DataError as error:
                raise DataError(f"{rows.origin}: row {row}: {error}") from error
    return images


def _pixels(data: object, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode one image, uint8 [channels, height, width]."""
    from PIL import Image

    if not isinstance(data, bytes):
        raise DataError("there are no image bytes")
    channels, height, width = shape
    expected = (PILLOW_MODE[channels], width, height)
    try:
        # Opening reads the header only, so an image of another size is refused before it is unpacked.
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = (image.mode, *image.size)
            if found == expected:
                return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    except Exception as error:  # Pillow's readers raise many kinds on damaged bytes
        raise DataError(
            f"the image is damaged or not {'/'.join(FORMATS)} ({type(error).__name__})"
        ) from error
    raise DataError("the image should be {} {} x {}; it is {} {} x {}".format(*expected, *found))
