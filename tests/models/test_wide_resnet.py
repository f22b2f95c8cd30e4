"""Wide ResNets against a functional forward written from the paper's description."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dirprune.models import create_model


def forward_in_words(state: dict[str, Tensor], x: Tensor, depth: int, training: bool) -> Tensor:
    """Section 4 in words; BatchNorm of the batch in training, of the running statistics otherwise."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"].clone(), state[f"{name}.running_var"].clone()
        return functional.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training)

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    x = conv(x, "conv")
    per_stage = (depth - 4) // 6
    for block in range(3 * per_stage):
        stride = 2 if block in (per_stage, 2 * per_stage) else 1
        name = f"blocks.{block}"
        y = conv(torch.relu(norm(x, f"{name}.bn1")), f"{name}.conv1")
        y = conv(torch.relu(norm(y, f"{name}.bn2")), f"{name}.conv2", stride)
        changes = stride != 1 or y.shape[1] != x.shape[1]
        x = y + (conv(x, f"{name}.shortcut", stride, padding=0) if changes else x)
    x = functional.avg_pool2d(torch.relu(norm(x, "bn")), 8).flatten(1)
    return functional.linear(x, state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("depth", "widen", "width"), [(10, 1, 0.25), (16, 2, 0.125), (16, 1, 0.25)])
def test_forward_in_words(depth: int, widen: int, width: float, training: bool) -> None:
    torch.manual_seed(0)
    model = create_model(f"wrn{depth}x{widen}", num_classes=10, width=width).train(training)
    for name, tensor in model.state_dict().items():  # BatchNorm starts as 0 and 1, which would hide mistakes
        if "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(x), forward_in_words(state, x, depth, training), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("depth", "widen"), [(28, 10), (16, 4), (40, 2)])
def test_layers(depth: int, widen: int) -> None:
    with torch.device("meta"):
        model = create_model(f"wrn{depth}x{widen}", num_classes=10)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    threes = [conv.out_channels for conv in convs if conv.kernel_size == (3, 3)]
    per_stage = (depth - 4) // 3
    low, middle, high = 16 * widen, 32 * widen, 64 * widen
    assert threes == [16] + [low] * per_stage + [middle] * per_stage + [high] * per_stage
    ones = [conv for conv in convs if conv.kernel_size == (1, 1)]
    shapes = [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in ones]
    assert shapes == [(16, low, 1), (low, middle, 2), (middle, high, 2)]
    assert all(conv.bias is not None for conv in convs)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


def test_last_batchnorm_weighs_the_newest_batch_by_nine_tenths() -> None:
    model = create_model("wrn10x1", num_classes=10)
    entering: dict[str, Tensor] = {}
    last, first = model.get_submodule("bn"), model.get_submodule("blocks.0.bn1")
    for name, norm in (("last", last), ("first", first)):
        norm.register_forward_pre_hook(lambda _, args, name=name: entering.__setitem__(name, args[0]))
    model(torch.randn(8, 3, 32, 32))
    for name, norm, share in (("last", last, 0.9), ("first", first, 0.1)):
        torch.testing.assert_close(norm.running_mean, share * entering[name].mean((0, 2, 3)).detach())


def test_weights_start_as_pytorch_starts_them() -> None:
    model = create_model("wrn16x4", num_classes=10)
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        bound = (conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]) ** -0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
