"""Training: twins start alike, resume is exact under real kills, divergence is caught, stops are clean."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.nn import functional

from dirprune.core.sparsity import sparsity_report
from dirprune.data import Augmentation, Batches, Split, epoch_permutation
from dirprune.errors import DataError, RunFolderError, UsageError
from dirprune.export import load_sparse
from dirprune.models import MODELS, create_model
from dirprune.optim import GRDA
from dirprune.runs import RunFolder
from dirprune.train import Callback, Duration, Experiment, StopRequested, TrainConfig, Trainer, run_experiment
from dirprune.train.interruption import stop_requests
from dirprune.train.measures import evaluate, first_non_finite
from dirprune.train.reopen import reopen
from tests.train.dropout_net import dropout_net

pytestmark = pytest.mark.usefixtures("one_thread")

# Random crops, so that a resume has random numbers to get wrong.
CONFIG = TrainConfig(
    recipe="test",
    dataset="digits",
    model="lenet-300-100",
    c=5e-3,
    mu=0.6,
    batch_size=64,
    epochs=3,
    crop_padding=1,
)


def test_equals_a_plain_loop(digits, tmp_path):
    """The whole loop against a dozen lines of plain PyTorch with the same order of the data."""
    config = replace(CONFIG, crop_padding=0, epochs=2).with_method("sgd")
    result = Trainer(config, digits, RunFolder(tmp_path)).run()

    torch.manual_seed(0)
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Batches(digits.train, 64, 0, Augmentation(mean=(0.5,), std=(0.5,)))
    for epoch in (1, 2):
        total = 0.0
        for _, images, labels in batches.epoch(epoch):
            loss = functional.cross_entropy(model(images), labels)
            total += loss.item() * len(labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    images = (digits.test.images / 255 - 0.5) / 0.5
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == digits.test.labels).double().mean().item()

    saved = load_sparse(tmp_path / "model.sparse.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    assert result["train_loss"] == pytest.approx(total / len(digits.train), rel=1e-9)
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)


LOOPS = {  # optimiser, its own options, and the configuration's where they are named otherwise
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}, {}),
    "adamw": (
        torch.optim.AdamW,
        {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1},
        {"lr": 1e-3, "momentum": 0.9, "beta2": 0.99, "weight_decay": 0.1},
    ),
    "grda": (
        GRDA,
        {"c": 0.05, "mu": 0.7, "penalty": "l0", "momentum": 0.5, "nesterov": True, "weight_decay": 1e-2},
        {},
    ),
    "adaptive grda": (
        GRDA,
        {"lr": 1e-3, "c": 2.0, "momentum": 0.9, "beta2": 0.99, "weight_decay": 0.1},
        {},
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_every_option_reaches_the_optimiser(digits, tmp_path, name):
    optimiser, options, settings = LOOPS[name]
    method = "grda" if optimiser is GRDA else "sgd"
    config = replace(CONFIG, crop_padding=0, epochs=1, **(settings or options)).with_method(method)
    Trainer(config, digits, RunFolder(tmp_path)).run()

    torch.manual_seed(0)
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    chosen = {"lr": 0.1, "mu": CONFIG.mu, **options} if optimiser is GRDA else {"lr": 0.1, **options}
    optimizer = optimiser(model.parameters(), **chosen)
    for _, images, labels in Batches(digits.train, 64, 0, Augmentation(mean=(0.5,), std=(0.5,))).epoch(1):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    saved = load_sparse(tmp_path / "model.sparse.safetensors")
    assert all(torch.equal(saved[key], tensor) for key, tensor in model.state_dict().items())
    assert any((tensor == 0).any() for tensor in saved.values()) == (method == "grda")


def test_a_reopened_run_gives_the_batches_that_it_was_trained_on(digits, tmp_path):
    Trainer(replace(CONFIG, epochs=1, seed=3), digits, RunFolder(tmp_path)).run()
    run = reopen(RunFolder(tmp_path), digits)
    images, labels = (torch.cat(parts) for parts in zip(*run.shuffled(2), strict=True))
    order = epoch_permutation(len(digits.train), 3, 2)
    assert torch.equal(labels, digits.train.labels[order])
    plain = (digits.train.images[order] / 255 - 0.5) / 0.5
    assert (images != plain).flatten(1).any(1).double().mean() > 0.8  # cropped at random


def test_twins_start_alike_and_differ_only_by_the_method(digits, tmp_path):
    runs = run_experiment(Experiment(config=CONFIG, seeds=2), digits, tmp_path)
    results = [run.result() for run in runs]
    assert results[0]["initial_weights"] == results[1]["initial_weights"] != results[2]["initial_weights"]
    orders = [[record["data_order"] for record in run.metrics()] for run in runs]
    assert orders[0] == orders[1] != orders[2]
    assert results[0]["sparsity"] == 0.0
    assert results[1]["sparsity"] > 0.05


def test_result_agrees_with_the_sparse_file(digits, tmp_path):
    result = Trainer(CONFIG, digits, RunFolder(tmp_path)).run()
    model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=8)
    load_sparse(tmp_path / "model.sparse.safetensors", model)
    report = sparsity_report(model)
    assert (result["zeros"], result["parameters"]) == (report.zeros, report.numel)
    assert result["sparse_bytes"] == (tmp_path / "model.sparse.safetensors").stat().st_size
    test = evaluate(model, Batches.evaluation(digits.test, Augmentation(mean=(0.5,), std=(0.5,))))
    assert (test.loss, test.accuracy) == (result["test_loss"], result["test_accuracy"])
    best = max(RunFolder(tmp_path).metrics(), key=lambda record: record["test_accuracy"])
    assert result["best"] == {key: best[key] for key in ("epoch", "test_accuracy", "sparsity")}


def test_finished_run_is_not_done_again(digits, tmp_path):
    first = Trainer(CONFIG, digits, RunFolder(tmp_path)).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".lock"}
    assert Trainer(CONFIG, digits, RunFolder(tmp_path)).run() == first
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(RunFolderError, match="epochs=3"):
        Trainer(replace(CONFIG, epochs=4), digits, RunFolder(tmp_path)).run()


CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dirprune.data import load_dataset
from dirprune.models.registry import MODELS
from dirprune.runs import RunFolder
from dirprune.train import Callback, Duration, TrainConfig, Trainer
from tests.train.dropout_net import dropout_net

moment, left = sys.argv[3], int(sys.argv[4])

def count():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Steps(Callback):
    def on_step(self, position):
        if moment == "step":
            count()

flush = os.fsync
def fsync(descriptor):
    if moment == "write":
        count()
    flush(descriptor)
os.fsync = fsync

MODELS["dropout-net"] = dropout_net
config = TrainConfig(**json.loads(sys.argv[2]))
folder = RunFolder(Path(sys.argv[1]))
Trainer(config, load_dataset("digits"), folder, callbacks=[Steps()], checkpoint_every=Duration(4, "it")).run()
"""


