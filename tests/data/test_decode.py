"""Rows to splits: what a stranger's file may hold, and what is said about it."""

import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_sets import encode, random_pixels

from dirprune.data import DATASETS, Split
from dirprune.data import decode as module
from dirprune.data.decode import class_names, decode_split, parquet_rows
from dirprune.errors import DataError

SPEC = DATASETS["fashion_mnist"]
GOOD = encode(random_pixels(SPEC.image_shape, 0))


def write(path: Path, images: list[Any], labels: list[Any], label_type: Any = None) -> Path:
    """Plain parquet, without HF's notes."""
    table = pa.table({"image": pa.array(images), "label": pa.array(labels, label_type)})
    pq.write_table(table, path)
    return path


def cells(*images: bytes | None) -> list[dict[str, bytes | None]]:
    return [{"bytes": image, "path": None} for image in images]


def decode(path: Path) -> Split:
    return decode_split(parquet_rows(path), SPEC)


def huge_png() -> bytes:
    """A PNG header of 9,000 x 9,000 pixels with nothing behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    return start + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


BAD_ROWS = {
    "another size": (
        [GOOD, encode(random_pixels((1, 28, 27), 0))],
        [0, 1],
        "row 1: .* L 28 x 28; it is L 27 x 28",
    ),
    "colour": ([encode(random_pixels((3, 28, 28), 0))], [0], "row 0: .* it is RGB 28 x 28"),
    "transparent": ([encode(random_pixels((4, 28, 28), 0))], [0], "it is RGBA 28 x 28"),
    "damaged": ([GOOD, GOOD, GOOD[: len(GOOD) // 2]], [0, 1, 2], "row 2: the image is damaged"),
    "no image": ([GOOD, b"hello"], [0, 1], "row 1: the image is damaged or not PNG/WEBP/JPEG"),
    "format with a large reader": (
        [encode(random_pixels((1, 28, 28), 0), "TIFF")],
        [0],
        "row 0: .* not PNG/WEBP",
    ),
    "no bytes": ([GOOD, None], [0, 1], "row 1: there are no image bytes"),
    "huge": ([huge_png()], [0], "row 0: .* it is L 9000 x 9000"),
    "label too large": ([GOOD, GOOD], [9, 10], r"should be 0\.\.9; row 1 has 10"),
    "label negative": ([GOOD, GOOD], [-1, 3], r"should be 0\.\.9; row 0 has -1"),
    "label missing": (
        [GOOD, GOOD],
        [None, 3],
        "'label' should hold integers, none missing; it is int64 with 1",
    ),
    "label a fraction": ([GOOD], [0.5], "'label' should hold integers, none missing; it is double"),
    "label a word": ([GOOD], ["cat"], "should hold integers, none missing; it is string"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, tmp_path: Path) -> None:
    images, labels, message = BAD_ROWS[case]
    path = write(tmp_path / "train.parquet", cells(*images), labels)
    with pytest.raises(DataError, match=message) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label_type", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_any_integer_type_of_labels(label_type: Any, tmp_path: Path) -> None:
    split = decode(write(tmp_path / "train.parquet", cells(GOOD, GOOD), [9, 0], label_type))
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == [9, 0]


def test_label_beyond_int64(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"row 0 has {2**64 - 1}"):
        decode(write(tmp_path / "train.parquet", cells(GOOD), [2**64 - 1], pa.uint64()))


def test_image_column_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'image' should hold images as HF .* it is int64"):
        decode(write(tmp_path / "train.parquet", [1, 2], [0, 1]))


def test_row_is_counted_over_row_groups(tmp_path: Path) -> None:
    table = pa.table({"image": cells(GOOD, GOOD, GOOD, b"x"), "label": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    with pytest.raises(DataError, match="row 3: "):
        decode(tmp_path / "train.parquet")


def test_missing_column_lists_those_that_exist(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": cells(GOOD), "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"one column 'image' .* it has: picture, label$"):
        decode(tmp_path / "train.parquet")


def test_empty_split(tmp_path: Path) -> None:
    empty = pa.table(
        {"image": pa.array([], pa.struct({"bytes": pa.binary()})), "label": pa.array([], pa.int64())}
    )
    pq.write_table(empty, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="1 to 1,000,000 rows; it has 0"):
        decode(tmp_path / "train.parquet")


def test_more_rows_than_memory_should_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    with pytest.raises(DataError, match="1 to 2 rows; it has 3"):
        decode(write(tmp_path / "train.parquet", cells(GOOD, GOOD, GOOD), [0, 1, 2]))


def test_a_large_cell_that_a_dictionary_repeats_is_in_memory_a_few_times(tmp_path: Path) -> None:
    """A thousand images of a megabyte, in a file of some kilobytes."""
    padded = GOOD + bytes(2**20)  # which PNG readers ignore
    path = write(tmp_path / "train.parquet", cells(*[padded] * 1000), [0] * 1000)
    assert path.stat().st_size < 10**5
    pool = pa.system_memory_pool()
    default = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        split = decode(path)
    finally:
        pa.set_memory_pool(default)
    assert split.images.shape == (1000, 1, 28, 28)
    assert pool.max_memory() < 10**8


def test_column_shorter_than_claimed() -> None:
    table = pa.table({"image": cells(GOOD), "label": [0]})
    rows = module.Rows("here", table.schema, 2, lambda name: table.column(name).chunks, ())
    with pytest.raises(DataError, match="claims 2 rows; column 'label' has 1"):
        decode_split(rows, SPEC)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_gives_a_data_error_or_a_valid_split(data: st.DataObject, tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "whole.parquet", cells(*[GOOD] * 3), [0, 1, 2]).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    with contextlib.suppress(DataError):
        split = decode(path)
        assert split.images.shape == (len(split), 1, 28, 28)
        assert 0 <= split.labels.min() <= split.labels.max() <= 9


@pytest.mark.parametrize(
    ("note", "names"),
    [
        (None, ()),
        ("not json", ()),
        ("[]", ()),
        ("[" * 200_000, ()),
        ('{"info": {"features": {"label": {"names": 3}}}}', ()),
        ('{"info": {"features": {"label": {}}}}', ()),
        (
            '{"info": {"features": {"label": {"names": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}}}',
            tuple("0123456789"),
        ),
    ],
)
def test_class_names(note: str | None, names: tuple[str, ...]) -> None:
    schema = pa.schema([("label", pa.int64())], None if note is None else {"huggingface": note})
    assert class_names(schema, SPEC) == names


def test_another_number_of_class_names() -> None:
    note = {"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'}
    with pytest.raises(DataError, match="should have 10 classes; the data name 2"):
        class_names(pa.schema([("label", pa.int64())], note), SPEC)
