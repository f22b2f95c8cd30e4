"""Which parameters are thresholded."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dirprune.core.prunable import is_linear_or_conv_weight, prunable_groups
from dirprune.errors import UsageError
from dirprune.optim import GRDA


class Tied(nn.Module):
    """An embedding whose table is the weight of the last layer too, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.table.weight


def every_kind() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 2, 1),
        nn.Conv2d(1, 2, 1),
        nn.Conv3d(1, 2, 1),
        nn.ConvTranspose1d(1, 2, 1),
        nn.ConvTranspose2d(1, 2, 1),
        nn.ConvTranspose3d(1, 2, 1),
        nn.Linear(2, 2),
        nn.BatchNorm2d(2),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        nn.Embedding(3, 2),
        nn.PReLU(),
        nn.Bilinear(2, 2, 1),
        nn.LSTM(2, 2),
        nn.MultiheadAttention(2, 1),
    )


MODELS = {
    "linear": lambda: nn.Linear(3, 2),
    "tied": lambda: nn.Sequential(Tied(), nn.Linear(6, 2)),
    "every kind": every_kind,
    "shared module": lambda: nn.Sequential(*[nn.Linear(2, 2)] * 3),
    "frozen": lambda: nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)),
}


@pytest.mark.parametrize("include", ["all", "weights", lambda name, _: name == "bias"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_group_in_order(name: str, include) -> None:
    model = MODELS[name]()
    order = {id(p): i for i, p in enumerate(model.parameters())}
    groups = prunable_groups(model, include)
    indices = [[order[id(p)] for p in group["params"]] for group in groups]
    assert sorted(i for group in indices for i in group) == list(range(len(order)))
    assert all(group == sorted(group) for group in indices)
    assert "c" not in groups[0]
    assert [group["c"] for group in groups[1:]] in ([], [0.0])
    GRDA(groups, lr=0.1)


def names(model: nn.Module, include) -> set[str]:
    """Names of the parameters that are thresholded."""
    chosen = {id(p) for p in prunable_groups(model, include)[0]["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


def test_all_takes_everything() -> None:
    model = every_kind()
    groups = prunable_groups(model, "all")
    assert len(groups) == 1
    assert len(groups[0]["params"]) == len(list(model.parameters()))


def test_weights_are_those_of_linear_and_convolutional_layers() -> None:
    expected = {f"{i}.weight" for i in range(7)} | {"14.in_proj_weight", "14.out_proj.weight"}
    assert names(every_kind(), "weights") == expected
    model = every_kind()
    default, told = prunable_groups(model), prunable_groups(model, "weights")
    assert [list(map(id, group["params"])) for group in default] == [
        list(map(id, group["params"])) for group in told
    ]


def test_a_function_selects_by_name_and_module() -> None:
    model = every_kind()
    assert names(model, lambda _, module: isinstance(module, nn.LayerNorm)) == {"9.weight", "9.bias"}
    assert names(model, lambda name, _: name == "weight_ih_l0") == {"13.weight_ih_l0"}


def test_a_tied_weight_is_thresholded_if_any_of_its_modules_says_so() -> None:
    assert names(Tied(), lambda _, module: isinstance(module, nn.Embedding)) == {"table.weight"}
    assert names(Tied(), lambda _, module: isinstance(module, nn.Linear)) == {"table.weight", "head.bias"}


def test_a_head_that_shares_its_weight_with_an_embedding_stays_dense() -> None:
    model = nn.Sequential(Tied(), nn.Linear(2, 2))
    assert names(model, "weights") == {"1.weight"}
    assert names(model, "all") > {"0.table.weight"}


@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 1),
    ],
)
def test_a_weight_that_is_computed_stays_dense_and_is_told(compute) -> None:
    model = nn.Sequential(compute(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="the weight of '0' is computed from other parameters") as told:
        assert names(model, "weights") == {"1.weight"}
    assert {warning.filename for warning in told} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "1.weight" in names(model, "all")


def test_a_single_layer_is_a_model() -> None:
    assert names(nn.Linear(2, 2), "weights") == {"weight"}
    assert is_linear_or_conv_weight("weight", nn.LazyConv2d(2, 1))
    assert not is_linear_or_conv_weight("bias", nn.Linear(2, 2))


@pytest.mark.parametrize("include", ["weight", "ALL", None, 3, ["all"]])
def test_other_values_are_refused(include) -> None:
    with pytest.raises(UsageError, match=r"must be 'all', 'weights' or a function .*, not "):
        prunable_groups(nn.Linear(2, 2), include)


@pytest.mark.parametrize(
    ("model", "include"),
    [
        (nn.BatchNorm2d(2), "weights"),
        (nn.Linear(2, 2), lambda *_: False),
        (nn.ReLU(), "all"),
    ],
)
def test_a_selection_of_nothing_is_refused(model: nn.Module, include) -> None:
    with pytest.raises(UsageError, match=f"selects no parameter of {type(model).__name__}"):
        prunable_groups(model, include)


def test_what_stays_dense_is_trained_by_sgd() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    theirs = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    theirs.load_state_dict(ours.state_dict())
    pair = GRDA(prunable_groups(ours, "weights"), lr=0.1, c=1.0), torch.optim.SGD(theirs.parameters(), lr=0.1)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    for optimizer in pair:
        optimizer.step()
    assert [torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("kdim", [None, 6])
def test_the_maps_of_attention_are_weights_and_its_biases_are_not(kdim) -> None:
    model = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim, add_bias_kv=True)
    maps = {"in_proj_weight"} if kdim is None else {f"{part}_proj_weight" for part in "qkv"}
    assert names(model, "weights") == {*maps, "out_proj.weight"}