def test_killed_at_random_moments_and_resumed_is_bit_equal(tmp_path):
    """Kill -9 at random steps, and just before random writes reach the disk."""
    config = {
        "recipe": "test", "dataset": "digits", "model": "dropout-net", "lr": 0.05, "c": 2e-3, "momentum": 0.5,
        "batch_size": 64, "epochs": 6, "crop_padding": 1, "schedule": "half-linear",
    }  # fmt: skip

    def run(folder, moment="never", left=0):
        command = [sys.executable, "-c", CHILD, str(tmp_path / folder), json.dumps(config), moment, str(left)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, timeout=120, check=False).returncode

    assert run("whole") == 0
    moments, kills = random.Random(0), {"step": 0, "write": 0}
    for attempt in range(100):  # 138 steps, some 80 writes
        moment = ("step", "write")[attempt % 2]
        code = run("killed", moment, moments.randint(8, 30) if moment == "step" else moments.randint(4, 20))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills[moment] += 1
    assert code == 0
    assert min(kills.values()) >= 3

    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert whole.sparse_file.read_bytes() == killed.sparse_file.read_bytes()
    assert (whole.path / "metrics.jsonl").read_bytes() == (killed.path / "metrics.jsonl").read_bytes()
    assert list(killed.path.rglob("*.tmp")) == []
    assert len(killed.environment()["resumed"]) >= 3
    ends = [run.newest_checkpoint() for run in (whole, killed)]
    assert ends[0].step == ends[1].step
    assert torch.equal(ends[0].state["cpu_rng"], ends[1].state["cpu_rng"])
    states = [end.state["optimizer"]["state"] for end in ends]
    for index, state in states[0].items():
        assert all(torch.equal(tensor, states[1][index][key]) for key, tensor in state.items())
    results = [run.result() for run in (whole, killed)]
    for result in results:
        assert result.pop("seconds") > 0
        assert result.pop("peak_bytes") > 2**20
    assert results[0] == results[1]


class Interrupt(Callback):
    """Sends Ctrl-C at a step, or once all epochs are over."""

    def __init__(self, step=None):
        self.step = step

    def on_step(self, position):
        if position.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def on_epoch(self, metrics, sparsity):  # noqa: ARG002
        if self.step is None and metrics["epoch"] == CONFIG.epochs:
            os.kill(os.getpid(), signal.SIGINT)


