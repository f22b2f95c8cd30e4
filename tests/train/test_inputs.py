"""Settings that do not suit the data are refused in one line; `validation` divides both kinds of data."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from dirprune.data import load_dataset
from dirprune.errors import DataError, UsageError
from dirprune.runs import RunFolder
from dirprune.train import Execution, TrainConfig, Trainer
from dirprune.train.inputs import make_inputs
from tests.image_folder import make_image_folder

CONFIG = TrainConfig(recipe="test", dataset="imagenet", model="lenet5", image_size=20, batch_size=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset("imagenet", make_image_folder(tmp_path_factory.mktemp("images"), 24, 12))


def test_images_are_brought_to_the_size_that_is_asked_for(dataset):
    inputs = make_inputs(CONFIG, dataset, CPU, Execution(workers=0, accumulation=3))
    assert inputs.shape == (3, 20, 20)
    assert (inputs.images, inputs.num_classes, inputs.evaluation_size) == (24, 12, 3)
    _, images, _ = next(inputs.training.epoch(1))
    assert images.shape == (8, 3, 20, 20)
    assert make_inputs(replace(CONFIG, image_size=None), dataset, CPU, Execution()).shape == (3, 224, 224)


def test_validation_is_held_back_from_the_training_images(dataset):
    inputs = make_inputs(replace(CONFIG, validation=0.25), dataset, CPU, Execution(workers=0))
    trained, held = inputs.training.split.rows.tolist(), inputs.evaluated.rows.tolist()
    assert sorted(trained + held) == list(range(24))
    assert len(held) == 6
    assert inputs.evaluated.source is dataset.train.source
    with pytest.raises(DataError, match="`validation`"):
        make_inputs(replace(CONFIG, validation=1e-6), dataset, CPU, Execution())


def test_all_runs_hold_back_the_same_images():
    """Answers are paired image by image, over seeds and methods."""
    digits = load_dataset("digits")
    config = replace(CONFIG, dataset="digits", image_size=None, validation=0.2)
    one, other = (
        make_inputs(replace(config, seed=seed).with_method(method), digits, CPU, Execution())
        for seed, method in ((0, "sgd"), (5, "grda"))
    )
    assert len(one.evaluated.images) == round(0.2 * len(digits.train))
    assert torch.equal(one.evaluated.images, other.evaluated.images)
    assert torch.equal(one.training.split.images, other.training.split.images)


def test_settings_that_do_not_suit(dataset):
    with pytest.raises(UsageError, match="`crop_padding` does not apply to imagenet"):
        make_inputs(replace(CONFIG, crop_padding=4), dataset, CPU, Execution())
    with pytest.raises(DataError, match="images of 8 x 8 pixels cannot be averaged down to 20 x 20"):
        make_inputs(replace(CONFIG, dataset="digits"), load_dataset("digits"), CPU, Execution())
    with pytest.raises(UsageError, match="`image_size` must be >= 1, got 0"):
        replace(CONFIG, image_size=0)
    with pytest.raises(UsageError, match="`accumulation` must be >= 1, got 0"):
        Execution(accumulation=0)
    with pytest.raises(UsageError, match="`workers` must be >= 0, got -1"):
        Execution(workers=-1)


def test_data_that_cannot_be_trained_on_are_refused_before_anything_is():
    digits = load_dataset("digits")
    config = TrainConfig(recipe="test", dataset="digits", model="lenet5")
    empty = replace(digits, test=digits.test.subset(torch.arange(0)))
    with pytest.raises(DataError, match="the test images of digits are none"):
        make_inputs(config, empty, CPU, Execution())
    with pytest.raises(
        DataError, match="the training labels of digits should be 0 to 8, as it has 9 classes"
    ):
        make_inputs(config, replace(digits, num_classes=9), CPU, Execution())


@pytest.mark.parametrize(
    ("images", "batch", "processes", "accumulation", "least"),
    [
        (8, 4, 1, 1, 4),
        (9, 4, 1, 1, 1),
        (9, 16, 1, 1, 9),
        (10, 4, 2, 1, 1),
        (12, 4, 1, 3, 1),
        (11, 8, 2, 1, 1),
    ],
)
def test_how_few_images_are_taken_at_once(images, batch, processes, accumulation, least):
    execution = Execution(accumulation=accumulation)
    assert execution.least_at_once(images, batch, processes) == least


@pytest.mark.parametrize(("batch", "refused"), [(23, True), (22, False)])
def test_a_single_image_that_batchnorm_cannot_take_is_refused_at_once(dataset, tmp_path, batch, refused):
    """At 32 pixels the last maps of ResNet50 are of one pixel."""
    config = replace(CONFIG, model="resnet50", image_size=32, batch_size=batch)
    told = pytest.raises(UsageError, match="of 24 images one would be alone in a part of a batch")
    with told if refused else nullcontext():
        Trainer(config, dataset, RunFolder(tmp_path), execution=Execution(workers=0))


def test_parts_of_a_batch_are_as_many_in_every_process():
    execution = Execution(accumulation=4)
    assert [execution.micro_batches(images, 2) for images in (1, 2, 3, 7, 8, 100)] == [1, 1, 2, 4, 4, 4]
