"""The peak of memory: what was held counts, what an earlier run held does not."""

import os
import platform
import resource
import subprocess
import sys

import pytest
import torch

from dirprune.train import memory
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


def test_where_nothing_tells_the_peak_is_unknown(monkeypatch, tmp_path):
    """As on Windows, which has neither /proc nor the module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert memory.peak_bytes(CPU) is None


# In a process of its own, for what the C library is told lasts. A page is 4 KiB: 64 MiB are 16,384 of them.
PAGES = """
import resource, sys, torch
from dirprune.train.memory import keep_freed_memory, peak_bytes, reset_peak
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    before = faults()
    torch.ones(2**24)
    return faults() - before
print(sorted(step() for _ in range(11))[5])  # the first few still look for their place
reset_peak(torch.device("cpu"))
held = peak_bytes(torch.device("cpu"))
torch.ones(2**26)
reset_peak(torch.device("cpu"))
print(peak_bytes(torch.device("cpu")) - held)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc knows how to keep freed memory")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_used_again_and_given_back_before_a_run_is_measured(keep):
    # What the machine's owner has told the allocator is not what is tested.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", PAGES, "keep" if keep else "return"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    faults, rest = map(int, run.stdout.split())
    pages = 2**26 // resource.getpagesize()
    assert faults < pages / 10 if keep else faults > 0.9 * pages
    assert rest < 2**26
