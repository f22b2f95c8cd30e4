"""Every method of the registry runs through the one trainer."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from dirprune.data import Augmentation, Batches
from dirprune.errors import HyperparameterError, UsageError
from dirprune.export import load_sparse
from dirprune.methods import METHODS, TrainingPlan, create_method
from dirprune.models import create_model
from dirprune.runs import RunFolder
from dirprune.train import Experiment, TrainConfig, Trainer
from dirprune.train.method import Cost, typed_settings
from dirprune.train.reopen import reopen, run_config

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig(
    recipe="test",
    dataset="digits",
    model="lenet-300-100",
    c=0.02,
    mu=0.7,
    prune="weights",
    batch_size=128,
    epochs=2,
    sparsity=0.8,
    settings=("every=3",),
)


CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dirprune.data import load_dataset
from dirprune.runs import RunFolder
from dirprune.train import Callback, Duration, TrainConfig, Trainer

class Kill(Callback):
    def on_step(self, position):
        if position.step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

dataset = load_dataset("digits")
for name, settings in json.loads(sys.argv[1]).items():
    if (Path(sys.argv[2]) / name / "checkpoints").is_dir():
        continue
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    Trainer(TrainConfig(**settings), dataset, RunFolder(Path(sys.argv[2]) / name),
            callbacks=[Kill()], checkpoint_every=Duration.parse("4it")).run()
"""


def killed(configs, folder, step):
    """Start runs, each of which is killed after a step."""
    wanted = json.dumps({name: asdict(config) for name, config in configs.items()})
    for _ in configs:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, wanted, str(folder), str(step)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
            timeout=120,
        )
        assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_ends_plain_and_sparse(digits, tmp_path, name):
    config = CONFIG.with_method(name)
    result = Trainer(config, digits, RunFolder(tmp_path)).run()
    assert result["status"] == "finished"
    saved = load_sparse(tmp_path / "model.sparse.safetensors")
    weights = {key: tensor for key, tensor in saved.items() if key.endswith("weight")}
    zeros = sum(int((tensor == 0).sum()) for tensor in saved.values())
    assert zeros == result["zeros"]
    if config.sparsity is not None and name != "small-dense":
        total = sum(tensor.numel() for tensor in weights.values())
        assert zeros == total - round(0.2 * total)
    # What training measured in evaluation mode is what the file's plain network does.
    run = reopen(RunFolder(tmp_path), digits)
    images = (digits.test.images / 255 - 0.5) / 0.5
    with torch.no_grad():
        accuracy = (run.model(images).argmax(1) == digits.test.labels).double().mean().item()
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)


def test_with_the_group_penalty_whole_channels_become_zero(digits, tmp_path):
    config = replace(CONFIG.with_method("grda"), penalty="group", c=0.12)
    assert Trainer(config, digits, RunFolder(tmp_path)).run()["status"] == "finished"
    saved = load_sparse(tmp_path / "model.sparse.safetensors")
    rows = [
        (row == 0).double().mean().item() for key, w in saved.items() if key.endswith("weight") for row in w
    ]
    assert {0.0, 1.0} == set(rows)
    assert 20 < rows.count(1.0) < 390
    assert run_config(RunFolder(tmp_path)) == config


@pytest.mark.parametrize("name", ["l0", "rigl", "set", "st3", "acdc", "adabreg"])
def test_a_killed_run_ends_with_the_same_bits(digits, tmp_path, name):
    config = CONFIG.with_method(name)
    Trainer(config, digits, RunFolder(tmp_path / "whole")).run()
    killed({"killed": config}, tmp_path, 18)  # in the second epoch; saved after 16 steps
    Trainer(config, digits, RunFolder(tmp_path / "killed")).run()
    for file in ("model.sparse.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


@pytest.mark.parametrize("name", ["variational-dropout", "rigl"])
def test_equals_a_plain_loop(digits, tmp_path, name):
    config = replace(CONFIG.with_method(name), schedule="cosine")
    Trainer(config, digits, RunFolder(tmp_path)).run()

    torch.manual_seed(0)
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    batches = Batches(digits.train, 128, 0, Augmentation(mean=(0.5,), std=(0.5,)))
    method = create_method(name, **({"every": 3} if name == "rigl" else {}))
    steps = math.ceil(len(digits.train) / 128)
    plan = TrainingPlan(
        total_steps=2 * steps,
        steps_per_epoch=steps,
        examples=len(digits.train),
        lr=0.1,
        batches=lambda: iter(()),
        include="weights",
        sparsity=0.8 if name == "rigl" else None,
    )
    optimizer = method.start(model, plan)
    step = 0
    for epoch in (1, 2):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * epoch / 2))
        for _, images, labels in batches.epoch(epoch):
            step += 1
            loss = functional.cross_entropy(model(images), labels)
            if (penalty := method.penalty(step)) is not None:
                loss = loss + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step(step)
    method.finish()
    saved = load_sparse(tmp_path / "model.sparse.safetensors")
    assert all(torch.equal(saved[key], tensor) for key, tensor in model.state_dict().items())


def test_run_names_tell_runs_apart_and_stay_as_they_were():
    assert CONFIG.with_method("sgd").run_name == "sgd-seed0"
    assert CONFIG.with_method("grda").run_name == "grda-c0.02-mu0.7-seed0"
    assert CONFIG.with_method("rigl").run_name == "rigl-0.8-every=3-seed0"
    names = [CONFIG.with_method(name).run_name for name in METHODS]
    assert len(set(names)) == len(METHODS)


