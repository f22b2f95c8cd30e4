"""The table of data sets, as the hub has them."""

from dirprune.data import DATASETS


def test_data_sets() -> None:
    rows = {
        name: (spec.hub_name, spec.image_column, spec.label_column, spec.num_classes, spec.image_shape)
        for name, spec in DATASETS.items()
    }
    assert rows == {
        "digits": (None, "image", "label", 10, (1, 8, 8)),
        "fashion_mnist": ("zalando-datasets/fashion_mnist", "image", "label", 10, (1, 28, 28)),
        "cifar10": ("uoft-cs/cifar10", "img", "label", 10, (3, 32, 32)),
        "cifar100": ("uoft-cs/cifar100", "img", "fine_label", 100, (3, 32, 32)),
        "imagenet": ("ILSVRC/imagenet-1k", "image", "label", 1000, (3, 224, 224)),
    }
    assert {name: spec.counts for name, spec in DATASETS.items()} == {
        "digits": (1437, 360),
        "fashion_mnist": (60_000, 10_000),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "imagenet": (1_281_167, 50_000),
    }
    assert [name for name, spec in DATASETS.items() if spec.streamed] == ["imagenet"]
    assert all(spec.name == name for name, spec in DATASETS.items())
