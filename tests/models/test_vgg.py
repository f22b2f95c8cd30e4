"""VGG16 against the paper's description."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dirprune.models import create_model

PLAN = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("vgg16", num_classes=10).eval()


def test_convolutions_start_as_the_paper_says(model: nn.Module) -> None:
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [step for step in PLAN if step != "M"]
    for conv in convs:
        weights = conv.weight.detach().double()
        expected = 2 / (3 * 3 * conv.out_channels)
        n = weights.numel()
        assert abs(weights.var().item() / expected - 1) < 5 * (2 / n) ** 0.5
        assert abs(weights.mean().item()) < 5 * (expected / n) ** 0.5
        fourth = weights.pow(4).mean().item() / expected**2  # 3 for a normal, 1.8 for a uniform distribution
        assert abs(fourth - 3) < 5 * (96 / n) ** 0.5
        assert conv.bias is not None
        assert conv.bias.abs().max() == 0


def test_linear_layers_start_as_pytorch_starts_them(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert 0.98 * bound < module.weight.abs().max() <= bound
            assert 0 < module.bias.abs().max() <= bound


def test_forward_in_words(model: nn.Module) -> None:
    tensors = iter(model.parameters())
    x = torch.randn(2, 3, 32, 32)
    y = x
    for step in PLAN:
        if step == "M":
            y = functional.max_pool2d(y, 2)
        else:
            y = torch.relu(functional.conv2d(y, next(tensors), next(tensors), padding=1))
    y = y.reshape(2, 512)
    y = torch.relu(functional.linear(y, next(tensors), next(tensors)))
    y = torch.relu(functional.linear(y, next(tensors), next(tensors)))
    y = functional.linear(y, next(tensors), next(tensors))
    assert next(tensors, None) is None
    torch.testing.assert_close(model(x), y)


def test_dropout_stands_before_both_hidden_layers(model: nn.Module) -> None:
    kinds = [type(module) for module in model.get_submodule("classifier").children()]
    hidden = [nn.Dropout, nn.Linear, nn.ReLU]
    assert kinds == [*hidden, *hidden, nn.Linear]
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.5}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
