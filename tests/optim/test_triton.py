"""The kernel for GPUs, run by Triton's interpreter on the CPU, against the readable update."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from dirprune.optim.paths import why_not_fused

ROOT = Path(__file__).parents[2]

SCRIPT = """
import itertools
from contextlib import nullcontext
import torch
from dirprune.optim import paths
from dirprune.optim.kernels import cuda
from dirprune.optim import GRDA
from tests.optim.common import DTYPES, HALF, OPTIONS, PENALTIES, assert_same, parameters, train

def channels(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 40), (4, 3, 3, 3), (2, 2500), (50,), (1, 7), (2, 0)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]

def compare(params, lr=0.1, **options):
    exact = lr == 0.125  # whose products round nothing
    truncates = any(p.dtype == torch.bfloat16 for p in params())  # the interpreter does, where a GPU rounds
    fused, loop = (GRDA(params(), lr=lr, c=2.0, foreach=f, **options) for f in (None, False))
    for n in range(6):
        for optimizer in (fused, loop):
            optimizer.grad_scale = torch.tensor(4.0 if n % 2 or exact or truncates else 3.0)
            train(optimizer, steps=1, first=n)
    if exact:
        assert_same(fused, loop)
    zeros = 0
    for p, q in zip(fused.param_groups[0]["params"], loop.param_groups[0]["params"], strict=True):
        close = {"rtol": 2**-6, "atol": 1e-2} if p.dtype in HALF else {}
        torch.testing.assert_close(p, q, **close)
        torch.testing.assert_close(p.grad, q.grad)
        zeros += int((p == 0).sum())
        for key, value in loop.state[q].items():
            torch.testing.assert_close(fused.state[p][key], value, **close)
            assert fused.state[p][key].dtype == value.dtype
    assert zeros > 10

assert cuda._current(torch.device("cuda", 1)).idx == 1  # which can be made without a GPU
current = []
cuda._current = lambda device: (current.append(device), nullcontext())[1]
launched = []
launch = cuda._launch
cuda._launch = lambda *arguments: (launched.append(len(arguments[3].params)), launch(*arguments))
paths._kernel_or_reason = lambda kind: cuda.step
for dtype, name, penalty in itertools.product(DTYPES, OPTIONS, PENALTIES):
    compare(lambda: parameters(dtype), penalty=penalty, **OPTIONS[name])
assert set(launched) == {5}, launched  # all but the one with gaps
assert current == [torch.device("cpu")] * len(launched)  # each on the device of its parameters
for dtype, penalty in itertools.product((torch.float16, torch.float32), PENALTIES):
    compare(lambda: parameters(dtype), lr=0.125, penalty=penalty, accumulator_dtype=torch.bfloat16)
    compare(lambda: parameters(dtype), lr=0.125, penalty=penalty, maximize=True)
launched.clear()
for dtype, name in itertools.product(DTYPES, OPTIONS):
    compare(lambda: channels(dtype), penalty="rescaled", **OPTIONS[name])
assert set(launched) == {6}, launched
launched.clear()
compare(lambda: parameters(torch.float32), penalty="rescaled")
assert set(launched) == {4}, launched  # not the transpose either, whose rows do not lie together
compare(lambda: [p for dtype in DTYPES for p in parameters(dtype)], **OPTIONS["nesterov"])
compare(lambda: [torch.nn.Parameter(torch.randn(5000, generator=torch.Generator().manual_seed(0)))])
without = GRDA([torch.nn.Parameter(torch.ones(37))], lr=0.1)
without.param_groups[0]["c"] = float("nan")
train(without, steps=1)
assert without.param_groups[0]["params"][0].isnan().all()
for rule in paths.FUSED_RULES:
    paths._try(cuda.step, rule(), "cpu")
print("done")
"""


def test_it_equals_the_readable_update_to_rounding() -> None:
    """The interpreter rounds a product before it adds; a GPU does not."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout == "done\n", ended.stderr


def test_without_a_gpu_there_is_a_reason() -> None:
    assert torch.cuda.is_available() or "no GPU" in why_not_fused("cuda")


def test_without_triton_there_is_a_reason() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
torch.cuda.is_available = lambda: True
from dirprune.optim.paths import why_not_fused
print(why_not_fused("cuda"))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.stdout.startswith("Triton cannot be imported"), ended.stderr
