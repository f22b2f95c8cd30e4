"""Threads of the sparse runtime: the same bits from any number, across forks, between callers.

The oracle is the run on one thread, which test_sparse_runtime.py holds to NumPy.
"""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from dirprune.export import SparseModel
from dirprune.models import create_model
from tests.export.networks import thin

pytestmark = pytest.mark.usefixtures("compiler")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return thin(create_model("wrn10x1", num_classes=10), 0.8)


def test_the_bits_do_not_depend_on_the_threads(model):
    runtime = SparseModel(model, (3, 32, 32), threads=1)
    x = torch.randn(3, 3, 32, 32)
    expected = runtime(x)
    for runtime.threads in (2, 7, 1, 3):
        for _ in range(20):
            assert torch.equal(runtime(x), expected)


def test_callers_from_many_threads(model):
    runtimes = [SparseModel(model, (3, 32, 32), threads=threads) for threads in (1, 2, 3)]
    x = torch.randn(2, 3, 32, 32)
    expected = runtimes[0](x)
    wrong = []

    def call(runtime):
        for _ in range(20):
            if not torch.equal(runtime(x), expected):
                wrong.append(runtime.threads)

    callers = [threading.Thread(target=call, args=(runtime,)) for runtime in runtimes * 2]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert wrong == []


SCRIPT = """
import os, sys, time, torch
from dirprune.export import SparseModel

def tasks():
    return set(os.listdir("/proc/self/task"))

torch.set_num_threads(1)
torch.manual_seed(0)
conv = torch.nn.Conv2d(8, 8, 3, padding=1)
expected = SparseModel(conv, (8, 64, 64), threads=1)(torch.ones(1, 8, 64, 64))
before = tasks()
runtime = SparseModel(conv, (8, 64, 64), threads=3)
for _ in range(30):
    assert torch.equal(runtime(torch.ones(1, 8, 64, 64)), expected)
workers = tasks() - before
assert len(workers) == 2, workers

status = open(f"/proc/self/task/{workers.pop()}/status").read()
blocked = int(status.split("SigBlk:")[1].split()[0], 16)
assert blocked >> 1 & 1 and blocked >> 14 & 1, "a worker takes SIGINT or SIGTERM from the program"

time.sleep(0.3)
start = time.process_time()
time.sleep(0.5)
assert time.process_time() - start < 0.1, "workers do not sleep between runs"

child = os.fork()
for _ in range(30):
    assert torch.equal(runtime(torch.ones(1, 8, 64, 64)), expected)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0 if len(tasks()) == 3 else 3)
"""


def test_workers_stay_sleep_leave_signals_alone_and_are_new_after_a_fork():
    """Linux tells of threads in /proc."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_times_of_operations_add_up(model):
    runtime, x = SparseModel(model, (3, 32, 32), threads=1), torch.randn(1, 3, 32, 32)
    expected = runtime(x)
    (plan,) = [plan for images, plan in runtime._plans.items() if images == 1]
    shares = []
    for _ in range(20):
        seconds, result = np.full(len(runtime._program), -1.0), torch.empty_like(expected)
        started = time.perf_counter()
        plan.run(x, result, 1, seconds)
        shares.append(seconds.sum() / (time.perf_counter() - started))
        assert torch.equal(result, expected)
        assert (seconds >= 0).all()
    assert 0.5 < max(shares) <= 1  # an interruption may cost some rounds
