"""Images per second of the input pipeline alone, beside the training step that it has to feed.

    python benchmarks/pipeline.py --data-dir DATA --output benchmarks/results/pipeline.json

DATA is a folder of large images as `dirprune train resnet50-imagenet` takes it; without one, a folder of
JPEGs of 500 x 375 pixels is made from scikit-learn's photographs for the time of the measurement.

The ratio is of this machine's step: one that was measured on a CPU says nothing of what a GPU wants. Others
at work slow both sides down, so the load is kept beside it.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from dirprune.data import EncodedDataset, load_dataset
from dirprune.recipes import get_recipe
from dirprune.train import Execution, TrainConfig, estimate
from dirprune.train.inputs import make_inputs
from record import record

CLASSES, EACH = 4, 48  # of the images made here


def make_images(root: Path) -> Path:
    """Write JPEGs of about ImageNet's median size."""
    photographs = load_sample_images().images
    generator = np.random.default_rng(0)
    for split, count in (("train", EACH), ("val", 1)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                top, left = generator.integers(0, 427 - 375), generator.integers(0, 640 - 500)
                pixels = photographs[label % 2][top : top + 375, left : left + 500]
                Image.fromarray(pixels).save(folder / f"{index}.JPEG", quality=90)
    return root


def pipeline(config: TrainConfig, dataset: EncodedDataset, workers: int, images: int) -> dict[str, float]:
    """Decode, augment and hand over some images; the start of the workers is measured apart."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = make_inputs(config, dataset, device, Execution(workers=workers))
    seen, epoch = 0, 0
    started = time.perf_counter()
    first = 0.0
    while seen < images:
        epoch += 1
        for _, _, labels in inputs.training.epoch(epoch):
            seen += len(labels)
            if not first:  # workers start, and the batches ahead are begun
                first, counted, began = time.perf_counter() - started, seen, time.perf_counter()
            if seen >= images:
                break
    taken = time.perf_counter() - began
    rate = (seen - counted) / taken
    return {"workers": workers, "images_per_second": round(rate, 1), "first_batch_seconds": round(first, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--recipe", default="resnet50-imagenet")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="no")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    config = replace(
        get_recipe(options.recipe).config,
        image_size=options.image_size,
        batch_size=options.batch_size,
        precision=options.precision,
        channels_last=options.channels_last,
    )
    with tempfile.TemporaryDirectory() as made:
        dataset = load_dataset(config.dataset, options.data_dir or make_images(Path(made)))
        rows = [pipeline(config, dataset, workers, options.images) for workers in options.workers]
        shape = make_inputs(config, dataset, torch.device("cpu"), Execution(workers=0)).shape
    step = estimate(config, Execution(), images=options.images, num_classes=dataset.num_classes, shape=shape)
    images_per_second = min(config.batch_size, options.images) / step.step
    for row in rows:
        row["times_the_step"] = round(row["images_per_second"] / images_per_second, 2)
        print(
            f"{row['workers']} workers: {row['images_per_second']:8.1f} images/s, "
            f"{row['times_the_step']:.2f} times the step"
        )
    print(f"training step: {images_per_second:.1f} images/s (measured with {step.measured_images} at once)")
    if options.output:
        found = {
            "load_average": os.getloadavg(),
            "model": config.model,
            "shape": shape,
            "batch_size": config.batch_size,
            "precision": config.precision,
            "channels_last": config.channels_last,
            "step_images_per_second": round(images_per_second, 2),
            "pipeline": rows,
        }
        record(options.output, found, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
