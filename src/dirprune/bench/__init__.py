"""Measures on the user's own machine, side by side in one run."""

from dirprune.bench.interleave import Timing, interleave
from dirprune.bench.step import OPTIMISERS, StepTable, measure_step, parameter_shapes
from dirprune.bench.training import WAYS, TrainingTable, measure_training

__all__ = [
    "OPTIMISERS",
    "WAYS",
    "StepTable",
    "Timing",
    "TrainingTable",
    "interleave",
    "measure_step",
    "measure_training",
    "parameter_shapes",
]
