"""The sparse runtime computes what the module computes; a float64 NumPy convolution is the other witness."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dirprune.errors import CompilerError, ExportError, UsageError
from dirprune.export import SparseModel, save_sparse
from dirprune.export.fusion import fuse
from dirprune.export.graph import Conv, Graph, Pool
from dirprune.export.lowering import lower
from dirprune.export.planning import Plan
from dirprune.export.sparse_runtime import dense_outputs
from dirprune.models import create_model
from tests.export.networks import thin


@pytest.fixture(autouse=True)
def _compiled(request):
    if request.node.name != "test_without_a_compiler":
        request.getfixturevalue("compiler")


def numpy_convolution(x, conv):
    """Direct convolution in float64, one product after the other's definition."""
    weight, x = conv.weight.detach().double().numpy(), x.double().numpy()
    (sy, sx), (py, px), (dy, dx) = conv.stride, conv.padding, conv.dilation
    n, _, height, width = x.shape
    out_channels, per_group, ky, kx = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    rows = (height + 2 * py - dy * (ky - 1) - 1) // sy + 1
    columns = (width + 2 * px - dx * (kx - 1) - 1) // sx + 1
    result = np.zeros((n, out_channels, rows, columns))
    for o in range(out_channels):
        group = o // (out_channels // conv.groups)
        for i in range(per_group):
            for a in range(ky):
                for b in range(kx):
                    source = padded[:, group * per_group + i, a * dy :, b * dx :]
                    result[:, o] += (
                        weight[o, i, a, b]
                        * source[:, : rows * sy : sy, : columns * sx : sx][:, :rows, :columns]
                    )
    return result + (0 if conv.bias is None else conv.bias.detach().double().numpy()[:, None, None])


def run(layer, shape, x, threads, **state):
    """One layer without tracing it, twice, because buffers are used again."""
    graph = Graph("x", shape, (layer,), layer.name, state)
    plan = Plan(lower(fuse(graph), "x", shape, layer.name), len(x))
    result = torch.empty(len(x), *layer.shape)
    for _ in range(2):
        plan.run(x, result.fill_(float("nan")), threads)
    return result


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=150)
@given(
    kernel=pairs,
    stride=pairs,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 7)),
    size=st.tuples(st.integers(5, 21), st.integers(5, 40)),
    images=st.integers(1, 11),
    sparsity=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    bias=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_convolution_is_the_numpy_one(
    kernel, stride, dilation, padding, groups, channels, size, images, sparsity, bias, threads, seed
):
    torch.manual_seed(seed)
    conv = nn.Conv2d(
        groups * channels[0],
        groups * channels[1],
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        bias=bias,
    )
    thin(conv, sparsity, seed)
    x = torch.randn(images, groups * channels[0], *size)
    expected = numpy_convolution(x, conv)
    shape = expected.shape[1:]
    layer = Conv("y", ("x",), shape, "w", "b" if bias else None, stride, padding, dilation, groups)
    actual = run(layer, tuple(x.shape[1:]), x, threads, w=conv.weight, b=conv.bias)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5 * max(1, np.abs(expected).max()))


