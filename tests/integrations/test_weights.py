"""Weights of wrapped and sharded networks, with one process that counts as several."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dirprune import load_sparse
from dirprune.integrations.weights import whole_state, write_sparse


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("wrap", [fully_shard, DistributedDataParallel, torch.compile])
def test_plain_names_and_whole_tensors(group, wrap, tmp_path):
    wrapped = wrap(network())
    state = whole_state(wrapped)
    expected = network().state_dict()
    assert list(state) == list(expected)
    for name, tensor in state.items():
        assert not isinstance(tensor, DTensor)
        assert torch.equal(tensor, expected[name])
    write_sparse(wrapped, tmp_path / "new" / "small", first_process=True)
    load_sparse(tmp_path / "new" / "small", network())


def test_only_the_first_process_writes(tmp_path):
    write_sparse(network(), tmp_path / "small", first_process=False)
    assert not list(tmp_path.iterdir())


def test_shared_parameters_are_stored_once(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    write_sparse(model, tmp_path / "small", first_process=True)
    assert (tmp_path / "small").stat().st_size < 1.5 * 64 * 64 * 4
