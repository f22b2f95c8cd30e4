"""A small problem that every method trains on, through the protocol alone."""

import copy
import io
from dataclasses import replace

import torch
from torch import nn

from dirprune.methods import METHODS, TrainingPlan, create_method
from dirprune.methods.base import cross_entropy

STEPS, EPOCH, BATCH, CLASSES = 40, 10, 32, 4
TARGET = 0.8
# The problem has forty steps: what counts steps must be short, and strengths large.
CHANGES = {
    "gradual": {"every": 4},
    "gradual-uniform": {"every": 4},
    "gradual-erk": {"every": 4},
    "random": {"every": 4},
    "rigl": {"every": 5},
    "str": {"s_init": -4.0, "decay": 0.2},
    "variational-dropout": {"lr": 0.05, "log_sigma2": -6.0, "kl": 2.0},
    "l0": {"lr": 0.1, "strength": 20.0},
    "l1": {"l1": 0.03},
    "rda": {"l1": 0.03, "lr": 0.2},
    "linbreg": {"l1": 0.05, "density": 0.1},
    "adabreg": {"l1": 0.02, "density": 0.1, "lr": 0.005},
    "grda": {"c": 0.03, "mu": 0.7},
    "grda-l0": {"c": 0.2},
    "grda-rescaled": {"c": 0.2},
}
NAMES = list(METHODS)
PRUNING = [name for name in NAMES if name not in ("sgd", "small-dense")]
TARGETED = [name for name in PRUNING if METHODS[name].facts.needs_target]
FREE = [name for name in PRUNING if not METHODS[name].facts.needs_target]


def network(dtype=torch.float32, seed=0):
    """A convolution, BatchNorm, dropout and two linear layers, on images of 2 x 6 x 6."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 12),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(12, CLASSES),
    ).to(dtype)


def batch(step, dtype=torch.float32):
    """The batch of a step: class means under noise."""
    generator = torch.Generator().manual_seed(1000 + step)
    means = torch.randn(CLASSES, 2, 6, 6, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    return (means[labels] + torch.randn(BATCH, 2, 6, 6, generator=generator)).to(dtype), labels


def plan_for(name, dtype=torch.float32, **changes):
    """The plan of a run of a method."""
    plan = TrainingPlan(
        total_steps=STEPS,
        steps_per_epoch=EPOCH,
        examples=EPOCH * BATCH,
        lr=0.05,
        momentum=0.9,
        batches=lambda: (batch(step, dtype) for step in range(1, EPOCH + 1)),
        include="weights",
        sparsity=TARGET if METHODS[name].facts.needs_target else None,
    )
    return replace(plan, **changes)


class Run:
    """A method, a network and an optimiser, driven as the trainer drives them."""

    def __init__(self, name, dtype=torch.float32, method=None, **changes):
        self.method = method or create_method(name, **CHANGES.get(name, {}))
        self.dtype = dtype
        self.model = network(dtype)
        self.plan = plan_for(name, dtype, **changes)
        self.optimizer = self.method.start(self.model, self.plan)
        self.step = 0

    def train(self, steps=STEPS, watch=None):
        """Take steps; ``watch`` is called with the run after each."""
        for _ in range(steps):
            self.step += 1
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1.0 if self.step <= STEPS // 2 else 0.5)
            inputs, labels = batch(self.step, self.dtype)
            loss = cross_entropy(self.model(inputs), labels)
            penalty = self.method.penalty(self.step)
            if penalty is not None:
                loss = loss + penalty
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.method.after_step(self.step)
            if watch is not None:
                watch(self)
        return self

    def finish(self):
        """End the run, and return the plain state."""
        self.method.finish()
        return self.model.state_dict()

    def checkpoint(self):
        """The bytes of a checkpoint, as the trainer keeps it."""
        buffer = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "step": self.step,
            "rng": torch.get_rng_state(),
        }
        torch.save(copy.deepcopy(state), buffer)
        return buffer.getvalue()

    def restore(self, checkpoint):
        """Go on from a checkpoint, read without running code."""
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"])
        return self


def finished(name, **options):
    """The plain state after a whole run."""
    return Run(name, **options).train().finish()


def prunable_zeros(state):
    """Zeros and elements of the weights that may be pruned."""
    weights = [state[key] for key in ("0.weight", "4.weight", "7.weight")]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
