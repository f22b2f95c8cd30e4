"""The cache of decoded images: never wrong, never in the way."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dirprune.core.folders import cache_folder
from dirprune.data import DatasetSpec, decode, load_dataset
from dirprune.data import cache as module
from dirprune.data.cache import MIN_IMAGES, cached_images
from dirprune.errors import DataError

SHAPE = (MIN_IMAGES, 1, 2, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


class Decoder:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return IMAGES.copy()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"stands for a parquet file")
    return path


def entries() -> list[Path]:
    return sorted(cache_folder().glob("*")) if cache_folder().exists() else []


def test_second_time_is_not_decoded(source: Path) -> None:
    decoder = Decoder()
    first, second = (cached_images([source], "img", SHAPE, decoder) for _ in range(2))
    assert decoder.calls == 1
    np.testing.assert_array_equal(first, IMAGES)
    np.testing.assert_array_equal(second, IMAGES)
    assert second.flags.writeable
    assert type(second) is np.ndarray
    assert [entry.suffix for entry in entries()] == [".npy"]


def test_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, tmp_path: Path
) -> None:
    assert cache_folder() == own_cache / "dirprune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dirprune"


def _touch(source: Path) -> None:
    os.utime(source, ns=(1, source.stat().st_mtime_ns + 1))


def _grow(source: Path) -> None:
    stamp = source.stat().st_mtime_ns
    source.write_bytes(source.read_bytes() + b"!")
    os.utime(source, ns=(1, stamp))


@pytest.mark.parametrize("change", [_touch, _grow])
def test_changed_source_is_decoded_again(change: Callable[[Path], None], source: Path) -> None:
    decoder = Decoder()
    cached_images([source], "img", SHAPE, decoder)
    change(source)
    cached_images([source], "img", SHAPE, decoder)
    assert decoder.calls == 2


def test_entries_of_other_files_and_columns_are_apart(source: Path) -> None:
    decoder = Decoder()
    twin = source.with_name("test.parquet")
    twin.write_bytes(source.read_bytes())
    os.utime(twin, ns=(1, source.stat().st_mtime_ns))
    for files, column in (([source], "img"), ([twin], "img"), ([source], "image"), ([source, twin], "img")):
        cached_images(files, column, SHAPE, decoder)
    assert decoder.calls == len(entries()) == 4


class Trap:
    """Says so when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


def _pickled(entry: Path) -> None:
    np.save(entry, np.array([Trap()] * MIN_IMAGES, dtype=object), allow_pickle=True)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-1]),
    "empty": lambda entry: entry.write_bytes(b""),
    "garbage": lambda entry: entry.write_bytes(b"x" * 20_000),
    "another shape": lambda entry: np.save(entry, IMAGES[:, :, :1]),
    "another type": lambda entry: np.save(entry, IMAGES.view(np.int8)),
    "claims a terabyte": lambda entry: entry.write_bytes(
        entry.read_bytes().replace(b"(5000, 1, 2, 2), }    ", b"(500000000, 1, 99, 2)}")
    ),
    "header cut short": lambda entry: entry.write_bytes(entry.read_bytes().replace(b"}", b" ", 1)),
    "header with another key": lambda entry: entry.write_bytes(
        entry.read_bytes().replace(b" 'fortran_order'", b"b'fortran_order'")
    ),
    "pickled array": _pickled,
    "pickle": lambda entry: entry.write_bytes(pickle.dumps(Trap())),
    "a folder": lambda entry: (entry.unlink(), entry.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_decoded_again(damage: str, source: Path) -> None:
    decoder = Decoder()
    cached_images([source], "img", SHAPE, decoder)
    (entry,) = entries()
    whole = entry.read_bytes()
    DAMAGES[damage](entry)
    assert entry.is_dir() or entry.read_bytes() != whole
    np.testing.assert_array_equal(cached_images([source], "img", SHAPE, decoder), IMAGES)
    assert decoder.calls == 2
    assert not Trap.sprung
    assert entry.is_dir() or entry.read_bytes() == whole  # put right, but for a folder in its place


def test_cache_that_cannot_be_written_is_no_error(
    source: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_cache / "dirprune").write_text("a file where the folder should be")
    np.testing.assert_array_equal(cached_images([source], "img", SHAPE, Decoder()), IMAGES)
    assert "not cached" in caplog.text


def test_what_others_could_have_written_is_not_read(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached_images([source], "img", SHAPE, Decoder())
    np.save(entries()[0], 255 - IMAGES)
    np.testing.assert_array_equal(cached_images([source], "img", SHAPE, Decoder()), 255 - IMAGES)
    cache_folder().chmod(0o777)
    np.testing.assert_array_equal(cached_images([source], "img", SHAPE, Decoder()), IMAGES)
    assert "not cached" in caplog.text


def test_error_while_decoding_is_passed_on(source: Path) -> None:
    def fail() -> np.ndarray:
        raise DataError("row 3")

    with pytest.raises(DataError, match="row 3"):
        cached_images([source], "img", SHAPE, fail)
    assert entries() == []


def test_small_sets_and_sets_without_files_are_not_kept(source: Path) -> None:
    cached_images([source], "img", (MIN_IMAGES - 1, 1, 2, 2), Decoder())
    cached_images([], "img", SHAPE, Decoder())
    assert entries() == []


def test_a_data_set_is_the_same_from_the_cache(
    folder: Path, spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_IMAGES", 1)
    first = load_dataset(spec.name, folder)
    monkeypatch.setattr(decode, "_pixels", lambda *_: pytest.fail("decoded again"))
    second = load_dataset(spec.name, folder)
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