def test_first_stop_request_saves_and_the_run_resumes_to_the_same_end(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "dropout-net", dropout_net)
    config = replace(CONFIG, model="dropout-net")
    handler = signal.getsignal(signal.SIGINT)
    interrupted = RunFolder(tmp_path / "interrupted")
    with pytest.raises(StopRequested):
        Trainer(config, digits, interrupted, callbacks=[Interrupt(step=30)]).run()
    assert interrupted.newest_checkpoint().step == 30
    assert signal.getsignal(signal.SIGINT) is handler
    Trainer(config, digits, interrupted).run()
    Trainer(config, digits, RunFolder(tmp_path / "whole")).run()
    assert (
        interrupted.sparse_file.read_bytes() == (tmp_path / "whole" / "model.sparse.safetensors").read_bytes()
    )


def test_a_run_goes_on_without_the_record_of_where_it_began(digits, tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(StopRequested):
        Trainer(CONFIG, digits, run, callbacks=[Interrupt(step=30)]).run()
    (tmp_path / "environment.json").unlink()
    assert Trainer(CONFIG, digits, run, command="again").run()["status"] == "finished"
    assert [again["command"] for again in run.environment()["resumed"]] == ["again"]


def test_a_second_sigterm_lets_the_step_end_and_a_second_ctrl_c_does_not():
    """A batch system sends SIGTERM to every process of a job, and torchrun hands its own on."""
    with stop_requests() as received:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
    with pytest.raises(KeyboardInterrupt), stop_requests():  # noqa: PT012
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)


def test_stop_request_at_the_very_end_stops_the_runs_that_would_follow(digits, tmp_path):
    with pytest.raises(StopRequested):
        run_experiment(Experiment(config=CONFIG), digits, tmp_path, callbacks=[Interrupt()])
    assert RunFolder(tmp_path / "sgd-seed0").result()["status"] == "finished"
    assert not list(tmp_path.glob("grda-*"))


def test_non_finite_state_stops_names_the_parameter_and_keeps_the_last_good_checkpoint(digits, tmp_path):
    class Poison(Callback):
        def on_step(self, position):
            if position.step == 30:
                state = trainer._optimizer.state[dict(trainer._bare.named_parameters())[third]]
                state["accumulator"][0, 0] = float("nan")

    trainer = Trainer(
        CONFIG, digits, RunFolder(tmp_path), callbacks=[Poison()], checkpoint_every=Duration(10, "it")
    )
    third = [name for name, _ in trainer._bare.named_parameters()][2]
    result = trainer.run()
    assert result["status"] == "diverged"
    checkpoint = RunFolder(tmp_path).newest_checkpoint()
    assert checkpoint.step == 20  # the one of step 30 would have held the NaN
    held = [tensor for state in checkpoint.state["optimizer"]["state"].values() for tensor in state.values()]
    assert all(torch.isfinite(tensor).all() for tensor in [*checkpoint.state["model"].values(), *held])

    trainer = Trainer(CONFIG, digits, RunFolder(tmp_path / "2"), callbacks=[Poison()])
    message = trainer.run()["message"]
    assert f"first non-finite parameter: {third}" in message
    assert "after 31 steps" in message  # the weights follow the accumulator one step later


def test_divergence_in_the_last_step_is_not_a_finished_run(digits, tmp_path):
    config = replace(CONFIG, lr=3e38, batch_size=2000, epochs=1).with_method("sgd")
    result = Trainer(config, digits, RunFolder(tmp_path)).run()
    assert result["status"] == "diverged"
    assert not (tmp_path / "model.sparse.safetensors").exists()


def test_divergence_of_one_run_does_not_lose_the_others(digits, tmp_path):
    runs = run_experiment(Experiment(config=replace(CONFIG, lr=1e6, epochs=1), seeds=2), digits, tmp_path)
    # At such a rate SGD overflows, while gRDA's threshold outgrows every weight.
    assert [run.result()["status"] for run in runs] == ["diverged", "finished"] * 2
    assert runs[1].result()["sparsity"] > 0.999


def test_first_non_finite_names_the_first_or_the_greatest():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight[1, 0] = -1e9
    assert first_non_finite(model) == "all parameters are finite, the greatest magnitude is 1e+09 in 0.weight"
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
        model[1].bias.fill_(float("inf"))
    assert first_non_finite(model) == "first non-finite parameter: 1.weight"


def test_other_data_is_another_run(digits, tmp_path):
    Trainer(CONFIG, digits, RunFolder(tmp_path)).run()
    inverted = replace(digits, train=Split(255 - digits.train.images, digits.train.labels))
    with pytest.raises(RunFolderError, match="holds a run with data="):
        Trainer(CONFIG, inverted, RunFolder(tmp_path)).run()


