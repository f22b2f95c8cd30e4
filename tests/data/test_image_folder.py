"""Large images in folders and tables: classes, order, digest; the first thing wrong is named."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.image_folder import crop, jpeg, make_image_folder

from dirprune.data import load_dataset
from dirprune.data.encoded import MAX_PIXELS
from dirprune.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return make_image_folder(tmp_path / "images", train=10, val=4, classes=3)


def test_classes_are_sorted_folders_and_both_splits_number_them_alike(folder):
    dataset = load_dataset("imagenet", folder)
    assert dataset.class_names == ("n00", "n01", "n02")
    assert dataset.num_classes == 3
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    for split, name in ((dataset.train, "train"), (dataset.test, "val")):
        paths = sorted((folder / name).rglob("*.*"))
        assert [split.source.name(i) for i in range(len(split))] == [str(path) for path in paths]
        for index, path in enumerate(paths):
            assert int(path.parent.name[1:]) == split.labels[index]
            np.testing.assert_array_equal(split.image(index), Image.open(path).convert("RGB"))


def test_folder_may_hold_the_data_sets_folder(folder):
    (folder.parent / "all").mkdir()
    folder.rename(folder.parent / "all" / "imagenet")
    assert len(load_dataset("imagenet", folder.parent / "all").train) == 10


def test_digest_follows_names_and_sizes(folder):
    before = load_dataset("imagenet", folder).digest
    assert load_dataset("imagenet", folder).digest == before
    image = next((folder / "val" / "n01").iterdir())
    image.write_bytes(image.read_bytes() + b" ")
    longer = load_dataset("imagenet", folder).digest
    image.rename(image.with_name("zz.JPEG"))
    renamed = load_dataset("imagenet", folder).digest
    assert len({before, longer, renamed}) == 3


def test_what_is_no_image_is_left_out(folder):
    for name in ("train/n00/.hidden.JPEG", "train/readme"):
        (folder / name).touch()
    assert len(load_dataset("imagenet", folder).train) == 10
    (folder / "train" / "n01" / "scan.bmp").touch()
    (folder / "val" / "n00" / "more").mkdir()
    with pytest.warns(UserWarning, match=r"left out 2 files or folders .*, such as .*/train/n01/scan\.bmp"):
        assert len(load_dataset("imagenet", folder).train) == 10


def remove_class(folder):
    for path in (folder / "val" / "n01").iterdir():
        path.unlink()
    (folder / "val" / "n01").rmdir()


def empty_class(folder):
    for path in (folder / "train" / "n02").iterdir():
        path.unlink()


def flat(folder):
    (folder / "val").rename(folder / "sorted")
    (folder / "val").mkdir()
    (folder / "val" / "ILSVRC2012_val_00000001.JPEG").touch()


def link_to_nowhere(folder):
    (folder / "train" / "n01" / "more.JPEG").symlink_to(folder / "gone.JPEG")


def nothing(folder):
    (folder / "val").rename(folder / "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_class, r"same classes; 'n01' is only in train \(1 differ in all\)"),
        (empty_class, "n02 holds no image"),
        (flat, "val should hold one folder for each class"),
        (link_to_nowhere, "images: the images cannot be listed: .*No such file .*more.JPEG"),
        (nothing, r"expected train/CLASS/\*\.JPEG and val/CLASS/\*\.JPEG"),
    ],
)
def test_wrong_layouts(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message) as error:
        load_dataset("imagenet", folder)
    assert "\n" not in str(error.value)


def bomb():
    file = io.BytesIO()
    Image.new("1", (10_000, MAX_PIXELS // 10_000 + 1)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not"),
        (b"GIF89a" + bytes(100), "damaged or not"),
        (jpeg(crop(0, np.random.default_rng(0)))[:900], "truncated"),
        (bomb(), "at most 89,478,485 pixels; it is 10000 x 8948"),
    ],
    ids=["empty", "gif", "truncated", "bomb"],
)
def test_damaged_image_is_named(folder, content, message):
    path = sorted((folder / "train" / "n01").iterdir())[0]
    path.write_bytes(content)
    split = load_dataset("imagenet", folder).train
    with pytest.raises(DataError, match=message) as error:
        split.image(4)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_greyscale_of_sixteen_bits_keeps_its_shades(folder):
    """Pillow's own conversion clips it to white."""
    shades = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    path = sorted((folder / "train").rglob("*.*"))[0]
    Image.fromarray(shades).save(path, "PNG")
    split = load_dataset("imagenet", folder).train
    image = np.asarray(split.image(0))
    assert image.shape == (256, 256, 3)
    np.testing.assert_array_equal(image, np.repeat((shades // 256)[..., None], 3, axis=2))


def test_vanished_image_is_named(folder):
    split = load_dataset("imagenet", folder).train
    Path(split.source.name(2)).unlink()
    with pytest.raises(DataError, match=r"0006.JPEG: FileNotFoundError"):
        split.image(2)


@pytest.fixture
def tables():
    """What the hub would give."""
    generator = np.random.default_rng(0)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[f"class {i}" for i in range(1000)])
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [{"bytes": jpeg(crop(i, generator)), "path": None} for i in range(count)],
                    "label": [3 * i for i in range(count)],
                },
                features=features,
            )
            for split, count in (("train", 7), ("validation", 3))
        }
    )


