"""Measures on the user's own machine, side by side in one run."""

from dirprune.bench.interleave import Timing, interleave
from dirprune.bench.step import OPTIMISERS, StepTable, measure_step, parameter_shapes

__all__ = ["OPTIMISERS", "StepTable", "Timing", "interleave", "measure_step", "parameter_shapes"]
