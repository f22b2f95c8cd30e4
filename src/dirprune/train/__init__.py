"""Training: configuration, one short loop, exact resume, sets of runs."""

from dirprune.train.callbacks import Callback, Position, ProgressDisplay, Run
from dirprune.train.config import METHODS, Method, TrainConfig
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.dry_run import Estimate, estimate, shape_of
from dirprune.train.duration import Duration
from dirprune.train.environment import describe_environment
from dirprune.train.execution import Execution
from dirprune.train.experiment import Experiment, run_experiment
from dirprune.train.interruption import StopRequested
from dirprune.train.measures import Measured, evaluate
from dirprune.train.ranks import first_process, leave
from dirprune.train.trainer import Trainer

__all__ = [
    "METHODS",
    "Callback",
    "Diagnosis",
    "Duration",
    "Estimate",
    "Execution",
    "Experiment",
    "Measured",
    "Method",
    "Position",
    "ProgressDisplay",
    "Run",
    "StopRequested",
    "TrainConfig",
    "Trainer",
    "describe_environment",
    "estimate",
    "evaluate",
    "first_process",
    "leave",
    "run_experiment",
    "shape_of",
]
