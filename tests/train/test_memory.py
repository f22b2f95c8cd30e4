"""The peak of memory: what was held counts, what an earlier run held does not."""

import torch

from dirprune.train.memory import peak_bytes, reset_peak

CPU, LARGE = torch.device("cpu"), 200 * 2**20


def test_the_peak_is_of_what_was_held_since_the_reset():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    held = torch.ones(LARGE // 4)
    assert LARGE * 0.9 <= peak_bytes(CPU) - before <= LARGE * 1.2
    del held
    reset_peak(CPU)
    assert peak_bytes(CPU) - before < LARGE // 2
