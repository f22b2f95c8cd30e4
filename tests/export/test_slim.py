"""A slim network computes the same with fewer channels; torch-pruning says which channels belong together."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from dirprune.core.prunable import prunable_groups
from dirprune.errors import ExportError
from dirprune.export import load_slim, load_sparse, save_sparse, slim
from dirprune.export.sparse_runtime import dense_outputs
from dirprune.models import create_model
from dirprune.optim import GRDA
from tests.export.networks import thin
from tests.methods.common import batch


def kill(layer, channels, bias=None):
    with torch.no_grad():
        layer.weight[channels] = 0
        if bias is not None:
            layer.bias[channels] = bias


def assert_same(result, model, shape):
    x = 3 * torch.randn(5, *shape)
    expected, actual = dense_outputs(model.double().to(torch.float32), x), dense_outputs(result.model, x)
    assert (actual - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


def test_dead_channels_of_a_plain_chain():
    torch.manual_seed(0)
    model = thin(create_model("vgg16", num_classes=10, width=0.25), 0)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    kill(convs[0], [1, 5], 0.0)
    kill(convs[3], [0, 2, 3], torch.tensor([-1.0, -0.5, 0.0]))  # relu makes zeros of them
    kill(model.classifier[1], [7], 2.0)  # a constant for a linear layer
    result = slim(model, (3, 32, 32))
    assert result.layers["features.0.weight"] == (16, 14)
    assert result.layers["features.7.weight"] == (32, 29)
    assert result.layers["classifier.1.weight"] == (128, 127)
    assert result.layers["features.2.weight"] == (16, 16)
    assert (
        result.after.parameters
        == sum(p.numel() for p in result.model.parameters())
        < result.before.parameters
    )
    assert result.after.multiplications < result.before.multiplications
    assert_same(result, model, (3, 32, 32))


def test_channels_that_nobody_reads_go_and_what_only_they_read():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[4].weight[:, 2] = 0
        model[2].weight[[0, 1, 3], 4] = 0  # only output 2 reads input 4
    result = slim(model, (6,))
    assert result.layers == {"0.weight": (5, 4), "2.weight": (4, 3), "4.weight": (3, 3)}
    assert_same(result, model, (6,))


def test_constants_that_zeros_around_show_in_share_one_channel():
    model = thin(
        nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)), 0
    )
    kill(model[0], [1, 2, 5, 6])
    with torch.no_grad():
        model[1].bias[[1, 2, 5, 6]] = model[1].running_mean[[1, 2, 5, 6]] * 0 + torch.tensor(
            [3.0, 2.0, 1.0, -9.0]
        )
        model[0].bias[[1, 2, 5, 6]] = model[1].running_mean[[1, 2, 5, 6]]
    result = slim(model, (2, 9, 9))
    assert result.layers["0.weight"] == (8, 5)
    assert_same(result, model, (2, 9, 9))


def test_zeros_around_make_a_map_of_a_constant():
    model = thin(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)), 0)
    kill(model[0], [0], 1.0)
    with torch.no_grad():
        model[1].weight[0, 1] = 0  # reads the constant alone, and differs at the border
    result = slim(model, (1, 6, 6))
    assert result.layers["1.weight"] == (2, 2)
    assert_same(result, model, (1, 6, 6))


def test_a_normalisation_whose_scale_is_zero_makes_a_constant():
    model = thin(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False)
        ),
        0,
    )
    with torch.no_grad():
        model[1].weight[1:3] = 0
        model[1].bias[1:3] = torch.tensor([0.7, -0.7])
    result = slim(model, (2, 6, 6))
    assert result.layers["0.weight"] == (4, 2)
    assert result.model[3].bias is not None
    assert_same(result, model, (2, 6, 6))


class Block(nn.Module):
    """A residual sum, a join, a depthwise and a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 12, 3, groups=4)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = x + functional.relu(self.inner(x))
        x = torch.cat([x, functional.relu6(self.depthwise(x))], 1)
        x = functional.max_pool2d(functional.relu(self.grouped(x)), 2)
        return self.head(x.mean((2, 3)))


def test_residual_join_and_groups():
    torch.manual_seed(0)
    model = thin(Block(), 0)
    kill(model.stem, [3], 0.0)  # the sum's other side is alive: stays
    assert slim(model, (3, 8, 8)).layers["stem.weight"] == (8, 8)
    for layer in (model.stem, model.inner, model.depthwise):
        kill(layer, [0, 1, 2, 3], 0.0)
    # now the first group's four inputs, and the third's, are constant; its outputs are too
    kill(model.grouped, [0, 1, 2, 6, 7, 8], torch.tensor([1.0, -1.0, 0.5, 0.0, 0.3, 2.0]))
    result = slim(model, (3, 8, 8))
    assert result.layers == {
        "stem.weight": (8, 4), "inner.weight": (8, 4), "depthwise.weight": (8, 4), "grouped.weight": (12, 6),
        "head.weight": (4, 4),
    }  # fmt: skip
    assert (result.model.grouped.groups, result.model.depthwise.groups) == (2, 4)
    assert_same(result, model, (3, 8, 8))


