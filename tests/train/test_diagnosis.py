"""Each warning comes when its condition is made to hold, and not otherwise."""

import gc
import json
import math
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dirprune import recipes
from dirprune.core.sparsity import LayerSparsity, SparsityReport
from dirprune.data import Batches, load_dataset
from dirprune.methods import create_method
from dirprune.runs import RunFolder
from dirprune.train import Diagnosis, Execution, Run, TrainConfig, Trainer
from dirprune.train.callbacks import Position
from dirprune.train.diagnosis import unsuitable_schedule

CONFIG = TrainConfig(recipe="test", dataset="digits", model="lenet-300-100", epochs=10)
HEALTHY = SparsityReport((LayerSparsity("0.weight", (100,), 50),))


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def watch(tmp_path):
    """Return a function that starts a diagnosis of a network, thresholded unless told otherwise."""

    def start(model, config=CONFIG, c=1e-3, classes=10, resumed=None):
        folder = RunFolder(tmp_path)
        folder.write_environment(
            {"processes": 2, "accumulation": 1} | ({"resumed": resumed} if resumed else {})
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.param_groups[0]["c"] = c
        said = []
        diagnosis = Diagnosis(said.append)
        diagnosis.on_start(
            Run(
                config,
                folder,
                model,
                optimizer,
                create_method("grda"),
                classes,
                Position(1, 0, 0, 5, 10),
                torch.zeros(2),
            )
        )
        return diagnosis, folder, said

    return start


def kinds(folder):
    return [(warning["kind"], warning["where"]) for warning in folder.warnings()]


def test_a_healthy_run_has_no_warnings(watch):
    model = network()
    diagnosis, folder, said = watch(model)
    model.eval()(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    assert kinds(folder) == []
    assert said == []


def test_a_layer_whose_weights_are_all_zero_is_named_once_and_its_bias_is_not(watch):
    diagnosis, folder, said = watch(network())
    empty = SparsityReport(
        (LayerSparsity("0.weight", (2, 2), 4), LayerSparsity("0.bias", (2,), 2), LayerSparsity("2", (9,), 8))
    )
    for _ in range(2):
        diagnosis.on_epoch({"test_accuracy": 0.9}, empty)
    assert kinds(folder) == [("dead layer", "0.weight")]
    assert "lower `c` or `mu`" in said[0]


def test_outputs_that_are_zero_on_all_of_the_data_are_found_and_on_some_of_it_are_not(watch):
    model = network()
    diagnosis, folder, _ = watch(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3, 2))
        model[0].bias.zero_()
    model.eval()
    model(-torch.ones(4, 2))  # a batch that the ReLU stops, then one that it does not
    model(torch.ones(4, 2))
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    assert kinds(folder) == []
    model.train()(torch.ones(4, 2))
    model.eval()(-torch.ones(4, 2))
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    assert kinds(folder) == [("dead outputs", "1")]


def test_a_threshold_that_outgrew_the_weights(watch):
    diagnosis, folder, _ = watch(network())
    for zeros in (999, 9995):
        diagnosis.on_epoch({"test_accuracy": 0.9}, SparsityReport((LayerSparsity("0", (10000,), zeros),)))
    assert kinds(folder) == [("outgrown", "")]


def test_a_collapse_is_a_fall_below_half_of_the_best(watch):
    diagnosis, folder, said = watch(network())
    for accuracy in (0.1, 0.04, 0.8, 0.41, 0.39):
        diagnosis.on_epoch({"test_accuracy": accuracy}, HEALTHY)
    assert kinds(folder) == [("collapse", "")]
    assert "39.00 % from 80.00 %" in said[0]


def test_with_many_classes_a_low_accuracy_can_collapse_too(watch):
    diagnosis, folder, _ = watch(network(), classes=100)
    for accuracy in (0.015, 0.005):  # chance is 0.01
        diagnosis.on_epoch({"test_accuracy": accuracy}, HEALTHY)
    assert kinds(folder) == []
    for accuracy in (0.15, 0.01):
        diagnosis.on_epoch({"test_accuracy": accuracy}, HEALTHY)
    assert kinds(folder) == [("collapse", "")]


def tell(diagnosis, folder, epochs, sparsity=0.5):
    """Tell of epochs with (training accuracy, training loss)."""
    for accuracy, loss in epochs:
        record = {"train_accuracy": accuracy, "train_loss": loss, "test_accuracy": accuracy}
        folder.append_epoch(record, {"train_seconds": 1.0, "input_seconds": 0.0})
        zeros = round(10000 * sparsity)
        diagnosis.on_epoch(record, SparsityReport((LayerSparsity("0.weight", (10000,), zeros),)))


@pytest.mark.parametrize(
    ("epochs", "sparsity", "expected"),
    [
        ([(0.1, 2.303)] * 2, 0.5, 0),  # too early
        ([(0.1, 2.303)] * 9, 0.5, 1),  # and not again
        ([(0.1, 2.303)] * 9, 0.0, 0),  # dense: another reason
        ([(0.1, 2.303), (0.1, 2.303), (0.13, 2.29)], 0.5, 0),  # slowly, by its accuracy
        ([(0.1, 2.303), (0.105, 2.28), (0.105, 2.27)], 0.5, 0),  # or by its loss
        ([(0.3, 2.0), *[(0.1, 2.303)] * 9], 0.5, 0),  # it had begun
        ([(0.1, 9.0), (0.1, 4.0), (0.1, 3.0)], 0.5, 1),
    ],
)
def test_a_network_that_does_not_begin_to_learn(watch, epochs, sparsity, expected):
    diagnosis, folder, said = watch(network())
    tell(diagnosis, folder, epochs, sparsity)
    assert [kind for kind, _ in kinds(folder) if kind != "collapse"] == ["not learning"] * expected
    if expected:
        assert "after 3 epochs the training accuracy is that of chance (10.00 %) and 50.0 % are" in said[0]
        assert said[0].endswith("has not begun to learn under this threshold; lower `c` or `mu`")


def test_chance_is_that_of_the_classes_and_the_remedy_that_of_the_method(watch):
    config = replace(CONFIG, sparsity=0.9, method="magnitude")
    diagnosis, folder, said = watch(network(), config, c=0.0, classes=100)
    tell(diagnosis, folder, [(0.0105, math.log(100))] * 3)
    assert said[0].endswith("has not begun to learn at this sparsity; lower `sparsity` or `lr`")


COMMITTED = {
    f"{path.stem}/{run['name']}": run
    for path in sorted((Path(recipes.__file__).parent / "results").glob("*.json"))
    for run in json.loads(path.read_text())["runs"]
    if "epochs" in run
}
STUCK = {f"vgg16-width0.25-cifar10/grda-c0.004-mu{mu}-seed0" for mu in (0.6, 0.7)}


@pytest.mark.parametrize("name", COMMITTED)
def test_of_the_committed_runs_those_that_did_not_begin_to_learn_are_told(watch, name):
    assert COMMITTED.keys() > STUCK
    config, by_epoch = TrainConfig.from_json(COMMITTED[name]["config"]), COMMITTED[name]["epochs"]
    classes = {"cifar10": 10, "cifar100": 100}[config.dataset]
    diagnosis, folder, _ = watch(network(), config, config.c, classes)
    for values in zip(*by_epoch.values(), strict=True):
        record = dict(zip(by_epoch, values, strict=True))
        folder.append_epoch(record, {"train_seconds": 1.0, "input_seconds": 0.0})
        diagnosis._run.position.epoch = record["epoch"]
        zeros = round(1_000_000 * record["sparsity"])
        diagnosis.on_epoch(record, SparsityReport((LayerSparsity("0.weight", (1_000_000,), zeros),)))
    told = [warning["epoch"] for warning in folder.warnings() if warning["kind"] == "not learning"]
    assert told == [3] * (name in STUCK)


@pytest.mark.parametrize(
    ("training", "waiting", "expected"), [(100.0, 9.0, 0), (100.0, 11.0, 1), (5.0, 4.0, 0)]
)
def test_training_that_waits_for_its_images_is_told_what_to_do(watch, training, waiting, expected):
    diagnosis, folder, said = watch(network())
    timing = {"epoch": 1, "train_seconds": training, "input_seconds": waiting}
    folder.append_epoch({"epoch": 1, "train_accuracy": 0.9, "train_loss": 0.3}, timing)
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    assert kinds(folder) == [("slow input", "")] * expected
    if expected:
        assert "11 % of the training time" in said[0]
        assert "`workers`" in said[0]


def test_the_time_that_a_run_waits_for_images_is_recorded(tmp_path, monkeypatch):
    digits = load_dataset("digits")
    at_once = Batches.epoch

    def slowly(self, *position):
        for batch in at_once(self, *position):
            time.sleep(0.02)
            yield batch

    monkeypatch.setattr(Batches, "epoch", slowly)
    config = TrainConfig(recipe="", dataset="digits", model="lenet-300-100", epochs=1)
    Trainer(config, digits, folder := RunFolder(tmp_path)).run()
    (timing,) = folder.timing()
    assert 0.02 * 12 <= timing["input_seconds"] <= timing["train_seconds"]


def test_thresholded_normalisation_is_told_and_plain_sgd_is_not_bothered(watch):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    _, folder, _ = watch(model, c=0.0)
    assert kinds(folder) == []
    _, folder, said = watch(model)
    assert kinds(folder) == [("normalisation", "")]
    assert "`prune` weights" in said[0]


def test_normalisation_that_stays_dense_needs_no_warning(watch):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    _, folder, _ = watch(model, TrainConfig(recipe="", dataset="digits", model="lenet5", prune="weights"))
    assert kinds(folder) == []


@pytest.mark.parametrize(
    ("schedule", "epochs", "arguments", "words"),
    [
        *(
            (name, epochs, (), None)
            for name in ("constant", "drop", "half-linear")
            for epochs in (1, 2, 4, 10)
        ),
        *(("cosine", epochs, (), "lowers the rate in epoch 1") for epochs in (2, 10)),
        ("StepLR", 10, ("step_size=3",), "lowers the rate in epoch 4"),
        ("StepLR", 2, ("step_size=1",), None),
        ("StepLR", 3, ("step_size=1",), "in steps, in epochs 2 and 3 of 3"),
        ("ExponentialLR", 3, ("gamma=0.9",), None),
        ("ExponentialLR", 4, ("gamma=0.9",), "lowers the rate in epoch 2 of 4"),
        ("MultiStepLR", 10, ("milestones=[6,8]",), "in steps, in epochs 7 and 9 of 10"),
        ("MultiStepLR", 10, ("milestones=[6,8,9]",), "in steps, in epochs 7 and 9 of 10"),
        ("MultiStepLR", 4, ("milestones=[2,3]",), "in steps, in epochs 3 and 4 of 4"),
        ("MultiStepLR", 10, ("milestones=[6,8]", "gamma=0.6"), "in steps, in epochs 7 and 9 of 10"),
        ("MultiStepLR", 10, ("milestones=[6]",), None),
        ("PolynomialLR", 10, ("total_iters=10",), "lowers the rate in epoch 2"),
        ("LinearLR", 10, ("start_factor=0.1",), "raises the rate in epoch 2"),
        ("OneCycleLR", 3, ("max_lr=1.0", "total_steps=4"), "raises the rate in epoch 2"),
    ],
)
def test_schedules(schedule, epochs, arguments, words):
    config = TrainConfig(
        recipe="",
        dataset="digits",
        model="lenet5",
        epochs=epochs,
        schedule=schedule,
        schedule_args=arguments,
    )
    complaint = unsuitable_schedule(config)
    assert complaint is None if words is None else words in complaint


@pytest.mark.parametrize(
    ("changes", "suits"),
    [
        ({}, "`schedule` constant, half-linear or drop"),
        ({"penalty": "l0"}, "`schedule` half-linear"),
        ({"momentum": 0.9}, "`schedule` half-linear"),
    ],
)
@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_a_constant_rate_is_proposed_for_the_published_setting_alone(schedule, changes, suits):
    """With momentum or the hard threshold it lost 0.9 to 2.1 points."""
    if schedule == "steps":
        changes = {**changes, "schedule": "MultiStepLR", "schedule_args": ("milestones=[6, 8]",)}
    else:
        changes = {**changes, "schedule": schedule}
    assert unsuitable_schedule(replace(CONFIG, **changes)).endswith(suits)


def test_warnings_of_a_resumed_run_are_not_repeated_and_training_is_not_changed(tmp_path):
    digits = load_dataset("digits")
    config = TrainConfig(recipe="", dataset="digits", model="lenet-300-100", c=1.0, epochs=2)
    watched = Trainer(config, digits, RunFolder(tmp_path / "watched"), callbacks=[Diagnosis()]).run()
    plain = Trainer(config, digits, RunFolder(tmp_path / "plain")).run()
    assert watched["train_loss"] == plain["train_loss"]
    before = kinds(RunFolder(tmp_path / "watched"))
    (tmp_path / "watched" / "result.json").unlink()
    for checkpoint in (tmp_path / "watched" / "checkpoints").iterdir():
        checkpoint.unlink()
    Trainer(config, digits, RunFolder(tmp_path / "watched"), callbacks=[Diagnosis()]).run()
    assert kinds(RunFolder(tmp_path / "watched")) == before != []


@pytest.mark.parametrize(
    ("resumed", "told"),
    [
        ([{"processes": 1, "accumulation": 2}], None),
        ([{"processes": 1, "accumulation": 8}], "now sees a batch in 8 parts, before the resume in 2"),
        ([{"processes": 4, "accumulation": 1}, {"processes": 1}], "in 1 part, before the resume in 4"),
    ],
)
def test_batchnorm_that_sees_other_parts_after_a_resume_is_told(watch, resumed, told):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False))
    _, folder, _ = watch(model, resumed=resumed)
    messages = [warning["message"] for warning in folder.warnings()]
    assert [told in message for message in messages] == ([True] if told else [])
    _, folder, _ = watch(network(), resumed=resumed)
    assert len(folder.warnings()) == len(messages)