@settings(max_examples=100)
@given(
    maximum=st.booleans(),
    kernel=pairs,
    stride=pairs,
    padding=st.booleans(),
    ceil=st.booleans(),
    counted=st.booleans(),
    size=st.tuples(st.integers(4, 12), st.integers(4, 40)),
)
def test_pools_are_those_of_torch(maximum, kernel, stride, padding, ceil, counted, size):
    padding = (kernel[0] // 2, kernel[1] // 2) if padding else (0, 0)
    if maximum:
        pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    else:
        pool = nn.AvgPool2d(kernel, stride, padding, count_include_pad=counted)
    x = torch.randn(3, 5, *size) - 2  # mostly negative: zeros around would win
    layer = Pool("y", ("x",), tuple(pool(x).shape[1:]), kernel, stride, padding, maximum, counted)
    torch.testing.assert_close(run(layer, (5, *size), x, 1), pool(x))


class Odd(nn.Module):
    """What networks are made of, in uncommon order."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.plain = nn.BatchNorm2d(3, affine=False)
        self.left = nn.Conv2d(8, 8, 5, padding=2)
        self.right = nn.Conv2d(8, 8, 1, stride=2)
        self.wide = nn.Conv2d(8, 8, 3, stride=2, padding=3, dilation=3, groups=4)
        self.valid = nn.Conv2d(19, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = functional.relu6(self.plain(x))
        y = self.norm(self.first(x))
        z = functional.relu(y)
        z = z + self.left(z) + y  # y is used before and after the clamp
        z = z + z
        a, b = self.right(z), self.wide(z)
        c = torch.cat([a + b, functional.avg_pool2d(z, 2), functional.max_pool2d(x, 2)], 1)
        c = functional.relu_(self.valid(c)).clamp(max=2.0)
        return self.head(c.mean((2, 3)))


class Joined(nn.Module):
    def forward(self, x):
        return torch.cat([x, x.clamp(min=0.1), x + x], 1).flatten(1)


NETWORKS = {
    "lenet-300-100": (
        lambda: create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8),
        (1, 8, 8),
    ),
    "lenet5": (lambda: create_model("lenet5", num_classes=10, in_channels=1, image_size=28), (1, 28, 28)),
    "vgg16": (lambda: create_model("vgg16", num_classes=10, width=0.25), (3, 32, 32)),
    "wrn10x1": (lambda: create_model("wrn10x1", num_classes=10, image_size=12), (3, 12, 12)),
    "odd": (Odd, (3, 16, 20)),
    "joined": (Joined, (2, 3, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3), nn.ReLU()), (7,)),
    "identity": (nn.Identity, (2, 3, 3)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 9, 7)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = thin(make(), 0.5)
    runtime = SparseModel(model, shape)
    for images, runtime.threads in ((1, 1), (1, 2), (11, 3), (3, 1)):
        x = torch.randn(images, *shape)
        expected = dense_outputs(model, x)
        actual = runtime(x)
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, atol=1e-4 * max(1, expected.abs().max().item()), rtol=0)


def test_a_torchvision_network_with_its_normalisation():
    import torchvision

    torch.manual_seed(1)
    model = thin(torchvision.models.mobilenet_v2(num_classes=7), 0.8)
    runtime = SparseModel(model, (3, 64, 48), threads=2)
    x = torch.randn(2, 3, 64, 48)
    expected = dense_outputs(model, x)
    assert (runtime(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_only_nonzero_weights_are_multiplied():
    conv = thin(nn.Conv2d(4, 4, 3, padding=1), 0.9)
    assert SparseModel(conv, (4, 8, 8)).multiplications == int(conv.weight.count_nonzero()) * 64


def test_values_that_are_not_finite_come_through():
    model = thin(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), 0)
    x = torch.randn(1, 1, 8, 8)
    x[0, 0, 3, 3], x[0, 0, 7, 7] = float("nan"), float("inf")
    torch.testing.assert_close(SparseModel(model, (1, 8, 8))(x), model(x).detach(), equal_nan=True)


def test_inputs_of_any_memory_layout():
    model = thin(nn.Conv2d(3, 4, 3), 0.5)
    runtime = SparseModel(model, (3, 9, 9))
    x = torch.randn(2, 3, 9, 18)[..., ::2].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(runtime(x), model(x).detach(), atol=1e-5, rtol=0)


def test_the_module_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SparseModel(model, (1, 5, 5))
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_from_a_sparse_file(tmp_path):
    model = thin(create_model("lenet5", num_classes=10, in_channels=1, image_size=28), 0.9)
    save_sparse(model, tmp_path / "lenet.safetensors")
    fresh = create_model("lenet5", num_classes=10, in_channels=1, image_size=28)
    x = torch.randn(2, 1, 28, 28)
    runtime = SparseModel.from_file(tmp_path / "lenet.safetensors", fresh, (1, 28, 28))
    torch.testing.assert_close(runtime(x), model(x).detach(), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="example: expected float32"):
        SparseModel.from_file(tmp_path / "lenet.safetensors", fresh, (1, 28, 28), example=x[:, :, 1:])
    with pytest.raises(FileNotFoundError, match="found nothing by that name"):
        SparseModel.from_file(tmp_path / "none.safetensors", fresh, (1, 28, 28))


class Wrong(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.wrong = forward

    def forward(self, x):
        return self.wrong(self.conv(x))


REFUSED = {
    "aten.silu": functional.silu,
    "with a constant": lambda x: x + 1,
    "of different shapes": lambda x: x + x.mean((2, 3), keepdim=True),
    "cannot be traced": lambda x: x if x.sum() > 0 else -x,
    "reshaping": lambda x: x.reshape(x.shape[0], 2, -1),
    "along dimension 2": lambda x: torch.cat([x, x], 2),
    "other dimensions than height and width": lambda x: x.mean(1),
    "is computed, not stored": lambda x: functional.linear(x.flatten(1), x.flatten(1)),
    "into 3x3 parts": lambda x: functional.adaptive_avg_pool2d(x, 3),
    "ceil_mode": lambda x: functional.avg_pool2d(x, 3, ceil_mode=True),
    "one tensor out": lambda x: (x, x),
    "differ from the module's": lambda x: x.relu() if torch.compiler.is_compiling() else x,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason):
    with pytest.raises(ExportError, match=reason):
        SparseModel(Wrong(REFUSED[reason]), (2, 8, 8))


def test_bad_calls():
    runtime = SparseModel(nn.Conv2d(1, 1, 1), (1, 4, 4))
    for x in (
        torch.zeros(1, 1, 4, 5),
        torch.zeros(1, 1, 4, 4).double(),
        torch.zeros(0, 1, 4, 4),
        torch.zeros(1, 4, 4),
    ):
        with pytest.raises(UsageError, match="expected float32"):
            runtime(x)
    for threads in (0, 5000):
        with pytest.raises(UsageError, match=rf"^`threads` must be .* got {threads}$"):
            SparseModel(nn.Conv2d(1, 1, 1), (1, 4, 4), threads=threads)


def test_without_a_compiler(monkeypatch):
    from dirprune.export import planning

    planning._library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="no-such-compiler"):
        SparseModel(nn.Conv2d(1, 1, 1), (1, 4, 4))