def test_torch_pruning_removes_the_same_channels():
    import torch_pruning as pruning

    torch.manual_seed(0)
    model = thin(create_model("wrn10x1", num_classes=10, image_size=8), 0)
    channels = [2, 5]
    blocks = model.blocks
    with torch.no_grad():
        for reader in (blocks[0].conv1, blocks[0].shortcut, blocks[1].conv1, blocks[1].shortcut):
            if isinstance(reader, nn.Conv2d) and reader.in_channels == 16:
                reader.weight[:, channels] = 0
    result = slim(model, (3, 8, 8))
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=torch.zeros(1, 3, 8, 8))
    graph.get_pruning_group(model.conv, pruning.prune_conv_out_channels, idxs=channels).prune()
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in result.model.state_dict().items()} == theirs


def test_a_whole_dead_layer_keeps_one_channel():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    result = slim(model, (4,))
    assert result.layers["0.weight"] == (5, 1)
    assert_same(result, model, (4,))


@pytest.mark.parametrize("include", ["all", "weights"])
def test_channels_that_the_group_penalty_took_go(include):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    optimizer = GRDA(prunable_groups(model, include), lr=0.1, c=0.06, mu=0.7, momentum=0.5, penalty="group")
    for step in range(60):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    result = slim(model, (2, 6, 6))
    dead = {name: (model.get_parameter(name) == 0).flatten(1).all(1) for name in result.layers}
    assert 0 < dead["2.weight"].sum() < 12
    assert (model[2].bias[dead["2.weight"]] != 0).any()
    for name, (before, after) in result.layers.items():
        assert after == before - int(dead[name].sum())
    assert_same(result, model, (2, 6, 6))


@pytest.mark.parametrize("seed", range(6))
def test_any_dead_channels_of_a_residual_network(seed):
    torch.manual_seed(seed)
    model = thin(create_model("wrn10x1", num_classes=10, image_size=8), 0.5, seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            kill(module, torch.rand(len(module.weight)) < 0.4, 0.0)
        if isinstance(module, nn.BatchNorm2d):
            kill(module, torch.rand(len(module.weight)) < 0.4)
    result = slim(model, (3, 8, 8))
    assert result.after.channels < result.before.channels
    assert_same(result, model, (3, 8, 8))


def test_a_network_that_cannot_be_read_is_refused_without_torchs_log(caplog, monkeypatch):
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, caplog.handler])
    with pytest.raises(ExportError, match="cannot be traced"):
        slim(nn.Linear(3, 2), (4,))
    assert [record for record in caplog.records if record.name == logger.name] == []
    assert logger.isEnabledFor(logging.ERROR)


def test_outputs_that_are_not_finite_are_named_as_the_reason():
    model = nn.Linear(3, 2)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match="outputs are not finite"):
        slim(model, (3,))


def test_a_slim_network_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = thin(Block(), 0)
    for layer in (model.stem, model.inner, model.depthwise):
        kill(layer, [0, 1, 2, 3], 0.0)
    smaller = slim(model, (3, 8, 8)).model
    save_sparse(smaller, tmp_path / "slim")
    fresh = Block()
    load_slim(load_sparse(tmp_path / "slim"), fresh)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(dense_outputs(fresh, x), dense_outputs(smaller, x))
    with pytest.raises(ExportError, match="not a smaller network"):
        load_slim({"0.weight": torch.zeros(1, 1, 5, 5)}, nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(ExportError, match="does not fit"):
        load_slim({}, nn.Linear(1, 1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.conv(x).reshape(-1, 16))


class NormalisedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.head = nn.BatchNorm2d(4, affine=False), nn.Linear(4, 2)

    def forward(self, x):
        x = functional.relu(self.norm(self.first(x)))
        return self.head(functional.relu(self.norm(self.second(x))).mean((2, 3)))


def test_refusals():
    with pytest.raises(ExportError, match="more than one layer"):
        slim(Twice(), (4,))
    with pytest.raises(ExportError, match=r"norm\.running_mean is used by more than one layer"):
        slim(NormalisedTwice(), (3, 8, 8))
    with pytest.raises(ExportError, match="channels, height and width, got 2 dimensions"):
        slim(nn.Conv2d(2, 3, 3), (8, 8))
    model = Counts()
    with torch.no_grad():
        model.conv.weight[0] = 0
    with pytest.raises(ExportError, match="counts on its channels"):
        slim(model, (1, 4, 4))
    with pytest.raises(ExportError, match="no operation"):
        slim(nn.Sequential(nn.Conv2d(1, 1, 1), nn.GELU()), (1, 4, 4))
