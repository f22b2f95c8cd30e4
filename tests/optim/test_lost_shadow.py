"""A new GRDA on weights that are already sparse says so, once; in every other case it is silent."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dirprune.core.prunable import prunable_groups
from dirprune.errors import LostShadowWarning
from dirprune.optim import GRDA
from tests.optim.common import backward, set_gradients, small_model, train


def sparse_model() -> nn.Sequential:
    """A model that GRDA made sparse, both its matrices."""
    model = small_model()
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.5)
    for n in range(10):
        backward(model, seed=n)
        optimizer.step()
    assert all(0.3 < (model[i].weight == 0).double().mean() < 0.9 for i in (0, 2))
    return model


def warnings_of(action: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [w for w in caught if issubclass(w.category, LostShadowWarning)]


def steps(optimizer: GRDA, count: int = 3) -> Callable[[], None]:
    return lambda: train(optimizer, count)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"capturable": True}])
def test_it_warns_once_where_step_is_called(options: dict[str, bool]) -> None:
    optimizer = GRDA(sparse_model().parameters(), lr=0.1, **options)
    set_gradients(optimizer.param_groups[0]["params"], seed=0)
    with pytest.warns(LostShadowWarning, match=r"already sparse .* not a resume.* state_dict") as caught:
        optimizer.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not warnings_of(steps(optimizer))


def test_it_warns_once_for_many_groups_and_late_gradients() -> None:
    model = sparse_model()
    optimizer = GRDA([{"params": [p]} for p in model.parameters()], lr=0.1)

    def train_late() -> None:
        for n in range(4):
            set_gradients(model.parameters(), seed=n)
            if n < 2:
                model[2].weight.grad = None
            optimizer.step()

    assert len(warnings_of(train_late)) == 1


def test_it_warns_once_after_a_warm_up_from_rate_zero() -> None:
    optimizer = GRDA(sparse_model().parameters(), lr=0.1)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(n / 3, 1.0))

    def train_with_warm_up() -> None:
        for n in range(6):
            train(optimizer, steps=1, first=n)
            warm_up.step()

    assert optimizer.param_groups[0]["lr"] == 0
    assert len(warnings_of(train_with_warm_up)) == 1


def test_it_warns_when_c_is_switched_on_later() -> None:
    model = sparse_model()
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    assert not warnings_of(optimizer.step)
    optimizer.param_groups[0]["c"] = 0.1
    assert len(warnings_of(steps(optimizer))) == 1


def test_it_warns_after_loading_the_empty_state_as_accelerate_does() -> None:
    optimizer = GRDA(sparse_model().parameters(), lr=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(warnings_of(steps(optimizer))) == 1


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_made_before_the_first_step_warns_too(copier: Callable[[GRDA], GRDA]) -> None:
    optimizer = copier(GRDA(sparse_model().parameters(), lr=0.1))
    assert len(warnings_of(steps(optimizer))) == 1


def test_it_warns_of_a_sparse_body_with_a_new_dense_head() -> None:
    model = nn.Sequential(sparse_model(), nn.Linear(3, 4))
    optimizer = GRDA(prunable_groups(model, include="weights"), lr=0.1)
    assert len(warnings_of(steps(optimizer))) == 1


def test_it_warns_of_rows_of_zeros_whatever_the_penalty() -> None:
    rows = torch.randn(50, 50)
    rows[:45] = 0.0
    for penalty in ("l1", "l0", "group"):
        assert len(warnings_of(steps(GRDA([nn.Parameter(rows.clone())], lr=0.1, penalty=penalty)))) == 1


@pytest.mark.parametrize("prepared", [False, True])
def test_a_restored_state_never_warns(prepared: bool) -> None:
    """Torch's distributed checkpoint prepares a fresh optimiser by a step at rate 0, then loads."""
    model = sparse_model()
    old = GRDA(model.parameters(), lr=0.1, c=2.0)
    warnings_of(steps(old))
    assert (model[0].weight == 0).double().mean() > 0.3
    new = GRDA(copy.deepcopy(model).parameters(), lr=0.0 if prepared else 0.1)
    if prepared:
        assert not warnings_of(steps(new, 1))
    new.load_state_dict(old.state_dict())
    assert not warnings_of(steps(copy.deepcopy(new)))
    assert not warnings_of(steps(new))


def test_c_zero_never_warns() -> None:
    assert not warnings_of(steps(GRDA(sparse_model().parameters(), lr=0.1, c=0.0)))


def zero_last_layer() -> nn.Module:
    model = small_model()
    nn.init.zeros_(model[2].weight)
    return model


def fine_tuned_embedding() -> nn.Module:
    table = nn.Embedding.from_pretrained(torch.randn(3, 8), freeze=False, padding_idx=0)
    nn.init.zeros_(table.weight[0].detach())
    return table


def identities() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(16, 16))
    nn.init.dirac_(model[0].weight)
    nn.init.eye_(model[2].weight)
    return model


DENSE: dict[str, Callable[[], nn.Module]] = {
    "linear": small_model,
    "convolutions and norms": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4]),
    ),
    "zero-initialised last layer": zero_last_layer,
    "padding row of a small embedding": lambda: nn.Sequential(
        nn.Embedding(4, 8, padding_idx=0), nn.Linear(8, 2)
    ),
    "padding row alone": fine_tuned_embedding,
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "recurrence": lambda: nn.LSTM(4, 8, bidirectional=True),
    "identities": identities,
    "empty": lambda: nn.Linear(0, 3),
    "no matrices": lambda: nn.BatchNorm1d(3),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("include", ["all", "single groups"])
@pytest.mark.parametrize("name", DENSE)
def test_a_freshly_initialised_network_never_warns(name: str, include: str) -> None:
    torch.manual_seed(0)
    params = list(DENSE[name]().parameters())
    groups = [{"params": params}] if include == "all" else [{"params": [p]} for p in params]
    assert not warnings_of(steps(GRDA(groups, lr=0.1)))
