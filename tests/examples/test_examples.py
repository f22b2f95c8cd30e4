"""Every script in examples/ runs, says what is true, and leaves what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dirprune import load_sparse

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OTHERS = {"digits.py", "two_optimizers.py"}  # what all share; tested by itself
# What the others are run with, and an accuracy that no network reaches by guessing.
SETTINGS = {
    "lightning_callback": (["--epochs", "2"], 0.8),
    "plain_loop": (["--epochs", "2"], 0.8),
    "publish": (["--epochs", "2"], 0.8),
    "timm_scheduler": (["--epochs", "2"], 0.8),
    "transformers_trainer": (["--epochs", "15"], 0.8),
}


def run(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::dirprune.errors.LostShadowWarning",
            EXAMPLES / f"{name}.py",
            *arguments,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def sparsity_of_file(path):
    state = load_sparse(path)
    return sum(int((tensor == 0).sum()) for tensor in state.values()) / sum(t.numel() for t in state.values())


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {f"{name}.py" for name in SETTINGS} | OTHERS


@pytest.mark.parametrize("name", SETTINGS)
def test_example(name, tmp_path):
    arguments, least = SETTINGS[name]
    out = run(name, *arguments, "--out", tmp_path)
    small = tmp_path / "model.sparse.safetensors"
    sparsity = sparsity_of_file(small)
    assert 0 < sparsity < 1
    if name == "publish":
        assert out.strip().endswith("same outputs: True")
        (accuracy,) = re.findall(r"test accuracy \| ([\d.]+) %", (tmp_path / "README.md").read_text())
        assert float(accuracy) / 100 > least
    else:
        assert float(re.findall(r"accuracy ([\d.]+)", out)[-1]) > least
        said = float(re.findall(r"sparsity ([\d.]+)", out)[-1])
        assert said == pytest.approx(sparsity, rel=0.05)  # the file has statistics of BatchNorm too


def test_two_optimizers_resume_exactly(tmp_path):
    out = run("two_optimizers", "--epochs", "2", "--out", tmp_path / "whole")
    assert float(re.findall(r"accuracy ([\d.]+)", out)[-1]) > 0.8
    assert 0 < sparsity_of_file(tmp_path / "whole" / "model.sparse.safetensors") < 1
    run("two_optimizers", "--epochs", "1", "--out", tmp_path / "parts")
    assert "resumed after epoch 1" in run("two_optimizers", "--epochs", "2", "--out", tmp_path / "parts")
    whole, parts = (tmp_path / name / "model.sparse.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