def test_validation_measures_on_held_back_training_images(digits, tmp_path):
    trainer = Trainer(replace(CONFIG, validation=0.2), digits, RunFolder(tmp_path))
    held = trainer._inputs.evaluated.images.flatten(1)
    trained = trainer._inputs.training.split.images.flatten(1)
    assert len(held) == round(0.2 * len(digits.train))
    assert len(held) + len(trained) == len(digits.train)
    together = torch.cat([trained, held]).double()
    assert together.sum() == digits.train.images.double().sum()
    with pytest.raises(DataError, match="`validation`"):
        Trainer(replace(CONFIG, validation=1e-6), digits, RunFolder(tmp_path))


def test_the_beginning_of_a_longer_run_keeps_its_rate(digits, tmp_path):
    rates = {}
    for epochs in (2, 4):
        config = replace(CONFIG, schedule="half-linear", epochs=epochs, schedule_epochs=4)
        Trainer(config, digits, RunFolder(tmp_path / str(epochs))).run()
        rates[epochs] = [record["lr"] for record in RunFolder(tmp_path / str(epochs)).metrics()]
    assert rates[2] == rates[4][:2] == [0.1, 0.1]
    assert rates[4][3] == pytest.approx(0.001)


def test_bf16_trains(digits, tmp_path):
    result = Trainer(replace(CONFIG, precision="bf16"), digits, RunFolder(tmp_path)).run()
    exact = Trainer(CONFIG, digits, RunFolder(tmp_path / "exact")).run()
    assert result["test_accuracy"] == pytest.approx(exact["test_accuracy"], abs=0.05)
    assert result["train_loss"] != exact["train_loss"]


def test_channels_last_is_the_same_training_up_to_rounding(digits, tmp_path, monkeypatch):
    layouts = []

    class Convolutions(torch.nn.Sequential):
        def __init__(self):
            super().__init__(
                torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.Flatten(),
                torch.nn.Linear(64, 10),
            )  # fmt: skip

        def forward(self, images):
            layouts.append(self[2].weight.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    monkeypatch.setitem(MODELS, "convolutions", lambda *_: Convolutions())
    config = replace(CONFIG, model="convolutions", epochs=1)
    results = [
        Trainer(replace(config, channels_last=value), digits, RunFolder(tmp_path / str(value))).run()
        for value in (False, True)
    ]
    assert layouts[0] is False and layouts[-1] is True  # noqa: PT018 - one statement about both
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], rel=1e-3)
    assert results[0]["initial_weights"] == results[1]["initial_weights"]


def test_a_folder_of_an_earlier_version_goes_on_with_defaults(digits, tmp_path):
    first = Trainer(CONFIG, digits, RunFolder(tmp_path)).run()
    held = json.loads((tmp_path / "config.json").read_text())
    del held["channels_last"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    assert Trainer(CONFIG, digits, RunFolder(tmp_path)).run() == first
    with pytest.raises(RunFolderError, match="channels_last=False, not True"):
        Trainer(replace(CONFIG, channels_last=True), digits, RunFolder(tmp_path)).run()


def test_callbacks_see_the_model_and_the_optimiser(digits, tmp_path):
    seen = []

    class Looks(Callback):
        def on_start(self, run):
            self.run = run

        def on_epoch(self, metrics, sparsity):  # noqa: ARG002
            report = sparsity_report(self.run.model)
            seen.append(
                (report.sparsity == metrics["sparsity"], self.run.position.epoch, self.run.folder.path)
            )

    Trainer(CONFIG, digits, RunFolder(tmp_path), callbacks=[Looks()]).run()
    assert seen == [(True, epoch, tmp_path) for epoch in (1, 2, 3)]


def test_fp16_on_a_cpu_is_refused(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UsageError, match="`precision` fp16 needs a GPU"):
        Trainer(replace(CONFIG, precision="fp16"), digits, RunFolder(tmp_path))


def test_the_environment_of_another_launcher_does_not_change_a_run(digits, tmp_path, monkeypatch):
    config = replace(CONFIG, epochs=1)
    trained = []
    for name, variables in (
        ("plain", {}),
        ("other", {"GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "EAGER"}),
    ):
        for variable, value in variables.items():
            monkeypatch.setenv(f"ACCELERATE_{variable}", value)
        AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
        run = RunFolder(tmp_path / name)
        Trainer(config, digits, run).run()
        trained.append(load_sparse(run.sparse_file))
    assert list(trained[0]) == list(trained[1])
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_channels_of_mean_must_fit(digits, tmp_path):
    with pytest.raises(UsageError, match="`mean` must have 1 value"):
        Trainer(replace(CONFIG, mean=(0.5,) * 3, std=(0.5,) * 3), digits, RunFolder(tmp_path))
