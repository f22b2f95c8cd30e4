"""The registry, the parameter counts of the papers, and the small networks."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from dirprune.errors import UsageError
from dirprune.models import MODELS, create_model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "in_channels", "image_size", "count"),
    [
        ("vgg16", 10, 3, 32, 15_245_130),
        ("wrn28x10", 10, 3, 32, 36_489_290),
        ("wrn28x10", 100, 3, 32, 36_546_980),
        ("resnet50", 1000, 3, 224, 25_557_032),
        ("lenet5", 10, 1, 28, 431_080),
        ("lenet-300-100", 10, 1, 28, 266_610),
        # patches and class token, positions, blocks of attention and two layers, norms, classes
        (
            "vit2x64p7",
            10,
            1,
            28,
            (64 * 49 + 64 + 64)
            + 17 * 64
            + 2 * (4 * (64 * 64 + 64) + 64 * 256 + 256 + 256 * 64 + 64 + 4 * 64)
            + (2 * 64 + 64 * 10 + 10),
        ),
        ("lenet-300-100", 10, 1, 8, 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
    ],
)
def test_parameter_counts(name: str, num_classes: int, in_channels: int, image_size: int, count: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    assert parameters(model) == count
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [*MODELS, "wrn10x2", "wrn40x1"])
@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("image_size", [32, 45])
def test_output_shape(name: str, num_classes: int, image_size: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes, image_size=image_size)
        assert model(torch.zeros(4, 3, image_size, image_size)).shape == (4, num_classes)


def sizes(model: nn.Module) -> list[int]:
    """Outputs of every convolution and linear layer."""
    return [len(module.weight) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet5", "vgg16", "wrn16x4", "wrn28x10"])
@pytest.mark.parametrize("width", [0.25, 0.3, 2.0])
def test_width_scales_every_layer_but_the_last(name: str, width: float) -> None:
    with torch.device("meta"):
        *hidden, last = sizes(create_model(name, num_classes=10))
        scaled = create_model(name, num_classes=10, width=width)
        assert sizes(scaled) == [*(round(size * width) for size in hidden), last]
        assert scaled(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet5", "vgg16", "wrn16x4"])
def test_no_layer_vanishes(name: str) -> None:
    model = create_model(name, num_classes=10, width=1e-6)
    assert set(sizes(model)) == {1, 10}
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_fresh_weights_follow_the_global_seed() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(create_model("lenet5", num_classes=10))
    first, second, third = (nn.utils.parameters_to_vector(model.parameters()) for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_lenet5_in_words() -> None:
    model = create_model("lenet5", num_classes=7, in_channels=1, image_size=28)
    w1, b1, w2, b2, w3, b3, w4, b4 = model.parameters()
    assert (w1.shape, w2.shape, w3.shape) == ((20, 1, 5, 5), (50, 20, 5, 5), (500, 800))
    x = torch.randn(3, 1, 28, 28)
    y = functional.max_pool2d(functional.conv2d(x, w1, b1), 2)
    y = functional.max_pool2d(functional.conv2d(y, w2, b2), 2)
    y = torch.relu(y.reshape(3, 800) @ w3.T + b3) @ w4.T + b4
    torch.testing.assert_close(model(x), y)


def test_lenet_300_100_in_words() -> None:
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    w1, b1, w2, b2, w3, b3 = model.parameters()
    x = torch.randn(5, 1, 8, 8)
    y = torch.relu(torch.relu(x.reshape(5, 64) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(model(x), y)


def test_resnet50_is_torchvisions_without_pretrained_weights() -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    ours = create_model("resnet50", num_classes=4, image_size=64).eval()
    torch.manual_seed(0)
    theirs = resnet50(num_classes=4).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vgg61", {}, "unknown network 'vgg61'; did you mean 'vgg16'\\? known: lenet-300-100, lenet5, "),
        ("transformer", {}, "unknown network 'transformer'; known: "),
        ("wrn28-10", {}, "did you mean 'wrn28x10'"),
        ("wrn28x", {}, "did you mean 'wrn28x10'"),
        ("wrn27x10", {}, r"depth 10, 16, 22, 28, \.\.\. .* it is wrn27x10"),
        ("wrn4x1", {}, "it is wrn4x1"),
        ("wrn16x0", {}, "it is wrn16x0"),
        ("vgg16", {"image_size": 31}, "vgg16 needs images of 32 pixels or more; they have 31"),
        ("lenet5", {"image_size": 15}, "lenet5 needs images of 16 pixels or more; they have 15"),
        ("resnet50", {"in_channels": 1}, "resnet50 needs images of 3 channels"),
        ("resnet50", {"image_size": 28}, "and 28 pixels"),
        ("resnet50", {"width": 0.5}, "width is 0.5"),
        ("vgg16", {"num_classes": 0}, "num_classes should be 1 or more; it is 0"),
        ("vgg16", {"in_channels": 0}, "in_channels should be 1 or more; it is 0"),
        ("vgg16", {"image_size": -1}, "image_size should be 1 or more; it is -1"),
        ("vgg16", {"width": 0.0}, "width should be a positive number; it is 0.0"),
        ("vgg16", {"width": math.nan}, "width should be a positive number; it is nan"),
        ("vgg16", {"width": math.inf}, "width should be a positive number; it is inf"),
    ],
)
def test_bad_requests(name: str, change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        create_model(name, **{"num_classes": 10, **change})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_smallest_images() -> None:
    assert create_model("lenet5", num_classes=10, image_size=16)(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


def test_resnet50_without_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UsageError, match=r"pip install 'directional-pruning\[train\]'"):
        create_model("resnet50", num_classes=4, image_size=64)
