"""Two processes: DDP equals one process, FSDP2 equals DDP, and checkpoints restore exactly."""

import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from dirprune.core.prunable import prunable_groups
from dirprune.core.sparsity import sparsity_report
from dirprune.errors import LostShadowWarning, UsageError
from dirprune.optim import GRDA
from tests.optim.common import same_bits

WORLD = 2
LIMIT = 180  # seconds, after which a hang is a failure
OPTIONS = {"lr": 0.1, "c": 0.4, "mu": 0.6, "momentum": 0.5, "weight_decay": 1e-3}


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Layers whose rows do not divide evenly among the ranks."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 3)).to(dtype)


def batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    return x, x[:, :3].sin()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int | None = None) -> None:
    """Train on every batch, or on this rank's share of it."""
    for n in steps:
        x, y = batch(n)
        if rank is not None:
            x, y = x.chunk(WORLD)[rank], y.chunk(WORLD)[rank]
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype)).backward()
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def local(tensor: Tensor) -> Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def assert_close(model: nn.Module, reference: nn.Module) -> None:
    """Weights agree to rounding and are zero in the same places, some of them."""
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(
            whole(p), q.detach(), rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert torch.equal(whole(p) == 0, q == 0)
    assert sparsity_report(reference).sparsity > 0.1


def sharded(seed: int = 0, dtype: torch.dtype = torch.float64, **options) -> tuple[nn.Module, GRDA]:
    """The network under FSDP2, and its optimiser."""
    model = network(seed, dtype)
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    return model, GRDA(prunable_groups(model, "weights"), **{**OPTIONS, **options})


def one_process(steps: int = 30, **options) -> tuple[nn.Module, GRDA]:
    """What the others must equal: training on the whole batches."""
    model = network()
    optimizer = GRDA(prunable_groups(model, "weights"), **{**OPTIONS, **options})
    train(model, optimizer, range(steps))
    return model, optimizer


def zero_redundancy(groups: list[dict[str, Any]], **options) -> ZeroRedundancyOptimizer:
    return ZeroRedundancyOptimizer(groups, GRDA, **options)


def ddp_equals_one_process(rank: int, folder: Path) -> None:
    reference, _ = one_process()
    for make in (GRDA, zero_redundancy):
        model = DistributedDataParallel(network(seed=rank))  # which takes the weights of rank 0
        optimizer = make(prunable_groups(model, "weights"), **OPTIONS)
        train(model, optimizer, range(30), rank)
        assert_close(model, reference)


def fsdp2_equals_ddp(rank: int, folder: Path) -> None:
    """DDP equals one process, so that one is the reference here too; state and report included."""
    reference, expected = one_process()
    tensor_lr = torch.tensor(0.1, dtype=torch.float64)
    for options in ({}, {"foreach": True}, {"capturable": True, "lr": tensor_lr}):
        model, optimizer = sharded(**options)
        train(model, optimizer, range(30), rank)
        assert_close(model, reference)
        for p, q in zip(model.parameters(), reference.parameters(), strict=True):
            ours, theirs = optimizer.state[p], expected.state[q]
            assert isinstance(ours["accumulator"], DTensor)
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                torch.testing.assert_close(whole(ours[key]), value, rtol=1e-12, atol=1e-12)
        assert sparsity_report(model) == sparsity_report(reference)


def fsdp2_with_adams_direction_equals_one_process(rank: int, folder: Path) -> None:
    adam = {"lr": 0.01, "c": 3.0, "momentum": 0.9, "beta2": 0.99}
    reference, expected = one_process(**adam)
    for options in ({}, {"foreach": True}):
        model, optimizer = sharded(**adam, **options)
        train(model, optimizer, range(30), rank)
        assert_close(model, reference)
        for p, q in zip(model.parameters(), reference.parameters(), strict=True):
            ours, theirs = optimizer.state[p]["exp_avg_sq"], expected.state[q]["exp_avg_sq"]
            assert isinstance(ours, DTensor)
            torch.testing.assert_close(whole(ours), theirs, rtol=1e-12, atol=1e-12)


def unfinished_sums_of_tensor_parallelism_are_finished(rank: int, folder: Path) -> None:
    """A replicated parameter whose gradient is 1 on rank 0 and 2 on rank 1, to be summed: 3 everywhere."""
    mesh = init_device_mesh("cpu", (WORLD,))
    p, q = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Replicate()])), nn.Parameter(torch.ones(4))
    p.grad = DTensor.from_local(torch.full((4,), rank + 1.0), mesh, [Partial()])
    q.grad = torch.full((4,), 3.0)
    GRDA([p], lr=0.1, c=0.1).step()
    GRDA([q], lr=0.1, c=0.1).step()
    assert same_bits(local(p), q)


def fsdp2_keeps_bfloat16(rank: int, folder: Path) -> None:
    model, optimizer = sharded(dtype=torch.bfloat16)
    train(model, optimizer, range(3), rank)
    for p, state in optimizer.state.items():
        assert p.dtype == torch.bfloat16
        assert state["accumulator"].dtype == torch.float32


