"""The training loop: one short loop on Accelerate that can be killed at any moment and resumed exactly."""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dirprune.core.sharding import whole
from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import DivergenceError, RunFolderError, UsageError
from dirprune.export import save_sparse
from dirprune.runs import RunFolder
from dirprune.train.build import (
    initial_model,
    make_accelerator,
    model_arguments,
    place_model,
    takes_one_image,
    weights_digest,
)
from dirprune.train.callbacks import Callback, Run
from dirprune.train.checkpoint import restore, state_of
from dirprune.train.config import TrainConfig
from dirprune.train.duration import Duration
from dirprune.train.environment import describe_environment
from dirprune.train.execution import Execution
from dirprune.train.gradient import BatchGradient
from dirprune.train.inputs import make_inputs
from dirprune.train.interruption import StopRequested, stop_requests
from dirprune.train.measures import all_finite, evaluate, first_non_finite
from dirprune.train.memory import peak_bytes, reset_peak
from dirprune.train.method import Cost, start_method
from dirprune.train.progress import Progress
from dirprune.train.ranks import Ranks
from dirprune.train.records import diverged, epoch_record, result_record, timing_record

# On an accelerator reading the loss makes the host wait, so it is read once in so many steps.
_STEPS_BETWEEN_CHECKS = 50


