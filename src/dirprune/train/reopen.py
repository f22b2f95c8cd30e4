"""A run that has been trained, opened again: its network, and the data that it saw."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from dirprune.data import Augmentation, Batches, EncodedDataset, ImageDataset, Split
from dirprune.errors import RunFolderError, UsageError
from dirprune.export import load_sparse
from dirprune.runs import RunFolder
from dirprune.train.build import build_model
from dirprune.train.config import TrainConfig
from dirprune.train.inputs import in_memory


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """A split in its own order, normalised and not augmented: the same at every pass.

    Example:
        >>> import torch
        >>> split = Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3))
        >>> [len(labels) for _, labels in EvaluationData(split, Augmentation(), batch_size=2)]
        [2, 1]
    """

    split: Split
    augmentation: Augmentation
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return Batches.evaluation(self.split, self.augmentation, self.batch_size)


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run and what it was trained with.

    Attributes:
        folder: Where it lies.
        config: Its settings.
        model: Its network with the trained weights, in evaluation mode.
        training: Its training images.
        measured: The images that it was measured on.
        augmentation: How images were changed and normalised.
    """

    folder: RunFolder
    config: TrainConfig
    model: nn.Module
    training: Split
    measured: Split
    augmentation: Augmentation

    def shuffled(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch as the run was trained with: shuffled and augmented."""
        batches = Batches(self.training, self.config.batch_size, self.config.seed, self.augmentation)
        return ((images, labels) for _, images, labels in batches.epoch(epoch))

    def training_data(self) -> dict[str, Any]:
        """Return what :meth:`shuffled` depends on, as JSON can hold it."""
        config, augmentation = self.config, self.augmentation
        return {
            "samples": len(self.training),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "augmentation": {**asdict(augmentation)},
        }

    def snapshot(self, epoch: int) -> dict[str, Tensor]:
        """Read the weights after an epoch.

        Raises:
            RunFolderError: They were not kept.
        """
        path = self.folder.snapshots().get(epoch)
        if path is None:
            raise RunFolderError(
                f"{self.folder.path} has no snapshot of epoch {epoch}: train with `snapshots`"
            )
        return load_sparse(path)


def run_config(folder: RunFolder) -> TrainConfig:
    """Read a run's settings.

    Raises:
        RunFolderError: They are not those of a training run.
        UsageError: One of them is out of range.
    """
    try:
        return TrainConfig.from_json(folder.config())
    except TypeError as error:
        raise RunFolderError(f"{folder.path}/config.json is not of a training run: {error}") from None


def reopen(folder: RunFolder, dataset: ImageDataset | EncodedDataset) -> TrainedRun:
    """Open a finished run.

    Args:
        folder: Of the run.
        dataset: The data set that it was trained on.

    Returns:
        The run with its trained network.

    Raises:
        RunFolderError: The run has not finished, or was trained on other data.
        UsageError: The data set is not one that is held in memory.
    """
    config = run_config(folder)
    digest = folder.config().get("data")
    if digest not in (None, dataset.digest):
        raise RunFolderError(
            f"{folder.path} was trained on other data ({digest}) than these ({dataset.digest})"
        )
    if (folder.result() or {}).get("status") != "finished":
        raise RunFolderError(f"{folder.path} has not finished: train it to the end first")
    if not isinstance(dataset, ImageDataset):
        raise UsageError(f"{folder.path} was trained on streamed images; a run is opened with data in memory")
    training, measured = in_memory(config, dataset)
    model = build_model(config, training.image_shape, dataset.num_classes)
    load_sparse(folder.sparse_file, model)
    augmentation = Augmentation(config.crop_padding, config.flip, config.mean, config.std)
    return TrainedRun(folder, config, model.eval(), training, measured, augmentation)
