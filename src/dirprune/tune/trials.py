"""Short runs: ordinary run folders, so that what is done is not done again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from dirprune.data import EncodedDataset, ImageDataset
from dirprune.errors import RunInUseError
from dirprune.export import load_sparse
from dirprune.runs import RunFolder
from dirprune.train import Duration, Execution, Job, ProgressDisplay, TrainConfig, raise_failures, run_jobs
from dirprune.train.build import build_model
from dirprune.train.environment import current_device
from dirprune.train.inputs import make_inputs


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
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

    dataset: ImageDataset | EncodedDataset
    folder: Path
    console: Console
    data_dir: str | None = None
    threads: int | None = None
    at_once: int | None = None
    command: str = ""

    def train(
        self,
        configs: Sequence[TrainConfig],
        accumulators: tuple[int, ...] = (),
        names: Sequence[str] | None = None,
    ) -> list[RunFolder]:
        """Train runs that are not over yet; a diverged one is over.

        Args:
            configs: What to train.
            accumulators: Epochs after which the accumulators are kept.
            names: Of their folders, one for each; None: as the runs name themselves.

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
                folder=self.folder / name,
                data_dir=self.data_dir,
                threads=self.threads,
                checkpoint_every=Duration(max(1, config.epochs // 4), "ep"),
                command=self.command,
                accumulators=accumulators,
            )
            for config, name in zip(configs, names or [c.run_name for c in configs], strict=True)
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
        """Return whether a finished network, computed as in training, is right on each image: bool [n]."""
        device = current_device()
        inputs = make_inputs(config, self.dataset, device, Execution())
        model = build_model(config, inputs.shape, inputs.num_classes)
        load_sparse(run.sparse_file, model)
        model.to(device).eval()
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        with torch.autocast(device.type, half, enabled=half is not None):
            right = [model(images).argmax(1) == labels for images, labels in inputs.evaluation(0, 1)]
        return torch.cat(right).cpu()
