"""Load a data set by name: embedded in a package, from a local folder, or from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dirprune.data.catalogue import DatasetSpec, ImageDataset, Split, find_spec
from dirprune.data.decode import class_names, decode_split, parquet_rows
from dirprune.data.encoded import EncodedDataset
from dirprune.data.image_folder import encoded_tables, load_image_folder, quietly, table_rows
from dirprune.errors import DataError, first_line, from_extra

DIGITS_TEST = 360  # of 1,797; the rest, 1,437, are for training


def load_dataset(name: str, source: str | os.PathLike[str] | None = None) -> ImageDataset | EncodedDataset:
    """Load both splits of a known data set: into memory, or, where they are too large for it, encoded.

    `digits` are scikit-learn's 8 x 8 grey images, their values 0..16 scaled to 0..255, split once and for all
    into 1,437 training and 360 test images: stratified by class, with a fixed seed.

    Args:
        name: a key of `DATASETS`.
        source: an existing folder that holds `<name>/train.parquet` and `<name>/test.parquet`, or those two
            files directly (for streamed data sets what `load_image_folder` says); or a hub name `owner/name`
            to download; None downloads the set's own hub name.

    Returns:
        The data set, decoded unless its specification says streamed.

    Raises:
        DataError: the name is unknown, or the source is missing, damaged, or not of the data set's form.
        MissingPackageError: a package that reads it is not installed.

    Example:
        >>> digits = load_dataset("digits")
        >>> digits.train.images.shape, len(digits.test)
        (torch.Size([1437, 1, 8, 8]), 360)
    """
    spec = find_spec(name)
    folder = local_folder(name, source)
    if spec.hub_name is None:
        return _digits(spec)
    if folder is not None:
        if spec.streamed:
            return load_image_folder(folder, spec)
        train, test = (parquet_rows(path) for path in _parquet_paths(folder, name))
    else:
        hub_name = spec.hub_name if source is None else str(source)
        splits = ("train", "validation" if spec.streamed else "test")
        tables = _hub_tables(spec, hub_name, splits)
        train, test = (
            table_rows(f"{hub_name} ({split})", table) for split, table in zip(splits, tables, strict=True)
        )
        if spec.streamed:
            return encoded_tables(train, test, spec, tables)
    names = class_names(train.schema, spec)
    return ImageDataset(decode_split(train, spec), decode_split(test, spec), spec.num_classes, names)


def local_folder(name: str, source: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder that a data set is read from; None if it is embedded or comes from the hub.

    Args:
        name: a key of `DATASETS`.
        source: as :func:`load_dataset` takes it.

    Raises:
        DataError: the name is unknown, or the source is neither a folder nor like a hub name.

    Example:
        >>> local_folder("cifar10", "uoft-cs/cifar10")
    """
    if source is None:
        return None
    if find_spec(name).hub_name is None:
        raise DataError(
            f"{name} comes with scikit-learn and takes no data folder; leave out {os.fspath(source)!r}"
        )
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 - never raises
    if folder.exists():
        return folder
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        return None
    raise DataError(
        f"data folder {os.fspath(source)!r} does not exist; give a folder or a hub name owner/name"
    )


def _parquet_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Find the two files of a data set in the folder that the user gave."""
    homes = (folder / name, folder)
    for home in homes:
        train, test = home / "train.parquet", home / "test.parquet"
        if train.is_file() and test.is_file():
            return train, test
        if train.is_file() or test.is_file():
            raise DataError(
                f"{name} needs train.parquet and test.parquet; missing: {test if train.is_file() else train}"
            )
    looked = " and ".join(str(home / "train.parquet") for home in homes)
    raise DataError(f"no data for {name} in {str(folder)!r}; looked for {looked}")


def _hub_tables(spec: DatasetSpec, hub_name: str, splits: tuple[str, str]) -> tuple[Any, Any]:
    """Download a data set through HF `datasets`, which keeps its own copy for the next time."""
    with from_extra("train", "a data set of the hub"):
        import datasets

    wanted = (
        "train/CLASS/*.JPEG and val/CLASS/*.JPEG"
        if spec.streamed
        else (f"{spec.name}/train.parquet and {spec.name}/test.parquet")
    )
    try:
        with quietly():
            found = datasets.load_dataset(hub_name)
    except Exception as error:  # network, hub, disk and format errors of several libraries
        raise DataError(
            f"{hub_name!r} is no local folder, and as a hub data set it could not be downloaded "
            f"({first_line(error)}); give a folder (`data_dir`) that holds {wanted}"
        ) from error
    for split in splits:
        if split not in found:
            raise DataError(
                f"hub data set {hub_name!r} should have a split {split!r}; it has: {', '.join(found)}"
            )
    train, test = (found[split].with_format("arrow") for split in splits)
    return train, test


def _digits(spec: DatasetSpec) -> ImageDataset:
    """Take scikit-learn's digits, scaled from 0..16 to 0..255, with the fixed split."""
    with from_extra("train", spec.name, "scikit-learn"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST, stratify=bunch.target, random_state=0
    )
    return ImageDataset(
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        num_classes=spec.num_classes,
        class_names=tuple(str(name) for name in bunch.target_names),
    )
