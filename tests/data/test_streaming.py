"""Streamed batches: the same pixels for any number of workers and ranks, and after a resume."""

import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from tests.image_folder import make_image_folder
from torchvision.transforms import v2

from dirprune.data import Augmentation, Framing, StreamedBatches, epoch_permutation, load_dataset
from dirprune.data.batches import seeded
from dirprune.data.encoded import FolderSource
from dirprune.errors import DataError, UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
N = 21


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset("imagenet", make_image_folder(tmp_path_factory.mktemp("images"), N, 7, classes=3))


@pytest.fixture
def batches(dataset):
    def make(batch_size=4, seed=0, workers=0, split=dataset.train, flip=True, size=16):
        normalisation = Augmentation(mean=MEAN, std=STD)
        return StreamedBatches(
            split, batch_size, seed, Framing(size, flip), normalisation, torch.device("cpu"), workers
        )

    return make


def same(a, b):
    return a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])


def test_every_image_once_in_the_order_of_the_epoch(batches, dataset):
    steps, images, labels = zip(*batches().epoch(1), strict=True)
    assert list(steps) == list(range(6)) == list(range(len(batches())))
    assert [len(part) for part in labels] == [4] * 5 + [1]
    assert torch.equal(torch.cat(labels), dataset.train.labels[epoch_permutation(N, 0, 1)])
    assert torch.cat(images).shape == (N, 3, 16, 16)


def test_pixels_are_those_of_torchvision_with_the_images_own_seed(batches, dataset):
    """The published recipe written down directly; the seed is that of the image, whatever batch it is in."""
    crop = v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.PILToTensor(),
                       v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])  # fmt: skip
    order = epoch_permutation(N, 5, 2)
    _, images, _ = next(batches(seed=5).epoch(2))
    for place in range(4):
        index = int(order[place])
        image = Image.open(dataset.train.source.name(index)).convert("RGB")
        torch.default_generator.set_state(seeded("framing", 5, 2, index).get_state())
        torch.testing.assert_close(images[place], crop(image), rtol=0, atol=1e-6)


def test_evaluation_is_the_resized_centre(batches, dataset):
    centre = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor(),
                         v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])  # fmt: skip
    parts = [list(batches().evaluation(dataset.test, 3, rank, 2)) for rank in range(2)]
    images, labels = _joined(parts)
    assert torch.equal(labels, dataset.test.labels)
    for index, shown in enumerate(images):
        image = Image.open(dataset.test.source.name(index)).convert("RGB")
        torch.testing.assert_close(shown, centre(image), rtol=0, atol=1e-6)
    assert Framing(224).evaluation(Image.new("RGB", (500, 300))).shape == (3, 224, 224)
    assert Framing(224)._transforms[1].transforms[0].size == [256]


def _joined(parts):
    """Images and labels of all ranks in the order of a single process."""
    steps = list(zip(*parts, strict=True))
    return tuple(torch.cat([rank[which] for step in steps for rank in step]) for which in (0, 1))


def test_workers_ranks_and_resumes_change_no_pixel(batches):
    whole = list(batches().epoch(3))
    assert all(map(same, whole, batches(workers=2).epoch(3)))
    assert all(map(same, whole[4:], batches(workers=1).epoch(3, start_step=4)))
    ranks = [list(batches().epoch(3, rank=rank, world_size=2)) for rank in range(2)]
    for one, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert same(one, (parts[0][0], *(torch.cat([part[i] for part in parts]) for i in (1, 2))))
    assert [len(labels) for _, _, labels in ranks[0]] == [2] * 5 + [0]  # fewer images than ranks


def test_batch_size_changes_no_pixel(batches):
    small, large = (torch.cat([images for _, images, _ in batches(size).epoch(1)]) for size in (2, 7))
    assert torch.equal(small, large)


def test_augmentation_is_fresh_in_every_epoch_and_run(batches, dataset):
    one = dataset.train.subset(torch.tensor([3, 3, 3]))
    seen = torch.cat([images for seed in (0, 1) for epoch in (1, 2)
                      for _, images, _ in batches(seed=seed, split=one).epoch(epoch)])  # fmt: skip
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen) == 12


def test_no_flip(batches):
    names = [type(step).__name__ for step in batches(flip=False).framing._transforms[0].transforms]
    assert names == ["RandomResizedCrop", "PILToTensor"]


def test_what_was_skipped_is_not_decoded(batches, monkeypatch):
    read = []
    original = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, i: read.append(i) or original(self, i))
    list(batches().epoch(1, start_step=4))
    assert sorted(read) == sorted(epoch_permutation(N, 0, 1)[16:].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(batches, workers):
    torch.manual_seed(17)
    before = torch.get_rng_state()
    list(batches(workers=workers).epoch(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_is_one_line(tmp_path, batches, workers):
    folder = make_image_folder(tmp_path, 9, 3, classes=3)
    broken = sorted((folder / "train" / "n01").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:700])
    split = load_dataset("imagenet", folder).train
    with pytest.raises(DataError) as error:
        list(batches(split=split, workers=workers).epoch(1))
    assert str(error.value).startswith(f"{broken}: the image is damaged")
    assert "\n" not in str(error.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_too_narrow_to_be_resized_is_one_line(tmp_path, batches, workers):
    """224 x 224 out of the middle would first take 256 x 25,600,000: gigabytes for a file of a kilobyte."""
    folder = make_image_folder(tmp_path, 3, 3, classes=3)
    (narrow,) = (folder / "val" / "n01").iterdir()
    Image.new("L", (1, 100_000)).save(narrow, "PNG")
    test = load_dataset("imagenet", folder).test
    with pytest.raises(DataError) as error:
        list(batches(size=224, workers=workers).evaluation(test, 3))
    assert str(error.value) == (
        f"{narrow}: the image is too narrow to be resized; it is 1 x 100000; remove it"
    )
    Image.new("L", (20, 20_000)).save(narrow, "PNG")
    assert [images.shape for images, _ in batches(size=224).evaluation(test, 3)] == [(3, 3, 224, 224)]


def test_bad_settings(batches, dataset):
    with pytest.raises(UsageError, match="batch_size should be 1 or more; it is 0"):
        batches(batch_size=0)
    with pytest.raises(UsageError, match="workers should be 0 or more; it is -1"):
        batches(workers=-1)
    with pytest.raises(UsageError, match=r"start_step should be 0\.\.6, .* it is 7"):
        next(batches().epoch(0, start_step=7))
    with pytest.raises(UsageError, match=r"rank should be 0\.\.1 for 2 processes; it is 2"):
        next(batches().epoch(0, rank=2, world_size=2))
    with pytest.raises(UsageError, match="batch_size should be 1 or more; it is 0"):
        next(batches().evaluation(dataset.test, 0))
    with pytest.raises(UsageError, match="size of images should be 1 or more pixels; it is 0"):
        Framing(0)


def test_images_are_not_all_alike(batches):
    """The folder's crops differ, so that the comparisons above can fail."""
    _, images, _ = next(batches().epoch(1))
    assert len(np.unique(images.numpy().reshape(4, -1), axis=0)) == 4
