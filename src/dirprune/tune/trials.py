"""Short runs: ordinary run folders, so that what is done is not done again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from dirprune.data import Augmentation, Batches, ImageDataset
from dirprune.errors import RunInUseError
from dirprune.export import load_sparse
from dirprune.models import create_model
from dirprune.runs import RunFolder
from dirprune.train import Duration, Job, ProgressDisplay, TrainConfig, raise_failures, run_jobs
from dirprune.train.trainer import _splits as held_back_splits


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how short runs are trained.

    Args:
        dataset: The data of all runs.
        folder: Where the runs' folders are made, each set of settings in a folder of its own.
        console: Where progress is shown.
        data_dir: Where other processes read the data set from.
        threads: Threads on the CPU for each run.
        at_once: Runs at once; see :func:`dirprune.train.run_jobs`.
        command: The command line, for the record.
    """

    dataset: ImageDataset
    folder: Path
    console: Console
    data_dir: str | None = None
    threads: int | None = None
    at_once: int | None = None
    command: str = ""

    def train(self, configs: Sequence[TrainConfig], snapshots: tuple[int, ...] = ()) -> list[RunFolder]:
        """Train runs that are not over yet; a diverged one is over.

        Args:
            configs: What to train.
            snapshots: Epochs after which the accumulators are kept.

        Returns:
            Their folders.

        Raises:
            FailedRunsError: Runs failed.
            RunInUseError: Another process is training one of them.
            StopRequested: Ctrl-C or SIGTERM came.
        """
        jobs = [
            Job(
                config=config,
                folder=self.folder / config.run_name,
                data_dir=self.data_dir,
                threads=self.threads,
                checkpoint_every=Duration(max(1, config.epochs // 4), "ep"),
                command=self.command,
                snapshots=snapshots,
            )
            for config in configs
        ]
        with ProgressDisplay(self.console, len(jobs)) as display:
            outcomes = run_jobs(jobs, self.dataset, display, at_once=self.at_once)
        raise_failures(outcomes)
        for outcome in outcomes:
            if outcome.status == "busy":
                raise RunInUseError(outcome.message)
        return [RunFolder(job.folder) for job in jobs]

    @torch.no_grad()
    def correct(self, config: TrainConfig, run: RunFolder) -> Tensor:
        """Return whether a finished network is right on each held-back image: bool [n]."""
        _, held_back = held_back_splits(self.dataset, config.validation)
        channels, height, _ = self.dataset.image_shape
        model = create_model(
            config.model,
            num_classes=self.dataset.num_classes,
            in_channels=channels,
            image_size=height,
            width=config.width,
        )
        load_sparse(run.sparse_file, model)
        model.eval()
        augmentation = Augmentation(config.crop_padding, config.flip, config.mean, config.std)
        batches = Batches.evaluation(held_back, augmentation)
        return torch.cat([model(images).argmax(1) == labels for images, labels in batches])
