"""Started by torchrun in two processes: every kind of run on a small folder of JPEGs, for tests to read."""

import io
import json
import os
import signal
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

from dirprune.cli import main as cli
from dirprune.data import load_dataset
from dirprune.errors import DirpruneError
from dirprune.models import MODELS
from dirprune.optim import GRDA
from dirprune.runs import RunFolder
from dirprune.train import Duration, Execution, Job, StopRequested, TrainConfig, Trainer, leave
from dirprune.train.jobs import run_here
from dirprune.train.ranks import shard
from tests.train.dropout_net import dropout_conv_net

MODELS["dropout-conv-net"] = dropout_conv_net
CONFIG = TrainConfig(
    recipe="test",
    dataset="imagenet",
    model="lenet5",
    image_size=20,
    width=0.3,
    lr=0.05,
    c=0.05,
    mu=0.6,
    batch_size=8,  # 25 images: the last batch has one, so that one of two processes has none
    epochs=2,
    flip=True,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
NO_WORKERS = Execution(workers=0)
RUNS = {
    "ddp": (CONFIG, NO_WORKERS),
    "fsdp2": (CONFIG, Execution(parallel="fsdp2", workers=1)),
    "accumulation": (CONFIG, Execution(accumulation=3, workers=0)),
    "fsdp2-accumulation": (CONFIG, Execution(parallel="fsdp2", accumulation=2, workers=0)),
    "momentum": (replace(CONFIG, momentum=0.5, prune="weights"), Execution(parallel="fsdp2", workers=0)),
    "norm-ddp": (replace(CONFIG, model="dropout-conv-net"), NO_WORKERS),
    "norm-fsdp2": (replace(CONFIG, model="dropout-conv-net"), Execution(parallel="fsdp2", workers=0)),
}
RESNET = replace(CONFIG, model="resnet50", width=1.0, image_size=64, batch_size=13, epochs=1)


def main(images: Path, out: Path) -> None:
    dataset = load_dataset("imagenet", images)
    rank = int(os.environ["RANK"])
    for name, (config, execution) in RUNS.items():
        Trainer(config, dataset, RunFolder(out / name), execution=execution).run()
    for parallel in ("ddp", "fsdp2"):
        execution = Execution(parallel=parallel, workers=0)
        Trainer(RESNET, dataset, RunFolder(out / f"resnet50-{parallel}"), execution=execution).run()
    failures = {
        "stopped": lambda: stopped(dataset, out / "stopped", rank),
        "damaged": lambda: damaged(images.parent / "damaged", out / "damaged"),
        "unwritable": lambda: Trainer(CONFIG, dataset, RunFolder(out / "file" / "run")).run(),
        "taken": lambda: Trainer(replace(CONFIG, epochs=9), dataset, RunFolder(out / "ddp")).run(),
        "busy": lambda: busy(dataset, out / "busy", rank),
        "scaler": lambda: scaler(rank),
        "diverged": lambda: Trainer(
            replace(CONFIG, lr=1e30).with_method("sgd"), dataset, RunFolder(out / "diverged")
        ).run(),
    }
    said = {}
    for name, action in failures.items():
        try:
            said[name] = str(action())
        except (DirpruneError, OSError, StopRequested) as error:
            said[name] = f"{type(error).__name__}: {error}"
    options = (
        "--model lenet5 --image-size 20 --batch-size 8 --epochs 1 --schedule constant --workers 0 "
        "--parallel fsdp2 --tracker tensorboard"
    )
    arguments = ["train", "resnet50-imagenet", "--data-dir", str(images), "--out", str(out / "command")]
    with redirect_stdout(io.StringIO()) as printed:
        said["code"] = cli([*arguments, *options.split()])  # the last, for it takes leave of the others
    said["printed"] = printed.getvalue()
    (out / f"said{rank}.json").write_text(json.dumps(said))


def stopped(dataset, folder, rank):
    """A signal reaches the second process alone; both stop, and the run goes on to the same end."""
    trainer = Trainer(CONFIG, dataset, RunFolder(folder), execution=NO_WORKERS)
    step = trainer._step

    def interrupted(images, labels):
        step(images, labels)
        if rank == 1 and trainer._position.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._step = interrupted
    try:
        trainer.run()
    except StopRequested:
        Trainer(CONFIG, dataset, RunFolder(folder), execution=NO_WORKERS).run()
        return "stopped and resumed"


def busy(dataset, folder, rank):
    """Another process holds the run's folder."""
    folder.mkdir(exist_ok=True)
    with RunFolder(folder).locked() if rank == 0 else nullcontext():
        return Trainer(CONFIG, dataset, RunFolder(folder), execution=NO_WORKERS).run()


def damaged(images, folder):
    """One image cannot be decoded, in one process."""
    return Trainer(CONFIG, load_dataset("imagenet", images), RunFolder(folder), execution=NO_WORKERS).run()


def scaler(rank):
    """One process overflows in its shard; both skip that step."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4, bias=False)
    shard(layer)
    optimizer = GRDA(layer.parameters(), lr=0.1, c=0.1)
    scaling = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(3):
        optimizer.zero_grad()
        scaling.scale(layer(torch.ones(2, 4)).sum()).backward()
        if step == 1 and rank == 1:
            layer.weight.grad.to_local().fill_(float("inf"))
        scaling.step(optimizer)
        scaling.update()
    return f"scale {scaling.get_scale()}, {optimizer.state[layer.weight]['step'].item()} steps"


def killed(images: Path, out: Path) -> None:
    """Every process but those of the last start is killed at some step; torchrun starts them again."""
    start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    config, execution = RUNS["norm-fsdp2"]
    trainer = Trainer(
        config, load_dataset("imagenet", images), RunFolder(out / "killed"), execution=execution,
        checkpoint_every=Duration(2, "it"),
    )  # fmt: skip
    step = trainer._step

    def deadly(images, labels):
        step(images, labels)
        if start < 2 and rank == 1 - start and trainer._position.step == (2, 6)[start]:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer._step = deadly
    trainer.run()
    leave()


def lonely(images: Path, out: Path) -> None:
    """One process fails in the middle of a step; there is another run to come."""
    whole_step = Trainer._step

    def failing(self, images, labels):
        if os.environ["RANK"] == "1" and self._position.step == 1:
            raise RuntimeError("a kernel fails in one process")
        whole_step(self, images, labels)

    Trainer._step = failing
    jobs = [Job(config=CONFIG, folder=out / name, execution=NO_WORKERS) for name in ("failing", "next")]
    run_here(jobs, load_dataset("imagenet", images), [])


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"main": main, "killed": killed, "lonely": lonely}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
