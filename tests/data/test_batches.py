"""Batches: every image once, the same after a resume, the same on any number of ranks."""

import itertools
import struct
import zlib

import pytest
import torch
from image_sets import OneDevice

from dirprune.data import Augmentation, Batches, Split, epoch_permutation
from dirprune.errors import UsageError

N = 103


def numbered_split(n: int = N) -> Split:
    """Image i is i everywhere, and so is its label."""
    labels = torch.arange(n)
    return Split(labels.to(torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 4, 4).contiguous(), labels)


def random_split() -> Split:
    images = torch.randint(256, (N, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Split(images, torch.arange(N))


def batches(split: Split | None = None, seed: int = 0, batch_size: int = 16) -> Batches:
    return Batches(split or random_split(), batch_size, seed, Augmentation(crop_padding=2, flip=True))


def same(a: tuple[int, torch.Tensor, torch.Tensor], b: tuple[int, torch.Tensor, torch.Tensor]) -> bool:
    return a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])


def test_permutations() -> None:
    orders = [tuple(epoch_permutation(N, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len(set(orders)) == 16  # (1, 2) is neither (2, 1) nor (0, 3)
    assert orders[6] == tuple(epoch_permutation(N, 1, 2).tolist())


def test_permutation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_permutation(N, 0, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_every_image_once_with_its_own_label() -> None:
    plain = Batches(numbered_split(), 16, 0, Augmentation())
    steps, images, labels = zip(*plain.epoch(1), strict=True)
    assert list(steps) == list(range(7)) == list(range(len(plain)))
    assert [len(part) for part in labels] == [16] * 6 + [7]
    assert sorted(torch.cat(labels).tolist()) == list(range(N))
    assert torch.cat(labels).tolist() == epoch_permutation(N, 0, 1).tolist()
    shown = torch.cat(images).mul(255).round()
    assert torch.equal(shown, torch.cat(labels).float().reshape(-1, 1, 1, 1).expand_as(shown))


def test_cifar_has_391_steps() -> None:
    split = Split(torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(50_000, dtype=torch.int64))
    assert len(Batches(split, 128, 0, Augmentation())) == 391


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_resume_in_mid_epoch_is_exact(start: int) -> None:
    whole = list(batches().epoch(3))[start:]
    resumed = list(batches().epoch(3, start_step=start))
    assert len(whole) == len(resumed) == 7 - start
    assert all(map(same, whole, resumed))


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    used = batches()
    list(itertools.islice(used.epoch(1), 3))
    assert all(map(same, used.epoch(2), batches().epoch(2)))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_together_make_the_batch_of_one_process(world_size: int) -> None:
    ranks = [batches().epoch(1, rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, parts in zip(batches().epoch(1), zip(*ranks, strict=True), strict=True):
        steps, images, labels = zip(*parts, strict=True)
        assert same(whole, (steps[0], torch.cat(images), torch.cat(labels)))
        sizes = [len(part) for part in labels]
        assert max(sizes) - min(sizes) <= 1


def test_augmentation_is_fresh_in_every_step_epoch_and_run() -> None:
    image = torch.randint(256, (1, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = Split(image.expand(8, 1, 16, 16).contiguous(), torch.arange(8))
    seen = [
        images
        for seed in (0, 1)
        for epoch in (0, 1, 2)
        for _, images, _ in batches(split, seed, batch_size=4).epoch(epoch)
    ]
    assert len(seen) == 12
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_digest_is_the_crc_of_the_order() -> None:
    for epoch in (1, 2):
        order = epoch_permutation(N, 5, epoch).tolist()
        expected = zlib.crc32(struct.pack(f"<{N}q", *order))
        assert batches(seed=5).data_order_digest(epoch) == f"{expected:08x}"


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_keeps_order_and_pixels(world_size: int) -> None:
    split, augmentation = numbered_split(), Augmentation(2, True, mean=(0.5,), std=(0.25,))
    ranks = [Batches.evaluation(split, augmentation, 20, rank, world_size) for rank in range(world_size)]
    parts = [part for step in zip(*ranks, strict=True) for part in step]
    images, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    assert torch.equal(labels, split.labels)
    assert torch.equal(images, augmentation.evaluation_batch(split.images))
    assert len(parts) == 6 * world_size


def test_batches_are_made_where_the_split_is() -> None:
    split = random_split().to("meta")
    with OneDevice():
        training = [tensor for _, *both in batches(split).epoch(0) for tensor in both]
        evaluation = [tensor for both in Batches.evaluation(split, Augmentation()) for tensor in both]
    assert {tensor.device.type for tensor in training + evaluation} == {"meta"}


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="batch_size should be 1 or more; it is 0"):
        batches(batch_size=0)
    with pytest.raises(UsageError, match="batch_size should be 1 or more; it is 0"):
        next(Batches.evaluation(random_split(), Augmentation(), batch_size=0))
    for start in (-1, 8):
        with pytest.raises(UsageError, match=rf"start_step should be 0\.\.7, .* it is {start}"):
            next(batches().epoch(0, start_step=start))
    for rank in (-1, 2):
        with pytest.raises(UsageError, match=rf"rank should be 0\.\.1 for 2 processes; it is {rank}"):
            next(batches().epoch(0, rank=rank, world_size=2))
