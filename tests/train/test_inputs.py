"""Settings that do not suit the data are refused in one line; `validation` divides both kinds of data."""

from dataclasses import replace

import pytest
import torch

from dirprune.data import load_dataset
from dirprune.errors import DataError, UsageError
from dirprune.train import Execution, TrainConfig
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


def test_parts_of_a_batch_are_as_many_in_every_process():
    execution = Execution(accumulation=4)
    assert [execution.micro_batches(images, 2) for images in (1, 2, 3, 7, 8, 100)] == [1, 1, 2, 4, 4, 4]
