"""Image data sets by name, batched augmentation, and batches that a resume repeats exactly."""

from dirprune.data.augment import Augmentation
from dirprune.data.batches import Batches, epoch_permutation
from dirprune.data.catalogue import DATASETS, DatasetSpec, ImageDataset, Split
from dirprune.data.encoded import EncodedDataset, EncodedSplit
from dirprune.data.loading import load_dataset
from dirprune.data.streaming import Framing, StreamedBatches

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "DatasetSpec",
    "EncodedDataset",
    "EncodedSplit",
    "Framing",
    "ImageDataset",
    "Split",
    "StreamedBatches",
    "epoch_permutation",
    "load_dataset",
]
