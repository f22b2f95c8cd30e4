"""Trackers show what metrics.jsonl holds, each epoch once, however often the run was interrupted."""

import time
from dataclasses import replace

import pytest
from accelerate import tracking as accelerate_tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dirprune.core.sparsity import sparsity_of
from dirprune.errors import MissingPackageError, UsageError
from dirprune.export import load_sparse
from dirprune.runs import RunFolder
from dirprune.train import Callback, Duration, StopRequested, Tracking, TrainConfig, Trainer, check_tracker
from tests.train.test_trainer import Interrupt

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig(
    recipe="test", dataset="digits", model="lenet-300-100", c=5e-3, mu=0.6, batch_size=128, epochs=3
)
TAGS = {
    "train/loss": "train_loss",
    "train/accuracy": "train_accuracy",
    "test/loss": "test_loss",
    "test/accuracy": "test_accuracy",
    "lr": "lr",
    "threshold": "threshold",
    "sparsity/total": "sparsity",
}


def scalars(folder):
    """Return what TensorBoard shows of a run: (epoch, value) of every curve."""
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def assert_shows(folder, epochs=(1, 2, 3)):
    shown, metrics = scalars(folder), folder.metrics()
    for tag, key in TAGS.items():
        assert [epoch for epoch, _ in shown[tag]] == list(epochs), tag
        assert [value for _, value in shown[tag]] == pytest.approx([record[key] for record in metrics])
    return shown


def train(digits, folder, *callbacks, config=CONFIG, trackers=("tensorboard",), every="1ep"):
    return Trainer(
        config,
        digits,
        folder,
        callbacks=[Tracking(trackers), *callbacks],
        checkpoint_every=Duration.parse(every),
    ).run()


class FailAfter(Callback):
    """Fails when an epoch has been told to the trackers, and its checkpoint is not saved yet."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, metrics, sparsity):  # noqa: ARG002
        if metrics["epoch"] == self.epoch:
            raise RuntimeError("lost")


def test_tensorboard_shows_the_epochs_the_layers_and_the_settings(digits, tmp_path):
    folder = RunFolder(tmp_path)
    train(digits, folder)
    shown = assert_shows(folder)
    for layer in sparsity_of(load_sparse(folder.sparse_file)).layers:
        assert shown[f"sparsity/{layer.name}"][-1] == (3, pytest.approx(layer.sparsity))
    (settings,) = tmp_path.glob("tensorboard/*/hparams.yml")
    assert "mu: 0.6\n" in settings.read_text()


@pytest.mark.parametrize("ends", [FailAfter(2), FailAfter(1), Interrupt(step=17)], ids=["2", "1", "stop"])
def test_a_resumed_run_goes_on_without_doubled_points(ends, digits, tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises((RuntimeError, StopRequested)):
        train(digits, folder, ends)
    time.sleep(1)  # TensorBoard takes its files in the order of the seconds in their names
    train(digits, folder)
    assert_shows(folder)
    assert len(list(tmp_path.glob("tensorboard/events*"))) == 2
    assert len(list(tmp_path.glob("tensorboard/*/hparams.yml"))) == 1


def test_a_tracker_that_joins_later_gets_the_epochs_before(digits, tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError):
        train(digits, folder, FailAfter(3), trackers=())
    assert folder.trackers() == {}
    train(digits, folder)
    assert_shows(folder)


def test_tracking_changes_neither_the_run_nor_its_folder(digits, tmp_path):
    train(digits, RunFolder(tmp_path / "a"))
    train(digits, RunFolder(tmp_path / "b"), trackers=())
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    files = [tmp_path / name / "model.sparse.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_validation_is_not_called_test(digits, tmp_path):
    folder = RunFolder(tmp_path)
    train(digits, folder, config=replace(CONFIG, validation=0.2, epochs=1))
    assert "validation/accuracy" in scalars(folder)
    assert "test/accuracy" not in scalars(folder)


class Remembers:
    """Stands for a tracker on a server, which keeps all that it ever got."""

    requires_logging_directory = False
    got: list = []  # noqa: RUF012 - of all its objects

    def __init__(self, **arguments):
        self.got.append(("opened", arguments))

    def start(self): ...

    def store_init_configuration(self, values):
        self.got.append(("settings", values["mu"]))

    def log(self, values, step):  # noqa: ARG002
        self.got.append(("epoch", step))

    def finish(self):
        self.got.append(("finished", None))


def test_a_tracker_that_takes_nothing_back_gets_each_epoch_once_in_the_same_run(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, "wandb", Remembers)
    monkeypatch.setattr(accelerate_tracking, "get_available_trackers", lambda: ["wandb", "tensorboard"])
    monkeypatch.setattr(Remembers, "got", [])
    folder = RunFolder(tmp_path / "set" / "run")
    both = ("wandb", "tensorboard")
    with pytest.raises(RuntimeError):
        train(digits, folder, FailAfter(2), trackers=both)
    time.sleep(1)
    train(digits, folder, trackers=both)
    kinds = [kind for kind, _ in Remembers.got]
    assert kinds == ["opened", "settings", "epoch", "epoch", "finished", "opened", "epoch", "finished"]
    assert [value for kind, value in Remembers.got if kind == "epoch"] == [1, 2, 3]
    first, second = (value for kind, value in Remembers.got if kind == "opened")
    assert first == second
    assert first["id"] == folder.trackers()["wandb"]["identity"]
    assert (first["run_name"], first["group"], first["name"]) == ("test", "set", "run")
    assert_shows(folder)


def test_a_package_that_is_missing_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(accelerate_tracking, "get_available_trackers", list)
    with pytest.raises(MissingPackageError, match=r"pip install wandb$"):
        check_tracker("wandb")
    with pytest.raises(MissingPackageError, match=r"pip install 'directional-pruning\[tracking\]'$"):
        check_tracker("tensorboard")
    with pytest.raises(UsageError, match="did you mean 'tensorboard'"):
        check_tracker("tensorbord")
