"""The training loop: one short loop on Accelerate that can be killed at any moment and resumed exactly."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

from dirprune.core.prunable import prunable_groups
from dirprune.core.sparsity import sparsity_report
from dirprune.data import Augmentation, Batches, ImageDataset
from dirprune.errors import DivergenceError, UsageError
from dirprune.export import save_sparse
from dirprune.models import create_model
from dirprune.optim import GRDA
from dirprune.runs import RunFolder
from dirprune.train.callbacks import Callback, Position, Run
from dirprune.train.config import TrainConfig
from dirprune.train.duration import Duration
from dirprune.train.environment import describe_environment
from dirprune.train.interruption import StopRequested, stop_requests
from dirprune.train.measures import evaluate, first_non_finite
from dirprune.train.splits import splits

# On an accelerator reading the loss makes the host wait, so it is read once in so many steps.
_STEPS_BETWEEN_CHECKS = 50


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser that a configuration asks for."""
    common: dict[str, Any] = {
        "lr": config.lr,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "weight_decay": config.weight_decay,
    }
    if config.method == "sgd":
        return torch.optim.SGD(model.parameters(), **common)
    return GRDA(prunable_groups(model, config.prune), c=config.c, mu=config.mu, **common)


class Trainer:
    """Trains one run into its folder, from the start or from where it was interrupted.

    The final weights, the metrics and the order of the data are the same, bit for bit on one CPU with one
    number of threads, however often the process was killed and started again.

    Args:
        config: What to train.
        dataset: Its data.
        folder: Where everything is written.
        callbacks: Told about progress.
        checkpoint_every: How often to save; the end of the run is always saved.
        command: The command line, for the record.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dirprune.data import load_dataset
        >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet-300-100", epochs=1)
        >>> with tempfile.TemporaryDirectory() as path:
        ...     result = Trainer(config, load_dataset("digits"), RunFolder(Path(path))).run()
        >>> result["status"]
        'finished'
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: ImageDataset,
        folder: RunFolder,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint_every: Duration = Duration(1, "ep"),  # noqa: B008 - frozen
        command: str = "",
    ) -> None:
        self._config = config
        self._folder = folder
        self._callbacks = callbacks
        self._command = command
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.precision:
            AcceleratorState._reset_state()  # one process may train runs of several precisions
        self._accelerator = Accelerator(mixed_precision=config.precision)
        if self._accelerator.num_processes > 1:
            raise UsageError("training runs in one process: start it without torchrun or accelerate launch")
        device = self._accelerator.device
        channels, height, _ = dataset.image_shape
        if len(config.mean) not in (1, channels):
            raise UsageError(
                f"--mean must have 1 value, or one for each of the {channels} channels of {config.dataset}, "
                f"got {len(config.mean)}"
            )
        self._data_digest = dataset.digest
        training, self._evaluated = splits(dataset, config.validation)
        self._evaluated = self._evaluated.to(device)
        augmentation = Augmentation(config.crop_padding, config.flip, config.mean, config.std)
        self._batches = Batches(training.to(device), config.batch_size, config.seed, augmentation)
        self._checkpoint_steps = checkpoint_every.iterations(len(self._batches))

        torch.manual_seed(config.seed)
        model = create_model(
            config.model,
            num_classes=dataset.num_classes,
            in_channels=channels,
            image_size=height,
            width=config.width,
        )
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self._initial_weights = _digest(model)
        self._model, self._optimizer = self._accelerator.prepare(model, build_optimizer(config, model))

        self._position = Position(1, 0, 0, len(self._batches), config.epochs)
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs know no float64
        self._sums = torch.zeros(2, dtype=exact, device=device)  # loss, correct
        self._seconds = {"train": 0.0, "evaluation": 0.0, "total": 0.0}

    def run(self) -> dict[str, Any]:
        """Train to the end, or do nothing if the run is over already.

        Returns:
            The result that was written to the folder: ``status`` is ``"finished"`` or ``"diverged"``.

        Raises:
            RunFolderError: The folder holds another run, or is in use.
            StopRequested: Ctrl-C or SIGTERM came.
            OSError: Something could not be written.
        """
        with self._folder.locked():
            defaults = {
                field.name: field.default for field in fields(self._config) if field.default is not MISSING
            }
            self._folder.prepare({**asdict(self._config), "data": self._data_digest}, defaults=defaults)
            result = self._folder.result()
            if result is not None:
                return result
            self._resume()
            run = Run(
                self._config,
                self._folder,
                self._accelerator.unwrap_model(self._model),
                self._optimizer,
                self._position,
            )
            for callback in self._callbacks:
                callback.on_start(run)
            with stop_requests() as stop:
                try:
                    self._train(stop)
                    result = self._finish()
                except DivergenceError as error:
                    epochs = self._position.epoch - 1
                    result = {
                        "status": "diverged",
                        "message": str(error),
                        "epochs": epochs,
                        **self._identity(),
                    }
                self._folder.write_result(result)
                for callback in self._callbacks:
                    callback.on_end(result)
                if stop:
                    raise StopRequested
            return result

    # -- the loop --------------------------------------------------------------------------------------

    def _train(self, stop: list[int]) -> None:
        position, config = self._position, self._config
        while position.epoch <= config.epochs:
            self._set_learning_rate()
            self._model.train()
            started = time.perf_counter()
            for _, images, labels in self._batches.epoch(position.epoch, start_step=position.step_in_epoch):
                self._step(images, labels)
                position.step += 1
                position.step_in_epoch += 1
                for callback in self._callbacks:
                    callback.on_step(position)
                if position.step_in_epoch == position.steps_per_epoch:
                    break
                if stop or position.step % self._checkpoint_steps == 0:
                    self._count_time("train", started)
                    self._save()
                    started = time.perf_counter()
                if stop:
                    raise StopRequested
            self._count_time("train", started)
            self._finish_epoch()
            if stop or position.step % self._checkpoint_steps == 0 or position.epoch > config.epochs:
                self._save()
            if stop and position.epoch <= config.epochs:
                raise StopRequested

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimiser step on one batch."""
        if self._config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._accelerator.autocast():
            logits = self._model(images)
        loss = functional.cross_entropy(logits.float(), labels)
        with torch.no_grad():
            correct = (logits.argmax(dim=1) == labels).sum()
            self._sums += torch.stack([loss.to(self._sums.dtype) * len(labels), correct.to(self._sums.dtype)])
        if self._sums.device.type == "cpu" or self._position.step % _STEPS_BETWEEN_CHECKS == 0:
            self._check_loss()
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        self._optimizer.step()

    def _finish_epoch(self) -> None:
        """Measure, record, and go to the next epoch."""
        self._check_state()
        started = time.perf_counter()
        test_loss, test_accuracy = evaluate(
            self._model, Batches.evaluation(self._evaluated, self._batches.augmentation)
        )
        self._count_time("evaluation", started)
        if not math.isfinite(test_loss):
            raise DivergenceError(self._diagnosis("the loss in evaluation"))
        position, images = self._position, len(self._batches.split)
        train_loss, correct = self._sums.tolist()
        sparsity = sparsity_report(self._model)
        metrics = {
            "epoch": position.epoch,
            "step": position.step,
            "lr": self._optimizer.param_groups[0]["lr"],
            "train_loss": train_loss / images,
            "train_accuracy": correct / images,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "sparsity": sparsity.sparsity,
            "threshold": self._threshold(),
            "data_order": self._batches.data_order_digest(position.epoch),
        }
        timing = {
            "epoch": position.epoch,
            "train_seconds": self._seconds["train"],
            "evaluation_seconds": self._seconds["evaluation"],
        }
        self._folder.append_epoch(metrics, timing)
        for callback in self._callbacks:
            callback.on_epoch(metrics, sparsity)
        self._seconds["train"] = self._seconds["evaluation"] = 0.0
        self._sums.zero_()
        position.epoch += 1
        position.step_in_epoch = 0

    def _finish(self) -> dict[str, Any]:
        """Write the sparse file and return the result."""
        model = self._accelerator.unwrap_model(self._model)
        info = save_sparse(model, self._folder.sparse_file)
        report = sparsity_report(model)
        last = self._folder.metrics()[-1]
        measured = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        return {
            "status": "finished",
            "epochs": self._config.epochs,
            "measured_on": "validation" if self._config.validation else "test",
            "steps": self._position.step,
            **{key: last[key] for key in measured},
            "sparsity": report.sparsity,
            "parameters": report.numel,
            "zeros": report.zeros,
            "layers": [{"name": x.name, "shape": list(x.shape), "zeros": x.zeros} for x in report.layers],
            "sparse_bytes": info.bytes,
            "dense_bytes": info.dense_bytes,
            **self._identity(),
        }

    def _set_learning_rate(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate(self._position.epoch)

    def _threshold(self) -> float:
        """Return the largest threshold in force, in units of the weights."""
        held = self._optimizer.state.values()
        return max((float(state["threshold"]) for state in held if "threshold" in state), default=0.0)

    def _identity(self) -> dict[str, Any]:
        return {"seconds": self._seconds["total"], "initial_weights": self._initial_weights}

    def _count_time(self, kind: str, started: float) -> None:
        """Add the time since ``started`` to the clocks."""
        passed = time.perf_counter() - started
        self._seconds[kind] += passed
        if kind == "train":
            self._seconds["total"] += passed

    def _check_loss(self) -> None:
        """Raise DivergenceError if a loss of this epoch was not finite."""
        if not torch.isfinite(self._sums[0]):
            raise DivergenceError(self._diagnosis("the loss"))

    def _check_state(self) -> None:
        """Raise DivergenceError if a loss, a weight, or anything that the optimiser holds is not finite."""
        self._check_loss()
        held = [tensor for state in self._optimizer.state.values() for tensor in state.values()]
        if not all(torch.isfinite(tensor).all() for tensor in [*self._model.state_dict().values(), *held]):
            raise DivergenceError(self._diagnosis("a weight or the state of the optimiser"))

    def _diagnosis(self, what: str) -> str:
        """Say in one line what is not finite, where, and what to do."""
        position = self._position
        remedy = "lower --lr" if self._config.method == "sgd" else "lower --lr, --mu or --c"
        return (
            f"{what} is not finite in epoch {position.epoch} after {position.step} steps "
            f"({first_non_finite(self._model)}); {remedy}"
        )

    # -- interruption ----------------------------------------------------------------------------------

    def _save(self) -> None:
        """Save everything that the rest of the run depends on."""
        self._check_state()  # the last good checkpoint must not be replaced by a bad one
        position = self._position
        state = {
            "model": self._accelerator.unwrap_model(self._model).state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "position": [position.epoch, position.step_in_epoch, position.step],
            "sums": self._sums.cpu(),
            "seconds": dict(self._seconds),
            "cpu_rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        if self._accelerator.scaler is not None:
            state["scaler"] = self._accelerator.scaler.state_dict()
        self._folder.save_checkpoint(position.step, state)

    def _resume(self) -> None:
        """Go to the newest checkpoint, if there is one."""
        checkpoint = self._folder.newest_checkpoint()
        self._folder.rewind(checkpoint)
        here = describe_environment(self._command, self._accelerator.device)
        if checkpoint is None:
            self._folder.write_environment(here)
            return
        before = self._folder.environment()
        self._folder.write_environment({**before, "resumed": [*before.get("resumed", []), here]})
        state = checkpoint.state
        self._accelerator.unwrap_model(self._model).load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._position.epoch, self._position.step_in_epoch, self._position.step = state["position"]
        self._sums.copy_(state["sums"])
        self._seconds.update(state["seconds"])
        torch.set_rng_state(state["cpu_rng"])
        if state["device_rng"]:
            torch.cuda.set_rng_state_all(state["device_rng"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])


def _digest(model: nn.Module) -> str:
    """Return a short hash of all weights and buffers."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
