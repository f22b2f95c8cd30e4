"""The dry run: memory in closed form, nothing written."""

import os
from dataclasses import replace

import pytest
import torch

from dirprune.cli import dry_run as cli_dry_run
from dirprune.cli import main
from dirprune.recipes import RECIPES, get_recipe
from dirprune.report import wording
from dirprune.train import Execution, TrainConfig, dry_run, engines, estimate

CONFIG = TrainConfig(recipe="test", dataset="digits", model="lenet-300-100", batch_size=40, epochs=3)
P = 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10


def digits(config, **execution):
    return estimate(config, Execution(**execution), images=1437, num_classes=10, shape=(1, 8, 8))


@pytest.mark.parametrize(
    ("method", "momentum", "copies"),
    [("sgd", 0.0, 0), ("sgd", 0.9, 1), ("grda", 0.0, 1), ("grda", 0.9, 2), ("linbreg", 0.0, 1)],
)
def test_memory_of_weights_gradients_and_state(method, momentum, copies):
    found = digits(replace(CONFIG, momentum=momentum).with_method(method))
    assert (found.parameters, found.weights, found.gradients) == (P, 4 * P, 4 * P)
    scalars = 2 * 8 * 6 if method == "grda" else 0  # step and threshold of six tensors
    assert found.optimizer == 4 * P * copies + scalars


def test_activations_and_steps():
    """Kept for the backward pass: the input, two hidden layers after ReLU, and the log-probabilities."""
    whole, parts = digits(CONFIG), digits(CONFIG, accumulation=4)
    each = 4 * (64 + 300 + 100 + 10) + 8  # float32, and a label in int64
    assert (whole.at_once, parts.at_once) == (40, 10)
    assert whole.activations == pytest.approx(40 * each, abs=64)
    assert parts.activations == pytest.approx(10 * each, abs=64)
    assert (whole.steps_per_epoch, whole.epochs) == (36, 3)
    assert 0 < whole.step < 1
    assert whole.peak > whole.weights
    assert whole.measured_images == 40


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("MemTotal: 9 kB\nMemFree:  2 kB\nMemAvailable:  5 kB\n", 5 * 1024),
        ("MemTotal: 9 kB\n", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4),
        (None, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4),
    ],
)
def test_memory_that_caches_would_give_back_is_available(told, expected, tmp_path, monkeypatch):
    if told is not None:
        (tmp_path / "meminfo").write_text(told)
    monkeypatch.setattr(dry_run, "_MEMORY", tmp_path / "meminfo")
    assert dry_run.available_memory(torch.device("cpu")) == expected
    monkeypatch.delattr(os, "sysconf")  # as on Windows
    assert dry_run.available_memory(torch.device("cpu")) > 0


def test_command_prints_both_methods_and_writes_nothing(tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["train", "digits", "--dry-run", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "digits, sgd, 2 runs" in out
    assert "digits, grda, 2 runs" in out
    assert out.count("parameters   50,610") == 2
    assert "45 an epoch of 1,437 images, 9,000 in 200 epochs" in out
    assert "all 4 runs" in out
    assert list(here.iterdir()) == []
    assert not (tmp_path / "dirprune").exists()


@pytest.mark.parametrize(
    ("asked", "threads", "at_once"),
    [
        (["--threads", "3"], 3, 2),
        (["--threads", "3", "--jobs", "1"], 3, 1),
        ([], 1, 4),  # the recipe's
        (["--jobs", "3"], 1, 3),
    ],
    ids=str,
)
def test_threads_and_runs_at_once_are_those_of_the_training(asked, threads, at_once, monkeypatch, capsys):
    """8 cores; a step of one second, 100 of them, for four runs."""
    seen = []

    def estimated(*_, **__):
        seen.append(torch.get_num_threads())
        return replace(found, step=1.0, steps_per_epoch=10, epochs=10)

    found = digits(CONFIG)
    monkeypatch.setattr(cli_dry_run, "estimate", estimated)
    monkeypatch.setattr(engines, "usable_cores", lambda: 8)
    monkeypatch.setattr(engines, "_cuda_devices", list)
    before = torch.get_num_threads()
    try:
        assert main(["train", "digits", "--dry-run", "--seeds", "2", *asked]) == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [threads] * 2
    together = f", {at_once} at once" if at_once > 1 else ""
    said = capsys.readouterr().out
    assert f"all 4 runs{together}: {wording.duration(400 / at_once)}; " in said


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name, capsys):
    """Made small where the network allows it."""
    assert get_recipe(name).config.epochs > 1
    width = [] if name == "resnet50-imagenet" else ["--width", "0.1"]
    size = ["--image-size", "32"] if name == "resnet50-imagenet" else []
    small = ["--batch-size", "4", "--methods", "grda", *width, *size]
    assert main(["train", name, "--dry-run", *small]) == 0
    assert f"{name}, grda" in capsys.readouterr().out