class Trainer:
    """Trains one run into its folder, from the start or from where it was interrupted.

    The final weights, the metrics and the order of the data are the same, bit for bit on one CPU with one
    number of threads, however often the process was killed and started again. Started by torchrun or
    accelerate launch, several processes train one run together; each takes its part of every batch, and the
    first one reads and writes the folder.

    Args:
        config: What to train.
        dataset: Its data.
        folder: Where everything is written.
        callbacks: Told about progress, in the first process only: they must not talk to the others.
        checkpoint_every: How often to save; the end of the run is always saved.
        command: The command line, for the record.
        execution: How the machine is used.

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
        dataset: ImageDataset | EncodedDataset,
        folder: RunFolder,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint_every: Duration = Duration(1, "ep"),  # noqa: B008 - frozen
        command: str = "",
        execution: Execution = Execution(),  # noqa: B008 - frozen
    ) -> None:
        self._config = config
        self._folder = folder
        self._command = command
        self._accumulation = execution.accumulation
        self._accelerator = make_accelerator(config)
        self._ranks = Ranks(self._accelerator.num_processes, self._accelerator.process_index)
        self._callbacks = callbacks if self._ranks.main else ()
        device = self._accelerator.device
        with self._ranks.together():
            self._inputs = make_inputs(config, dataset, device, execution)
            self._network = model_arguments(config, self._inputs.shape, self._inputs.num_classes)
            model = initial_model(self._network, config.seed)
            self._initial_weights = weights_digest(model)
            self._cost = Cost.of(model, self._inputs.shape)
            least = execution.least_at_once(self._inputs.images, config.batch_size, self._ranks.count)
            if least == 1 and not takes_one_image(model, self._inputs.shape):
                raise UsageError(
                    f"of {self._inputs.images} images one would be alone in a part of a batch, where the "
                    f"BatchNorm of {config.model} has no variance: choose another `batch_size` or "
                    "`accumulation`"
                )
        self._model = place_model(model, config, self._accelerator, execution)
        # What looks at the network besides the loop - SNIP, the Hessian - is in full precision.
        self._bare = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self._method, optimizer = start_method(
            config,
            self._bare,
            images=self._inputs.images,
            batches=self._inputs.pass_over,
            processes=self._ranks.count,
        )
        self._rates = [group["initial_lr"] for group in optimizer.param_groups]
        # Accelerate's wrapper scales fp16's gradients; else it only looks for a package, twice a step.
        scaled = self._accelerator.scaler is not None
        self._optimizer = self._accelerator.prepare_optimizer(optimizer) if scaled else optimizer

        self._gradient = BatchGradient(config, self._model, self._accelerator, self._ranks, execution)

        steps = len(self._inputs.training)
        self._checkpoint_steps = checkpoint_every.iterations(steps)
        self._progress = Progress(steps, config.epochs, device)
        self._position = self._progress.position

    def run(self) -> dict[str, Any]:
        """Train to the end, or do nothing if the run is over already.

        Returns:
            The result that was written to the folder: ``status`` is ``"finished"`` or ``"diverged"``.

        Raises:
            RunFolderError: The folder holds another run, or is in use.
            StopRequested: Ctrl-C or SIGTERM came.
            OSError: Something could not be written.
        """
        with ExitStack() as held:
            result: dict[str, Any] | None = self._ranks.on_main(lambda: self._open(held))
            if result is not None:
                return result
            reset_peak(self._accelerator.device)
            for callback in self._callbacks:
                held.callback(callback.close)
            self._resume()
            stop = held.enter_context(stop_requests())
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
            with self._ranks.together():
                if self._ranks.main:
                    self._folder.write_result(result)
                for callback in self._callbacks:
                    callback.on_end(result)
            if self._ranks.any(bool(stop)):
                raise StopRequested
            return result

    def _open(self, held: ExitStack) -> dict[str, Any] | None:
        """Lock the folder and check that it is this run's; returns the result if the run is over."""
        held.enter_context(self._folder.locked())
        asked = {**asdict(self._config), "data": self._inputs.digest}
        self._folder.prepare(asked, defaults=self._config.defaults())
        if self._folder.network() is None:
            self._folder.write_network(self._network)
        return self._folder.over()

    # -- the loop --------------------------------------------------------------------------------------

    def _train(self, stop: list[int]) -> None:
        position, ranks = self._position, self._ranks
        while position.epoch <= self._config.epochs:
            self._set_learning_rate()
            self._model.train()
            started = time.perf_counter()
            batches = self._inputs.training.epoch(
                position.epoch, position.step_in_epoch, ranks.rank, ranks.count
            )
            while position.step_in_epoch < position.steps_per_epoch:
                waiting = time.perf_counter()
                with ranks.together():
                    _, images, labels = next(batches)
                self._progress.count_time("input", waiting)
                self._step(images, labels)
                self._progress.next_step()
                for callback in self._callbacks:
                    callback.on_step(position)
                if position.step_in_epoch == position.steps_per_epoch:
                    break
                stopping = ranks.any(bool(stop))
                if stopping or position.step % self._checkpoint_steps == 0:
                    self._progress.count_time("train", started)
                    self._save()
                    started = time.perf_counter()
                if stopping:
                    raise StopRequested
            self._progress.count_time("train", started)
            self._finish_epoch()
            over = position.epoch > self._config.epochs
            stopping = ranks.any(bool(stop))
            if stopping or over or position.step % self._checkpoint_steps == 0:
                self._save()
            if stopping and not over:
                raise StopRequested

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimiser step on this process's part of one batch."""
        position, sums, batch_size = self._position, self._progress.sums, self._config.batch_size
        whole_batch = min(batch_size, self._inputs.images - position.step_in_epoch * batch_size)
        self._optimizer.zero_grad()
        sums += self._gradient(
            images,
            labels,
            of=whole_batch,
            step=position.step,
            dtype=sums.dtype,
            penalty=lambda: self._method.penalty(position.step + 1),
        )
        if sums.device.type == "cpu" or position.step % _STEPS_BETWEEN_CHECKS == 0:
            self._check_loss()
        self._optimizer.step()
        self._method.after_step(position.step + 1)

    def _finish_epoch(self) -> None:
        """Measure, record, and go to the next epoch."""
        self._check_state()
        started = time.perf_counter()
        batches = self._inputs.evaluation(self._ranks.rank, self._ranks.count)
        test = evaluate(self._bare, batches, ranks=self._ranks, autocast=self._accelerator.autocast)
        self._progress.count_time("evaluation", started)
        if not math.isfinite(test.loss):
            raise DivergenceError(self._diagnosis("the loss in evaluation"))
        sparsity = self._method.sparsity()
        metrics = {
            **epoch_record(self._progress, self._inputs.images, test, sparsity, self._optimizer),
            "macs": self._cost.of_epoch(
                self._method, sparsity, self._position.steps_of_epoch, self._inputs.images
            ),
            "data_order": self._inputs.training.data_order_digest(self._position.epoch),
        }
        with self._ranks.together():
            if self._ranks.main:
                self._folder.append_epoch(metrics, timing_record(self._progress))
            for callback in self._callbacks:
                callback.on_epoch(metrics, sparsity)
        self._progress.next_epoch()

    def _finish(self) -> dict[str, Any]:
        """Write the sparse file and return the result."""
        self._method.finish()
        report = self._method.sparsity()
        state = whole(dict(self._bare.state_dict()))
        info, metrics = self._ranks.on_main(
            lambda: (save_sparse(state, self._folder.sparse_file), self._folder.metrics())
        )
        record = result_record(self._config, self._position.step, metrics, report, info)
        return {**record, **self._identity()}

    def _set_learning_rate(self) -> None:
        factor = self._config.rate_factor(self._position.epoch)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _identity(self) -> dict[str, Any]:
        return {
            "seconds": self._progress.seconds["total"],
            "peak_bytes": self._ranks.on_main(lambda: peak_bytes(self._accelerator.device)),
            "initial_weights": self._initial_weights,
        }

    def _check_loss(self) -> None:
        """Raise DivergenceError if a loss of this epoch was not finite."""
        if not torch.isfinite(self._progress.sums[0]):
            raise DivergenceError(self._diagnosis("the loss"))

    def _check_state(self) -> None:
        """Raise DivergenceError if a loss, a weight, or anything that the optimiser holds is not finite."""
        self._check_loss()
        held = [value for state in self._optimizer.state.values() for value in state.values()]
        tensors = [value for value in held if isinstance(value, Tensor)]
        if not all_finite([*self._bare.state_dict().values(), *tensors], self._ranks):
            raise DivergenceError(self._diagnosis("a weight or the state of the optimiser"))

    def _diagnosis(self, what: str) -> str:
        """Say in one line what is not finite, where, and what to do."""
        return diverged(what, self._config, self._position, first_non_finite(self._bare))

    # -- interruption ----------------------------------------------------------------------------------

    def _save(self) -> None:
        """Save everything that the rest of the run depends on."""
        self._check_state()  # the last good checkpoint must not be replaced by a bad one
        state = {
            **state_of(self._accelerator, self._bare, self._optimizer, self._method),
            **self._progress.state_dict(),
        }
        with self._ranks.together():
            if self._ranks.main:
                self._folder.save_checkpoint(self._position.step, state)

    def _resume(self) -> None:
        """Go to the newest checkpoint, if there is one, and tell the callbacks that training goes on."""
        state, digest = self._ranks.on_main(lambda: (self._read_checkpoint(), self._inputs.digest))
        with self._ranks.together():
            if digest != self._inputs.digest:
                raise RunFolderError("the processes see different data: give all of them the same `data_dir`")
        if state is not None:
            restore(state, self._accelerator, self._bare, self._optimizer, self._method)
            self._progress.load_state_dict(state)
        run = Run(
            config=self._config,
            folder=self._folder,
            model=self._bare,
            optimizer=self._optimizer,
            method=self._method,
            num_classes=self._inputs.num_classes,
            position=self._position,
            sums=self._progress.sums,
        )
        with self._ranks.together():
            for callback in self._callbacks:
                callback.on_start(run)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        """Read the newest checkpoint, forget what was recorded after it, and note the new start."""
        checkpoint = self._folder.newest_checkpoint()
        self._folder.rewind(checkpoint)
        here = {
            **describe_environment(self._command, self._accelerator.device),
            "processes": self._ranks.count,
            "accumulation": self._accumulation,
        }
        if checkpoint is None:
            self._folder.write_environment(here)
            return None
        known = (self._folder.path / "environment.json").is_file()  # who finds it damaged may delete it
        before = self._folder.environment() if known else here
        self._folder.write_environment({**before, "resumed": [*before.get("resumed", []), here]})
        return checkpoint.state
