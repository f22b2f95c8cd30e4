"""Large images from a folder of files, a folder of parquet files, or the hub."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dirprune.data.catalogue import DatasetSpec
from dirprune.data.decode import Rows, class_names, read_labels
from dirprune.data.encoded import (
    EncodedDataset,
    EncodedSplit,
    FolderSource,
    TableSource,
    fingerprint,
    labelled,
)
from dirprune.errors import DataError, first_line, from_extra

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
MAX_ROWS = 20_000_000  # fourteen times ImageNet; their labels are read at once
PARQUET_NAMES = {"train": "train*.parquet", "validation": "val*.parquet"}


def load_image_folder(folder: Path, spec: DatasetSpec) -> EncodedDataset:
    """Find the images below a folder; none is read.

    The layouts are `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG` (classes are numbered in the sorted order of
    their names), or parquet files `train*.parquet` and `val*.parquet` as the hub has them; either in
    the folder itself, in `folder/<name>`, or in `folder/data`.

    Args:
        folder: an existing folder.
        spec: what data set it is.

    Returns:
        Both splits, images encoded.

    Raises:
        DataError: neither layout is there, a class is empty, the two splits have different classes, or a
            file is not where its name leads.

    Example:
        >>> import tempfile
        >>> from dirprune.data.catalogue import DATASETS
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"):
        ...         Path(root, name).parent.mkdir(parents=True)
        ...         _ = Path(root, name).write_bytes(b"encoded")
        ...     dataset = load_image_folder(Path(root), DATASETS["imagenet"])
        >>> dataset.class_names, dataset.test.labels
        (('cat', 'dog'), tensor([0, 1]))
    """
    homes = (folder, folder / spec.name, folder / "data")
    for home in homes:
        if (home / "train").is_dir() and (home / "val").is_dir():
            try:
                return _class_folders(home)
            except OSError as error:  # a link that leads nowhere, a folder that may not be read
                raise DataError(f"{home}: the images cannot be listed: {error}") from error
        files = {split: sorted(home.glob(pattern)) for split, pattern in PARQUET_NAMES.items()}
        if all(files.values()):
            return _parquet(files, spec)
    raise DataError(
        f"no data for {spec.name} in {str(folder)!r}; expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, or "
        f"train*.parquet and val*.parquet, there or in {spec.name} or data below it"
    )


def encoded_tables(train: Rows, test: Rows, spec: DatasetSpec, tables: tuple[Any, Any]) -> EncodedDataset:
    """Describe two tables of encoded images; their labels are read and checked, the images are not.

    Args:
        train: description of the training split.
        test: description of the test split.
        spec: columns and classes to expect.
        tables: the same two as datasets.Dataset in Arrow format.

    Returns:
        Both splits, images encoded.

    Raises:
        DataError: a column is missing or of the wrong type, a split is empty, or a label is out of range.
    """
    splits, parts = [], []
    for rows, table in zip((train, test), tables, strict=True):
        rows.check(spec, MAX_ROWS)
        labels = read_labels(rows, spec)
        source = TableSource(table.select_columns([spec.image_column]), spec.image_column, rows.origin)
        splits.append(labelled(source, labels))
        parts += [labels.tobytes(), str(rows.schema), rows.count, table.data.nbytes]
    names = class_names(train.schema, spec)
    return EncodedDataset(splits[0], splits[1], spec.num_classes, names, fingerprint(parts))


@contextmanager
def quietly() -> Iterator[None]:
    """Keep HF `datasets` from drawing bars of its own, and from logging the error that it raises."""
    import datasets

    quiet = datasets.are_progress_bars_disabled()
    logger = logging.getLogger("datasets.packaged_modules.parquet")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not quiet:
            datasets.enable_progress_bars()


def table_rows(origin: str, table: Any) -> Rows:
    """Describe a datasets.Dataset in Arrow format."""
    return Rows(
        origin=origin,
        schema=table.features.arrow_schema,
        count=len(table),
        read=lambda column: table.select_columns([column])[:].column(column).chunks,
        files=tuple(Path(file["filename"]) for file in table.cache_files),
    )


def _class_folders(home: Path) -> EncodedDataset:
    """Number the classes and list the files of both splits."""
    classes = {split: _folders(home / split) for split in ("train", "val")}
    if classes["train"] != classes["val"]:
        odd = sorted(set(classes["train"]) ^ set(classes["val"]))
        where = "train" if odd[0] in classes["train"] else "val"
        raise DataError(
            f"{home}: train and val should have the same classes; {odd[0]!r} is only in {where} "
            f"({len(odd)} differ in all)"
        )
    left_out: list[str] = []
    train, train_names = _files(home / "train", classes["train"], left_out)
    test, test_names = _files(home / "val", classes["val"], left_out)
    if left_out:
        warnings.warn(
            f"{home}: left out {len(left_out)} files or folders in its classes that are no images "
            f"({', '.join(SUFFIXES)}), such as {min(left_out)}",
            stacklevel=2,
        )
    names = tuple(classes["train"])
    return EncodedDataset(train, test, len(names), names, fingerprint([names, train_names, test_names]))


def _folders(split: Path) -> list[str]:
    """Names of the classes of a split, sorted."""
    found = sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and entry.name[0] != ".")
    if not found:
        raise DataError(
            f"{split} should hold one folder for each class; it holds none: sort the images first"
        )
    return found


def _files(split: Path, classes: list[str], left_out: list[str]) -> tuple[EncodedSplit, bytes]:
    """List the images of a split in a fixed order; also returns their names and sizes, to be hashed.

    What else there is, but for hidden files, is added to `left_out`.
    """
    names: list[bytes] = []
    sizes: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with os.scandir(split / name) as entries:
            shown = [entry for entry in entries if entry.name[0] != "."]
        images = sorted((x.name, x.stat().st_size) for x in shown if x.name.lower().endswith(SUFFIXES))
        left_out += [x.path for x in shown if not x.name.lower().endswith(SUFFIXES)]
        if not images:
            raise DataError(f"{split / name} holds no image ({', '.join(SUFFIXES)}); add some or remove it")
        names += [os.fsencode(f"{name}/{image}") for image, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
    table = np.array(names)
    described = table.tobytes() + np.array(sizes, np.int64).tobytes()
    return labelled(FolderSource(split, table), np.array(labels, np.int64)), described


def _parquet(files: dict[str, list[Path]], spec: DatasetSpec) -> EncodedDataset:
    """Open parquet files through HF `datasets`, which copies them once into files that can be mapped."""
    with from_extra("train", "a data set in parquet files"):
        import datasets

    tables = []
    for split, paths in files.items():
        try:
            with quietly():
                table = datasets.Dataset.from_parquet([str(path) for path in paths], split=split)
        except Exception as error:  # errors of several libraries on damaged files
            raise DataError(
                f"{paths[0].parent}: the {split} files cannot be read as parquet ({first_line(error)}); "
                "fetch them again"
            ) from error
        tables.append(table.with_format("arrow"))
    described = [table_rows(str(paths[0].parent / split), table)
                 for (split, paths), table in zip(files.items(), tables, strict=True)]  # fmt: skip
    return encoded_tables(described[0], described[1], spec, (tables[0], tables[1]))
