"""The compiled kernel: made once for each instruction set, and done without where it cannot be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import torch
from dirprune.optim import GRDA
from dirprune.optim.paths import why_not_fused
print("reason:", why_not_fused("cpu"))
p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 999)) for _ in range(2))
for parameter, foreach in ((p, None), (q, False)):
    optimizer = GRDA([parameter], lr=0.1, c=2.0, foreach=foreach)
    for n in range(3):
        parameter.grad = torch.full_like(parameter, 0.1 * n)
        optimizer.step()
print("equal:", torch.equal(p, q))
"""


def run(cache: Path, **environment: str) -> str:
    """What a fresh process says, with a cache of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("equal: True\n")
    assert not ended.stderr
    return ended.stdout


def kernels(cache: Path) -> list[Path]:
    return list((cache / "dirprune" / "native").iterdir())


@pytest.mark.usefixtures("compiler")
def test_it_is_compiled_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert "reason: None" in first
    assert "compiled " in first
    assert "compiled " not in run(tmp_path)
    assert len(kernels(tmp_path)) == 1


def test_without_a_compiler_the_step_is_the_same(tmp_path: Path) -> None:
    said = run(tmp_path, PATH=str(tmp_path), CXX="")
    assert "reason: no C++ compiler is installed (looked for c++, g++, clang++)" in said
    assert "GRDA steps on cpu without a fused kernel" in said


def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'cannot compile today' >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert f"reason: {compiler} failed: cannot compile today" in run(tmp_path, CXX=str(compiler))
    assert kernels(tmp_path) == []


@pytest.mark.usefixtures("compiler")
def test_another_instruction_set_is_another_kernel(tmp_path: Path) -> None:
    """As on a cluster whose machines share a home: torch tells what it uses itself."""
    for capability in ("default", "avx2"):
        assert "reason: None" in run(tmp_path, ATEN_CPU_CAPABILITY=capability)
    assert len(kernels(tmp_path)) == 2
