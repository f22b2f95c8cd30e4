"""Training: configuration, one short loop, exact resume, sets of runs."""

from dirprune.train.accumulators import Accumulators, KeepAccumulators, read_accumulators
from dirprune.train.callbacks import Callback, Position, Run
from dirprune.train.config import TWINS, TrainConfig
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import ProgressDisplay
from dirprune.train.dry_run import Estimate, estimate, shape_of
from dirprune.train.duration import Duration
from dirprune.train.engines import fitting, run_jobs
from dirprune.train.environment import describe_environment
from dirprune.train.execution import Execution
from dirprune.train.experiment import Experiment, run_experiment
from dirprune.train.interruption import StopRequested
from dirprune.train.jobs import Job, Outcome, raise_failures
from dirprune.train.measures import Measured, evaluate
from dirprune.train.ranks import first_process, leave
from dirprune.train.tracking import Tracking, check_tracker
from dirprune.train.trainer import Trainer

__all__ = [
    "TWINS",
    "Accumulators",
    "Callback",
    "Diagnosis",
    "Duration",
    "Estimate",
    "Execution",
    "Experiment",
    "Job",
    "KeepAccumulators",
    "Measured",
    "Outcome",
    "Position",
    "ProgressDisplay",
    "Run",
    "StopRequested",
    "Tracking",
    "TrainConfig",
    "Trainer",
    "check_tracker",
    "describe_environment",
    "estimate",
    "evaluate",
    "first_process",
    "fitting",
    "leave",
    "raise_failures",
    "read_accumulators",
    "run_experiment",
    "run_jobs",
    "shape_of",
]