def checkpoint_restores_exactly(rank: int, folder: Path) -> None:
    """Saved after 10 steps, read into a fresh model and optimiser, and trained on to the same bits."""
    for dtype, full in ((torch.float64, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        model, optimizer = sharded(dtype=dtype)
        train(model, optimizer, range(10), rank)
        options = StateDictOptions(full_state_dict=full)
        names = ("model", "optimizer")
        target = folder / f"{dtype}-{full}"
        saved = get_state_dict(model, optimizer, options=options)
        dcp.save(dict(zip(names, saved, strict=True)), checkpoint_id=target)
        before = [{key: local(value).clone() for key, value in s.items()} for s in optimizer.state.values()]
        train(model, optimizer, range(10, 20), rank)

        twin, restored = sharded(seed=1, dtype=dtype, lr=9.0, c=9.0)
        states = dict(zip(names, get_state_dict(twin, restored, options=options), strict=True))
        dcp.load(states, checkpoint_id=target)
        set_state_dict(
            twin,
            restored,
            model_state_dict=states["model"],
            optim_state_dict=states["optimizer"],
            options=options,
        )
        for old, new in zip(before, restored.state.values(), strict=True):
            assert old.keys() == new.keys()
            assert all(same_bits(old[key], local(new[key])) for key in old)
        assert restored.param_groups[0]["c"] == OPTIONS["c"]
        assert restored.param_groups[1]["c"] == 0
        train(twin, restored, range(10, 20), rank)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert same_bits(local(p), local(q))
            for key, value in optimizer.state[p].items():
                assert same_bits(local(value), local(restored.state[q][key]))


def a_new_optimizer_on_sparse_shards_warns(rank: int, folder: Path) -> None:
    model, optimizer = sharded()
    train(model, optimizer, range(30), rank)
    with pytest.warns(LostShadowWarning):
        train(model, GRDA(model.parameters(), **OPTIONS), range(1), rank)


def channels_die_whole_on_shards_too(rank: int, folder: Path) -> None:
    reference, _ = one_process(penalty="group", c=0.6)
    rows = (reference[0].weight == 0).sum(1).tolist()
    assert {0, 6} == set(rows)
    for options in ({}, {"foreach": True}, {"capturable": True}):
        model, optimizer = sharded(penalty="group", c=0.6, **options)
        train(model, optimizer, range(30), rank)
        assert_close(model, reference)


def a_channel_cut_in_two_is_refused(rank: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (WORLD,))

    def placed(shape: tuple[int, ...], placement: Any) -> nn.Parameter:
        return nn.Parameter(distribute_tensor(torch.ones(shape), mesh, [placement]))

    cut = placed((4, 6), Shard(1))
    with pytest.raises(
        UsageError, match=r"shape \(4, 6\) is placed as .*: shard it along dimension 0"
    ) as caught:
        GRDA([cut], lr=0.1, penalty="group")
    assert "\n" not in str(caught.value)
    GRDA([cut], lr=0.1, penalty="l0")
    whole_rows = GRDA(
        [placed((4, 6), Shard(0)), placed((4, 6), Replicate()), placed((4,), Shard(0))],
        lr=0.1,
        penalty="group",
    )
    with pytest.raises(UsageError, match="needs whole output channels"):
        GRDA([cut, placed((4, 6), Shard(0)), placed((4,), Shard(0))], lr=0.1).load_state_dict(
            whole_rows.state_dict()
        )


def tensor_parallelism_may_share_out_channels_but_not_cut_them(rank: int, folder: Path) -> None:
    """With FSDP2 over it, whose placement torch does not call a shard."""
    mesh = init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("data", "tensor"))
    for style, suits in ((ColwiseParallel(), True), (RowwiseParallel(), False)):
        layer = parallelize_module(nn.Linear(6, 8), mesh["tensor"], style)
        fully_shard(layer, mesh=mesh["data"])
        if suits:
            assert not all(where.is_shard() for where in layer.weight.placements)
            GRDA(layer.parameters(), lr=0.1, penalty="group")
        else:
            with pytest.raises(UsageError, match="needs whole output channels"):
                GRDA(layer.parameters(), lr=0.1, penalty="group")


CHECKS = [
    ddp_equals_one_process,
    fsdp2_equals_ddp,
    fsdp2_with_adams_direction_equals_one_process,
    unfinished_sums_of_tensor_parallelism_are_finished,
    fsdp2_keeps_bfloat16,
    checkpoint_restores_exactly,
    a_new_optimizer_on_sparse_shards_warns,
    channels_die_whole_on_shards_too,
    a_channel_cut_in_two_is_refused,
    tensor_parallelism_may_share_out_channels_but_not_cut_them,
]


def worker(rank: int, folder: Path) -> None:
    """Run every check; rank 0 notes those that passed."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", LostShadowWarning)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=60),
    )
    for check in CHECKS:
        check(rank, folder)
        dist.barrier()
        if rank == 0:
            (folder / check.__name__).touch()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder with a file for each check that passed, and what went wrong with the first that did not."""
    folder = tmp_path_factory.mktemp("distributed")
    processes = mp.spawn(worker, (folder,), nprocs=WORLD, join=False)
    deadline = time.monotonic() + LIMIT
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > deadline:
                return folder, f"the processes hung for {LIMIT} seconds"
    except mp.ProcessRaisedException as error:
        return folder, str(error)
    finally:
        for process in processes.processes:
            process.kill()
    return folder, ""


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_two_processes(check: Callable[[int, Path], None], outcome: tuple[Path, str]) -> None:
    folder, error = outcome
    assert (folder / check.__name__).exists(), error