def test_a_folder_of_an_earlier_version_is_the_same_run(digits, tmp_path):
    """Earlier configurations had neither sparsity nor settings, earlier checkpoints no method."""
    config = replace(CONFIG, sparsity=None, settings=()).with_method("grda")
    Trainer(config, digits, RunFolder(tmp_path / "whole")).run()
    killed({"old": config}, tmp_path, 18)
    path = tmp_path / "old" / "config.json"
    content = json.loads(path.read_text())
    del content["sparsity"], content["settings"]
    path.write_text(json.dumps(content))
    for file in (tmp_path / "old" / "checkpoints").iterdir():
        state = torch.load(file, weights_only=True)
        del state["method"]
        for group in state["optimizer"]["param_groups"]:
            del group["initial_lr"]
        torch.save(state, file)
    Trainer(config, digits, RunFolder(tmp_path / "old")).run()
    model = "model.sparse.safetensors"
    assert (tmp_path / "whole" / model).read_bytes() == (tmp_path / "old" / model).read_bytes()
    assert run_config(RunFolder(tmp_path / "old")) == config


def test_settings_are_typed_and_belong_to_a_method():
    assert typed_settings("gradual", ["distribution=erk", "end=1"]) == {"distribution": "erk", "end": 1.0}
    with pytest.raises(HyperparameterError, match="every must be of type int"):
        typed_settings("rigl", ["every=0.5"])
    with pytest.raises(UsageError, match=r"drop=0\.1 belongs to none of sgd, gradual"):
        Experiment(config=replace(CONFIG, settings=("drop=0.1",)), methods=("sgd", "gradual"))
    with pytest.raises(UsageError, match="rigl needs the final sparsity"):
        Experiment(config=replace(CONFIG, sparsity=None, settings=()), methods=("rigl",))
    with pytest.raises(UsageError, match="unknown method"):
        Experiment(config=CONFIG, methods=("rigel",))


def test_cost_counts_products():
    """By hand: a convolution of 3 x 3 on 2 channels to 4, 6 x 6 outputs; a linear layer 144 to 5."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    cost = Cost.of(model, (2, 8, 8))
    assert cost.forward == {"0.weight": 2 * 9 * 4 * 36, "2.weight": 144 * 5}


def test_the_cost_leaves_a_network_as_it_was_even_if_it_fails():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval(), nn.Flatten(), nn.Linear(8, 2))
    Cost.of(model, (1, 4, 4))
    with pytest.raises(RuntimeError):
        Cost.of(model, (1, 9, 9))
    assert [module.training for module in model] == [True, False, True, True]
    assert not any(module._forward_hooks for module in model)


def test_cost_of_training(digits, tmp_path):
    forward = 64 * 300 + 300 * 100 + 100 * 10
    images, epochs = len(digits.train), CONFIG.epochs
    dense = Trainer(CONFIG.with_method("sgd"), digits, RunFolder(tmp_path / "sgd")).run()
    assert dense["macs"] == 3 * forward * images * epochs
    config = CONFIG.with_method("snip")
    sparse = Trainer(replace(config, settings=("batches=2",)), digits, RunFolder(tmp_path / "snip")).run()
    kept = {layer["name"]: 1 - layer["zeros"] / math.prod(layer["shape"]) for layer in sparse["layers"]}
    layers = Cost.of(create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8), (1, 8, 8))
    passes = sum(3 * count * kept[name] for name, count in layers.forward.items()) * images * epochs
    saliency = 2 * 3 * forward * images / math.ceil(images / 128)
    assert sparse["macs"] == pytest.approx(passes + saliency, rel=1e-9)


def test_attention_is_counted_though_it_does_not_call_its_layers():
    """A block over t places of d features: 4 t d^2 products in its maps, 8 t d^2 in the layers after them."""
    model = create_model("vit1x32p7", num_classes=10, in_channels=1, image_size=28)
    counts = Cost.of(model, (1, 28, 28)).forward
    block = "encoder.layers.encoder_layer_0"
    places, d = 17, 32
    assert counts == {
        "conv_proj.weight": 16 * 49 * d,
        f"{block}.self_attention.in_proj_weight": 3 * places * d * d,
        f"{block}.self_attention.out_proj.weight": places * d * d,
        f"{block}.mlp.0.weight": 4 * places * d * d,
        f"{block}.mlp.3.weight": 4 * places * d * d,
        "heads.head.weight": 10 * d,
    }


def test_maps_of_attention_with_other_keys_are_counted_one_by_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, kdim=8, vdim=4, batch_first=True)

        def forward(self, x):  # [b, 3, 2, 2]: three places
            return self.attention(x.flatten(2).repeat(1, 1, 4), x.flatten(2).repeat(1, 1, 2), x.flatten(2))[0]

    products = {
        "q_proj_weight": 16 * 16,
        "k_proj_weight": 16 * 8,
        "v_proj_weight": 16 * 4,
        "out_proj.weight": 256,
    }
    assert Cost.of(Net(), (3, 2, 2)).forward == {f"attention.{k}": 3 * n for k, n in products.items()}
