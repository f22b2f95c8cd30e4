"""Which precision and memory layout a recipe is trained in here: timed at the first start, then kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dirprune.bench import TrainingTable, measure_training
from dirprune.bench.training import PLAIN, WAYS
from dirprune.core.atomic import write_json
from dirprune.data.catalogue import find_spec
from dirprune.errors import RunFolderError
from dirprune.train import Execution, Experiment, TrainConfig, describe_environment, shape_of
from dirprune.train.build import build_model, make_accelerator
from dirprune.train.environment import bf16_hardware, current_device
from dirprune.train.ranks import Ranks, processes

RECORD = "compute.json"
"""Name of the file in an experiment's folder."""
WORTH = 0.8
"""A way is taken if a step takes at most this part of float32's time: less gain is not worth other bits."""
BY_HAND = ("--precision", "--channels-last", "--no-channels-last")
"""Options that say it all; the choice is not made then."""

_CANDIDATES = ("channels_last", "bf16", "bf16, channels_last")
_IMAGES = 8  # on a CPU, where these few keep it busy and a whole batch may take minutes
_REPETITIONS = 3
_DEVICES = ("cpu", "cuda")  # that a step can be timed on


@dataclass(frozen=True)
class Compute:
    """How an experiment is computed, and a line that says why."""

    precision: Literal["no", "bf16"]
    channels_last: bool
    why: str

    def applied(self, config: TrainConfig) -> TrainConfig:
        """Return a configuration that is computed so."""
        return replace(config, precision=self.precision, channels_last=self.channels_last)

    def __str__(self) -> str:
        precision = "float32" if self.precision == "no" else self.precision
        return precision + (", channels_last" if self.channels_last else "")


def choose(
    experiment: Experiment,
    folder_of: Callable[[TrainConfig], Path],
    arguments: Sequence[str],
    *,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    keep: bool = True,
) -> tuple[Experiment, list[str]]:
    """Choose how an experiment is computed, unless it has been chosen before or is said by hand.

    The choice is recorded as ``compute.json`` in the experiment's folder, whose name and configurations tell
    it too; the same command finds it there, on this machine or another. Under torchrun process 0 chooses.

    Args:
        experiment: What was asked for.
        folder_of: Returns where the runs of a configuration are kept, or will be.
        arguments: The command's options, in which it may be said by hand.
        execution: How it will use the machine: a step is timed on what one process takes at once.
        keep: Whether to record it.

    Returns:
        The experiment as it is to be computed, and lines to tell the user.

    Raises:
        RunFolderError: A record is damaged.
        UsageError: The network does not exist.
    """
    asked = {word.partition("=")[0].replace("_", "-") for word in arguments}
    config = experiment.config
    if experiment.compute != "auto" or asked & set(BY_HAND):
        return experiment, []
    device = current_device()
    if device.type not in _DEVICES:
        return experiment, []
    ranks = Ranks(1, 0)
    if processes() > 1:
        accelerator = make_accelerator(config)
        ranks, device = Ranks(accelerator.num_processes, accelerator.process_index), accelerator.device
    images = -(-config.batch_size // (ranks.count * execution.accumulation))
    chosen, notes = ranks.on_main(lambda: _choose(experiment, folder_of, images, device, keep))
    return replace(experiment, config=chosen.applied(config)), notes


def _choose(
    experiment: Experiment,
    folder_of: Callable[[TrainConfig], Path],
    images: int,
    device: torch.device,
    keep: bool,
) -> tuple[Compute, list[str]]:
    config, by_hand = experiment.config, "--precision and --channels-last say it by hand"
    folders = {
        compute: folder_of(compute.applied(config))
        for compute in (_compute(name, "") for name in WAYS if not WAYS[name].compiled)
    }
    for folder in folders.values():
        if (folder / RECORD).is_file():
            held = _read(folder / RECORD)
            return held, _notes(held, f"as chosen before ({folder / RECORD}); {by_hand}", device)
    plain = _compute(PLAIN, "")
    if any(folders[plain].rglob("config.json")):  # begun before there was a choice
        return plain, []
    chosen, record = _measure(experiment, images, device)
    folder = folders[replace(chosen, why="")]
    if keep:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
    return chosen, _notes(chosen, f"{chosen.why}; {by_hand}", device)


def _notes(compute: Compute, why: str, device: torch.device) -> list[str]:
    lines = [f"computes in {compute}: {why}"]
    if compute.precision == "bf16" and bf16_hardware(device) is None:
        lines.append("note: this processor has no instructions for bf16 and computes it slowly")
    return lines


def _measure(experiment: Experiment, images: int, device: torch.device) -> tuple[Compute, dict[str, Any]]:
    """Time what this device has instructions for, in turns, and take the fastest."""
    config, spec = experiment.config, find_spec(experiment.config.dataset)
    shape, hardware = shape_of(config, spec), bf16_hardware(device)
    names = [name for name in _CANDIDATES if hardware is not None or not WAYS[name].bf16]
    threads = torch.get_num_threads()
    torch.set_num_threads(experiment.threads or threads)
    try:
        table = _timed(
            lambda images: measure_training(
                lambda: build_model(config, shape, spec.num_classes),
                shape,
                spec.num_classes,
                batch_size=images,
                names=names,
                repetitions=_REPETITIONS,
                warm_up=1,
                device=device,
            ),
            min(images, _IMAGES) if device.type == "cpu" else images,
        )
    finally:
        torch.set_num_threads(threads)
    fastest = min(table.times, key=table.ratio)
    taken = fastest if table.ratio(fastest) <= WORTH else PLAIN
    chosen = _compute(taken, _reason(table, taken, hardware))
    environment = describe_environment("", device)
    return chosen, {**asdict(chosen), "hardware": hardware, **table.as_json(), "environment": environment}


def _timed(measure: Callable[[int], TrainingTable], images: int) -> TrainingTable:
    """Time a step on as many images as the memory holds: all ways are in it at once, a run will be alone."""
    while True:
        try:
            return measure(images)
        except torch.OutOfMemoryError:
            if images == 1:
                raise
        torch.cuda.empty_cache()  # out of the handler, which holds the frames and their tensors
        images //= 2


def _reason(table: TrainingTable, taken: str, hardware: str | None) -> str:
    others = {name: table.ratio(name) for name in table.times if name != PLAIN}
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in others.items())
    found = f"{hardware} found" if hardware else "no instructions for bf16 found"
    verdict = "nothing is worth it" if taken == PLAIN else "the fastest"
    return f"{verdict} here ({found}; times of a step, float32 = 1: {told})"


def _compute(name: str, why: str) -> Compute:
    way = WAYS[name]
    return Compute("bf16" if way.bf16 else "no", way.channels_last, why)


def _read(path: Path) -> Compute:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        found = Compute(held["precision"], held["channels_last"], held["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): restore it, or delete it") from error
    if found.precision not in ("no", "bf16") or not isinstance(found.channels_last, bool):
        raise RunFolderError(f"{path} cannot be read (it says {found}): restore it, or delete it")
    return found