def check_tables(dataset, tables):
    assert (dataset.num_classes, dataset.class_names[999]) == (1000, "class 999")
    assert dataset.train.labels.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert dataset.test.labels.tolist() == [0, 3, 6]
    for split, rows in ((dataset.train, tables["train"]), (dataset.test, tables["validation"])):
        for index, row in enumerate(rows):
            np.testing.assert_array_equal(split.image(index), row["image"].convert("RGB"))


def test_hub(tables, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", {"ILSVRC/imagenet-1k": tables}.__getitem__)
    check_tables(load_dataset("imagenet"), tables)
    del tables["validation"]
    with pytest.raises(DataError, match="should have a split 'validation'"):
        load_dataset("imagenet", "ILSVRC/imagenet-1k")


def test_parquet(tables, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for split, name in (("train", "train-0000{}-of-00002"), ("validation", "validation-0000{}-of-00001")):
        shards = 2 if split == "train" else 1
        for shard in range(shards):
            rows = tables[split].shard(shards, shard, contiguous=True)
            rows.to_parquet(tmp_path / "data" / f"{name.format(shard)}.parquet")
    dataset = load_dataset("imagenet", tmp_path)
    check_tables(dataset, tables)
    assert load_dataset("imagenet", tmp_path).digest == dataset.digest

    (tmp_path / "data" / "validation-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="validation files cannot be read as parquet") as error:
        load_dataset("imagenet", tmp_path)
    assert "\n" not in str(error.value)
    assert caplog.text == ""  # the error is all that is said


@pytest.mark.parametrize("images", [[1, 2], [b"GIF89a", b"x"], [{"path": "1.png"}, {"path": "2.png"}]])
def test_images_stored_in_another_way_are_refused_before_training(tables, monkeypatch, images):
    tables["validation"] = datasets.Dataset.from_dict({"image": images, "label": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", {"ILSVRC/imagenet-1k": tables}.__getitem__)
    with pytest.raises(DataError, match=r"\(validation\): column 'image' should hold images as HF .* it is "):
        load_dataset("imagenet")


def test_missing_bytes_name_the_row(tables, monkeypatch):
    tables["train"] = datasets.Dataset.from_dict(
        {"image": [None, None], "label": [0, 1]},
        features=datasets.Features(image=datasets.Image(), label=datasets.Value("int64")),
    )
    monkeypatch.setattr(datasets, "load_dataset", {"ILSVRC/imagenet-1k": tables}.__getitem__)
    split = load_dataset("imagenet").train
    with pytest.raises(DataError, match=r"ILSVRC/imagenet-1k \(train\): row 1: there are no image bytes"):
        split.subset(torch.tensor([1])).image(0)
