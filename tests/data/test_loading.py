"""Data sets by name: scikit-learn's digits, local folders, and the hub (substituted)."""

import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from image_sets import COUNTS, make_split
from sklearn.datasets import load_digits

from dirprune.data import DATASETS, DatasetSpec, ImageDataset, load_dataset
from dirprune.errors import DataError


def assert_is(found: ImageDataset, spec: DatasetSpec) -> None:
    for split in COUNTS:
        pixels, labels, _ = make_split(spec, split)
        got = getattr(found, split)
        assert got.images.dtype == torch.uint8
        assert got.labels.dtype == torch.int64
        np.testing.assert_array_equal(got.images.numpy(), pixels)
        np.testing.assert_array_equal(got.labels.numpy(), labels)
    assert found.num_classes == spec.num_classes
    assert found.image_shape == spec.image_shape


def error_of(*args: object) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(*args)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_are_those_of_scikit_learn_each_once() -> None:
    digits, bunch = load_dataset("digits"), load_digits()
    images = torch.cat([digits.train.images, digits.test.images])
    labels = torch.cat([digits.train.labels, digits.test.labels])
    assert (len(digits.train), len(digits.test), digits.num_classes) == (1437, 360, 10)
    assert digits.image_shape == (1, 8, 8)
    assert digits.class_names == tuple("0123456789")
    back = np.rint(images[:, 0].numpy() / 255 * 16)
    ours = sorted((label, *pixels.ravel()) for label, pixels in zip(labels.tolist(), back, strict=True))
    theirs = sorted(
        (label, *pixels.ravel()) for label, pixels in zip(bunch.target, bunch.images, strict=True)
    )
    assert ours == theirs
    assert images.max() == 255


def test_digits_split_is_stratified_and_fixed() -> None:
    digits = load_dataset("digits")
    share = digits.test.labels.bincount() / (digits.test.labels.bincount() + digits.train.labels.bincount())
    assert share.sub(360 / 1797).abs().max() < 0.006  # one image of a class of 180
    assert zlib.crc32(digits.test.images.numpy().tobytes()) == 2_422_666_898


def test_folder_with_a_folder_per_data_set(folder: Path, spec: DatasetSpec) -> None:
    found = load_dataset(spec.name, folder)
    assert_is(found, spec)
    assert found.class_names == tuple(f"class {i}" for i in range(spec.num_classes))


def test_folder_with_the_files_themselves(folder: Path, spec: DatasetSpec) -> None:
    assert_is(load_dataset(spec.name, str(folder / spec.name)), spec)


def test_home_is_expanded(folder: Path, spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert_is(load_dataset(spec.name, "~"), spec)


@pytest.mark.parametrize("source", [None, "someone/a-copy.of_it"])
def test_hub(
    source: str | None, hub: datasets.DatasetDict, spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str) -> datasets.DatasetDict:
        asked.append((name, datasets.are_progress_bars_disabled()))
        return hub

    monkeypatch.setattr(datasets, "load_dataset", download)
    found = load_dataset(spec.name, source)
    assert_is(found, spec)
    assert found.class_names[-1] == f"class {spec.num_classes - 1}"
    assert asked == [(source or spec.hub_name, True)]
    assert not datasets.are_progress_bars_disabled()


def test_hub_data_set_in_files_is_read_like_one_in_memory(
    folder: Path, spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {split: str(folder / spec.name / f"{split}.parquet") for split in COUNTS}
    downloaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    monkeypatch.setattr(datasets, "load_dataset", lambda _: downloaded)
    assert_is(load_dataset(spec.name), spec)


def test_failing_download_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ConnectionError("no route to host\nTraceback: ...")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = error_of("cifar10")
    for part in (
        "uoft-cs/cifar10",
        "ConnectionError: no route to host",
        "`data_dir`",
        "cifar10/train.parquet",
    ):
        assert part in message
    assert not datasets.are_progress_bars_disabled()


def test_hub_data_set_without_a_test_split(
    hub: datasets.DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub["test"]
    monkeypatch.setattr(datasets, "load_dataset", lambda _: hub)
    message = error_of("cifar10")
    assert "'test'" in message
    assert "it has: train" in message


def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail(f"asked the hub for {name}"))
    assert "did you mean 'cifar10'? known: cifar10, cifar100, digits, fashion_mnist" in error_of("cifer10")
    for foreign in ("speech", "weather"):
        assert error_of(foreign).startswith(f"unknown data set '{foreign}'; known: ")


def test_digits_take_no_source(tmp_path: Path) -> None:
    assert "takes no data folder" in error_of("digits", tmp_path)


@pytest.mark.parametrize("source", ["/no/such/folder", "nowhere", "../data/sets", "~nobody-here"])
def test_folder_that_does_not_exist(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail(f"asked the hub for {name}"))
    message = error_of("cifar10", source)
    assert f"{source!r} does not exist" in message


def test_folder_without_the_files(tmp_path: Path) -> None:
    message = error_of("cifar10", tmp_path)
    assert str(tmp_path / "cifar10" / "train.parquet") in message
    assert str(tmp_path / "train.parquet") in message


@pytest.mark.parametrize("missing", ["train", "test"])
def test_folder_with_one_file_of_two(missing: str, folder: Path, spec: DatasetSpec) -> None:
    path = folder / spec.name / f"{missing}.parquet"
    path.unlink()
    assert f"missing: {path}" in error_of(spec.name, folder)


def test_another_data_set_in_the_folder_is_told_by_its_columns(folder: Path, spec: DatasetSpec) -> None:
    other = "fashion_mnist" if spec.name != "fashion_mnist" else "cifar100"
    message = error_of(other, folder / spec.name)
    assert f"{DATASETS[other].image_column!r}" in message or f"{DATASETS[other].label_column!r}" in message
    assert f"it has: {spec.image_column}, {spec.label_column}, other" in message
