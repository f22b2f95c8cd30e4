"""Batched augmentation against torchvision, image by image."""

import math

import pytest
import torch
from image_sets import OneDevice
from scipy.stats import chisquare
from torchvision.transforms import functional as oracle

from dirprune.data import Augmentation
from dirprune.errors import UsageError

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


def images_like(shape: tuple[int, int, int], count: int = 40) -> torch.Tensor:
    return torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 5, 9)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_training_batch_is_torchvisions(shape: tuple[int, int, int], flip: bool, padding: int) -> None:
    channels, height, width = shape
    mean, std = CIFAR["mean"][:channels], CIFAR["std"][:channels]
    augmentation = Augmentation(padding, flip, mean, std)
    images = images_like(shape)
    choices = augmentation.draw(len(images), torch.Generator().manual_seed(2))
    expected = []
    for image, (top, left, mirrored) in zip(images, choices.tolist(), strict=True):
        image = oracle.crop(oracle.pad(image, [padding]), top, left, height, width)
        image = oracle.hflip(image) if mirrored else image
        expected.append(oracle.normalize(oracle.convert_image_dtype(image), list(mean), list(std)))
    got = augmentation.training_batch(images, torch.Generator().manual_seed(2))
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=2e-6)
    assert got.is_contiguous()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_evaluation_batch_is_torchvisions(shape: tuple[int, int, int]) -> None:
    mean, std = (0.3,), (0.2,)  # one value stands for every channel
    images = images_like(shape)
    expected = oracle.normalize(oracle.convert_image_dtype(images), list(mean), list(std))
    got = Augmentation(4, True, mean, std).evaluation_batch(images)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


def test_choices_are_uniform_and_independent() -> None:
    choices = Augmentation(crop_padding=4, flip=True).draw(40_000, torch.Generator().manual_seed(3))
    assert choices.min(0).values.tolist() == [0, 0, 0]
    assert choices.max(0).values.tolist() == [8, 8, 1]
    cell = (choices[:, 0] * 9 + choices[:, 1]) * 2 + choices[:, 2]
    assert chisquare(cell.bincount(minlength=162).numpy()).pvalue > 1e-3


def test_without_flip_none_is_flipped() -> None:
    assert Augmentation(crop_padding=4).draw(1000, torch.Generator().manual_seed(0))[:, 2].sum() == 0


def test_the_generator_is_the_only_source_of_chance() -> None:
    augmentation, images = Augmentation(4, True), images_like((3, 32, 32))
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first = augmentation.training_batch(images, generator)
    second = augmentation.training_batch(images, generator)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, second)
    assert torch.equal(first, augmentation.training_batch(images, generator.manual_seed(5)))


def test_images_stay_as_they_were() -> None:
    images = images_like((3, 32, 32))
    kept = images.clone()
    for augmentation in (Augmentation(), Augmentation(4, True)):
        augmentation.training_batch(images, torch.Generator())
    assert torch.equal(images, kept)


def test_images_on_another_device() -> None:
    images = images_like((3, 32, 32)).to("meta")
    with OneDevice():
        training = Augmentation(4, True, **CIFAR).training_batch(images, torch.Generator())
        evaluation = Augmentation(**CIFAR).evaluation_batch(images)
    for batch in (training, evaluation):
        assert batch.device.type == "meta"
        assert batch.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_padding": -1}, "crop_padding should be 0 or more pixels; it is -1"),
        ({"mean": (0.5, 0.5)}, "of one length"),
        ({"mean": (), "std": ()}, "of one length, at least 1"),
        ({"std": (0.0,)}, "std positive"),
        ({"std": (-1.0,)}, "std positive"),
        ({"std": (math.nan,)}, "finite"),
        ({"mean": (math.inf,)}, "finite"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Augmentation(**arguments)  # type: ignore[arg-type]


def test_bad_images() -> None:
    with pytest.raises(UsageError, match=r"should be uint8; they are torch\.float32"):
        Augmentation().evaluation_batch(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match="images have 1 channels; mean and std have 3"):
        Augmentation(**CIFAR).evaluation_batch(images_like((1, 8, 8)))
