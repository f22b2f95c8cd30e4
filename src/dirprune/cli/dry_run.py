"""`dirprune train RECIPE --dry-run`: what the recipe takes, in words."""

import torch

from dirprune.core.wording import counted
from dirprune.data import load_dataset
from dirprune.data.catalogue import find_spec
from dirprune.data.loading import local_folder
from dirprune.report import wording
from dirprune.train import (
    Estimate,
    Execution,
    Experiment,
    TrainConfig,
    estimate,
    first_process,
    fitting,
    leave,
    shape_of,
)
from dirprune.train.engines import share_of_cores
from dirprune.train.inputs import held_back_of
from dirprune.train.ranks import processes

_DAY = 24 * 3600


def count_data(dataset: str, data_dir: str | None) -> tuple[int, int]:
    """Return the numbers of training images and of classes.

    Args:
        dataset: Its name.
        data_dir: A folder of large images is listed, to count them; other data sets have known numbers.

    Raises:
        DataError: The folder is not there, or holds something else.
    """
    spec = find_spec(dataset)
    if local_folder(dataset, data_dir) is None or not spec.streamed:
        return spec.counts[0], spec.num_classes
    found = load_dataset(dataset, data_dir)
    return len(found.train), found.num_classes


def print_estimates(
    experiment: Experiment, execution: Execution, counts: tuple[int, int], jobs: int | None
) -> None:
    """Print parameters, memory, steps and time for each method of an experiment; writes nothing.

    Args:
        experiment: What would be run.
        execution: How the machine would be used.
        counts: Training images and classes, from :func:`count_data`.
        jobs: Runs at once; None for as many as fit.
    """
    config = experiment.config
    spec = find_spec(config.dataset)
    images, num_classes = counts
    images -= held_back_of(images, config.validation)
    runs = experiment.runs()
    at_once = 1 if processes() > 1 else min(jobs or fitting(experiment.threads), len(runs))
    if at_once > 1 or experiment.threads is not None:
        torch.set_num_threads(experiment.threads or share_of_cores(at_once))
    total = 0.0
    for method, run in {run.method: run for run in runs}.items():
        found = estimate(run, execution, images=images, num_classes=num_classes, shape=shape_of(config, spec))
        count = sum(other.method == method for other in runs)
        total += count * found.step * found.steps_per_epoch * found.epochs
        if first_process():
            print("\n".join(_lines(run, found, images, count)))
    if first_process():
        together = f", {at_once} at once" if at_once > 1 else ""
        time = _time(total / at_once)
        print(f"all {len(runs)} runs{together}: {time}; without reading data, evaluation and checkpoints")
    leave()


def _lines(config: TrainConfig, found: Estimate, images: int, runs: int) -> list[str]:
    size, epoch = wording.size, found.step * found.steps_per_epoch
    peak = "cannot be" if found.peak is None else size(found.peak)
    devices = f" on each of {found.processes} devices" if found.processes > 1 else ""
    lines = [
        f"{config.recipe}, {config.method}, {counted(runs, 'run')}",
        f"  parameters   {found.parameters:,}",
        f"  memory       {size(found.memory)}{devices}: weights {size(found.weights)}, gradients "
        f"{size(found.gradients)}, optimiser {size(found.optimizer)}, activations "
        f"{size(found.activations)} for {found.at_once:,} images at once",
        f"  peak         {peak} measured with {found.measured_images:,} images at once "
        "(on a CPU: of the whole process)",
        f"  steps        {found.steps_per_epoch:,} an epoch of {images:,} images, "
        f"{found.steps_per_epoch * found.epochs:,} in {found.epochs:,} epochs",
        f"  time         {_time(found.step)} a step, {_time(epoch)} an epoch, "
        f"{_time(epoch * found.epochs)} a run (steps measured with {found.measured_images:,} images)",
    ]
    if found.memory > found.available:
        needed = 2 ** (found.memory // max(1, found.available)).bit_length()
        lines.append(
            f"  note         {size(found.available)} are free: divide the batch (--accumulation {needed}) "
            "or use more devices"
        )
    return lines


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds / _DAY:.1f} days" if seconds > 2 * _DAY else wording.duration(seconds)