def test_a_resume_with_another_accumulation_is_told(tmp_path):
    """From one process to the record and the warning, through the trainer."""
    config = replace(CONFIG, model="wrn10x1", width=0.5, epochs=2, batch_size=512)
    digits, folder = load_dataset("digits"), RunFolder(tmp_path)
    Trainer(config, digits, folder).run()
    (tmp_path / "result.json").unlink()
    Trainer(config, digits, folder, callbacks=[Diagnosis()], execution=Execution(accumulation=2)).run()
    assert folder.environment()["accumulation"] == 1
    assert folder.environment()["resumed"][0]["accumulation"] == 2
    assert "parts" in [kind for kind, _ in kinds(folder)]


def test_the_remedy_is_one_that_the_method_has(watch):
    diagnosis, folder, _ = watch(network(), replace(CONFIG, sparsity=0.99, method="magnitude"), c=0.0)
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    diagnosis.on_epoch({"test_accuracy": 0.1}, SparsityReport((LayerSparsity("0.weight", (100,), 100),)))
    messages = [warning["message"] for warning in folder.warnings()]
    assert [message.rpartition("; ")[2] for message in messages] == ["lower `sparsity` or `lr`"] * 2


def test_a_layer_with_parametrisations_is_watched_and_they_are_not(watch):
    model = network()
    nn.utils.parametrize.register_parametrization(model[2], "bias", nn.Identity())
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].parametrizations.bias.original)
    diagnosis, folder, _ = watch(model)
    model.eval()(torch.ones(4, 2))
    diagnosis.on_epoch({"test_accuracy": 0.9}, HEALTHY)
    assert kinds(folder) == [("dead outputs", "2")]


def test_a_run_that_is_over_is_let_go(tmp_path):
    """The next one of a set may need its memory."""
    diagnosis = Diagnosis()
    trainer = Trainer(
        replace(CONFIG, epochs=1), load_dataset("digits"), RunFolder(tmp_path), callbacks=[diagnosis]
    )
    model = weakref.ref(trainer._model)
    trainer.run()
    del trainer
    gc.collect()
    assert model() is None
