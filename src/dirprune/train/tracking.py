"""A run shown in experiment trackers: TensorBoard, wandb, mlflow and whatever else Accelerate knows."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dirprune.core.sparsity import SparsityReport
from dirprune.errors import MissingPackageError, UsageError, unknown
from dirprune.train.callbacks import Callback, Run

TENSORBOARD = "tensorboard"


@dataclass
class _Shown:
    """A tracker at work: Accelerate's object, the run's identity there, and the last epoch that it has."""

    tracker: Any
    identity: str | None
    epoch: int


class Tracking(Callback):
    """Sends loss, accuracy, sparsity in total and by layer, threshold and rate to trackers, epoch by epoch.

    A run that is resumed goes on in the same run of the tracker, and no epoch is there twice: TensorBoard
    drops what comes after the checkpoint (``purge_step``) and gets it again, wandb and mlflow are found by
    the identity that ``tracking.json`` keeps, and get only epochs that they do not have. The other trackers
    of Accelerate begin a new run with the epochs that are missing. Epochs before a tracker was asked for are
    sent from the run's folder, without the layers.

    Args:
        names: Of :func:`known_trackers`. TensorBoard's files lie in the run's folder, under ``tensorboard``.

    Raises:
        UsageError: There is no such tracker.
        MissingPackageError: Its package is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dirprune.data import load_dataset
        >>> from dirprune.runs import RunFolder
        >>> from dirprune.train import TrainConfig, Trainer
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100", epochs=1)
        >>> with tempfile.TemporaryDirectory() as path:
        ...     folder, callbacks = RunFolder(Path(path)), [Tracking(["tensorboard"])]
        ...     _ = Trainer(config, load_dataset("digits"), folder, callbacks=callbacks).run()
        ...     folder.trackers()
        {'tensorboard': {'identity': None, 'epoch': 1}}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        for name in self._names:
            check_tracker(name)
        self._shown: dict[str, _Shown] = {}

    def on_start(self, run: Run) -> None:
        """Open the trackers, or find the run in them."""
        self._run = run
        if not self._names:
            return
        held = run.folder.trackers()
        for name in self._names:
            self._shown[name] = _open(name, run, held.get(name))
        self._keep()
        for metrics in run.folder.metrics():
            self.on_epoch(metrics, SparsityReport(()))

    def on_epoch(self, metrics: dict[str, Any], sparsity: SparsityReport) -> None:
        """Send what was measured to those that do not have it."""
        epoch, values = metrics["epoch"], _values(metrics, sparsity, self._run)
        behind = [shown for shown in self._shown.values() if shown.epoch < epoch]
        for shown in behind:
            shown.tracker.log(values, step=epoch)
            shown.epoch = epoch
        if behind:
            self._keep()

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        while self._shown:
            _, shown = self._shown.popitem()
            shown.tracker.finish()

    def _keep(self) -> None:
        held = {
            name: {"identity": shown.identity, "epoch": shown.epoch} for name, shown in self._shown.items()
        }
        self._run.folder.write_trackers({**self._run.folder.trackers(), **held})


def known_trackers() -> list[str]:
    """Return the names of the trackers that Accelerate knows.

    Example:
        >>> {"tensorboard", "wandb", "mlflow"} <= set(known_trackers())
        True
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return sorted(LOGGER_TYPE_TO_CLASS)


def check_tracker(name: str) -> None:
    """Check that a tracker exists and that what it needs is installed.

    Raises:
        UsageError: There is no such tracker.
        MissingPackageError: Its package is not installed.
    """
    from accelerate.tracking import get_available_trackers

    if name not in known_trackers():
        raise UsageError(unknown("tracker", name, known_trackers()))
    if name not in map(str, get_available_trackers()):
        package = "'directional-pruning[tracking]'" if name == TENSORBOARD else name
        raise MissingPackageError(
            f"`tracker` {name} needs a package that is not installed: pip install {package}", name=name
        )


def _open(name: str, run: Run, held: dict[str, Any] | None) -> _Shown:
    """Start a tracker; one that has seen the run before goes on with it."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    identity = None if held is None else held["identity"]
    epoch = 0 if held is None else held["epoch"]
    if name == TENSORBOARD:
        epoch = min(epoch, run.position.epoch - 1)  # the others cannot take back what they have
    elif name == "wandb" and identity is None:
        identity = secrets.token_hex(8)
    make = LOGGER_TYPE_TO_CLASS[name]
    places = {"logging_dir": str(run.folder.path)} if make.requires_logging_directory else {}
    tracker = make(
        **(_ARGUMENTS[name](run, identity) if name in _ARGUMENTS else {"run_name": run.config.recipe}),
        **places,
    )
    tracker.start()
    if name == "mlflow":
        identity = tracker.tracker.info.run_id
    if held is None:
        tracker.store_init_configuration(_plain(asdict(run.config)))
    return _Shown(tracker, identity, epoch)


# What the constructors take beside a folder, where a run can be named and found again.
_ARGUMENTS: dict[str, Callable[[Run, str | None], dict[str, Any]]] = {
    TENSORBOARD: lambda run, _: {"run_name": TENSORBOARD, "purge_step": run.position.epoch},
    "wandb": lambda run, identity: {
        "run_name": run.config.recipe,  # Accelerate's word for the project
        "group": run.folder.path.parent.name,
        "name": run.folder.path.name,
        "dir": str(run.folder.path),
        "id": identity,
        "resume": "allow",
    },
    "mlflow": lambda run, identity: {
        "experiment_name": run.folder.path.parent.name,
        "run_name": run.folder.path.name,
        "run_id": identity,
    },
}


def _values(metrics: dict[str, Any], sparsity: SparsityReport, run: Run) -> dict[str, float]:
    """Return an epoch's figures under the names that trackers group by."""
    measured_on = "validation" if run.config.validation else "test"
    places = {"train": "train", "test": measured_on}
    figures = {
        f"{places[where]}/{what}": metrics[key]
        for key in metrics
        for where, _, what in [key.partition("_")]
        if where in places
    }
    layers = {f"sparsity/{layer.name}": layer.sparsity for layer in sparsity.layers}
    return {
        **figures,
        "lr": metrics["lr"],
        "threshold": metrics["threshold"],
        "sparsity/total": metrics["sparsity"],
        **layers,
    }


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings as trackers take them: numbers, truth values and text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in config.items()
    }
