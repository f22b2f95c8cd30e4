"""First steps: the points are those of a plain loop, whether interrupted or not, and other runs stay."""

import json
import os
import signal

import pytest
import torch
from torch.nn import functional

import first_steps
from dirprune.data import Augmentation, Batches, load_dataset
from dirprune.models import create_model
from dirprune.recipes import get_recipe
from dirprune.train import Callback

SGD = "digits/sgd-seed0"


def run(folder, *options):
    output = folder / "first-steps.json"
    arguments = ["digits", "--steps", "20", "--threads", "1", "--out", str(folder / "out")]
    code = first_steps.main([*arguments, "--output", str(output), *options])
    return code, json.loads(output.read_text())["runs"] if output.is_file() else {}


def plain_losses(steps):
    """Train with SGD in plain PyTorch."""
    config = get_recipe("digits").config
    torch.manual_seed(0)
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    digits = load_dataset("digits")
    batches = Batches(digits.train, config.batch_size, 0, Augmentation(mean=config.mean, std=config.std))
    losses = []
    for _, images, labels in batches.epoch(1):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[:steps]


def test_points_are_those_of_a_plain_loop_and_other_runs_stay(tmp_path):
    code, runs = run(tmp_path, "--methods", "sgd")
    losses = plain_losses(20)
    assert code == 0
    assert runs[SGD]["points"]["step"] == [10, 20]
    means = [sum(losses[:10]) / 10, sum(losses[10:]) / 10]
    assert runs[SGD]["points"]["train_loss"] == pytest.approx(means, rel=1e-9)
    assert runs[SGD]["points"]["sparsity"] == [0.0, 0.0]
    code, runs = run(tmp_path, "--methods", "grda", "--mu", "0.6", "0.7")
    assert code == 0
    assert sorted(runs) == ["digits/grda-c0.01-mu0.6-seed0", "digits/grda-c0.01-mu0.7-seed0", SGD]
    zeros = [runs[f"digits/grda-c0.01-mu{mu}-seed0"]["points"]["sparsity"][1] for mu in ("0.6", "0.7")]
    assert 0 < zeros[0] < zeros[1]


@pytest.mark.parametrize("last", [10, 13])  # at a point with its checkpoint, and at neither
def test_interrupted_steps_go_on_to_the_same_points(last, tmp_path, monkeypatch):
    _, whole = run(tmp_path / "whole")

    class Interrupt(Callback):
        def on_step(self, position):
            if position.step == last:
                os.kill(os.getpid(), signal.SIGINT)

    trainer = first_steps.Trainer
    with monkeypatch.context() as context:
        context.setattr(
            first_steps,
            "Trainer",
            lambda *given, callbacks, **options: trainer(
                *given, callbacks=[*callbacks, Interrupt()], **options
            ),
        )
        code, begun = run(tmp_path / "begun")
    assert code == 130
    assert begun[SGD]["points"]["step"] == [10]
    code, resumed = run(tmp_path / "begun")
    assert code == 0
    assert {name: run["points"] for name, run in resumed.items()} == {
        name: run["points"] for name, run in whole.items()
    }
    assert len(resumed[SGD]["environment"]["resumed"]) == 1


@pytest.mark.parametrize("steps", ["15", "50"])  # not a multiple of ten; more than the 45 of an epoch
def test_steps_must_be_tens_of_the_first_epoch(steps, tmp_path, capsys):
    assert run(tmp_path, "--steps", steps)[0] == 2
    assert capsys.readouterr().err.startswith("first_steps: --steps must be")
