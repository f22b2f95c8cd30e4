"""Training: configuration, one short loop, exact resume, sets of runs."""

from dirprune.train.callbacks import Callback, Position, Run
from dirprune.train.config import METHODS, Method, TrainConfig
from dirprune.train.diagnosis import Diagnosis
from dirprune.train.display import ProgressDisplay
from dirprune.train.duration import Duration
from dirprune.train.engines import run_jobs
from dirprune.train.environment import describe_environment
from dirprune.train.experiment import Experiment, run_experiment
from dirprune.train.interruption import StopRequested
from dirprune.train.jobs import Job, Outcome, raise_failures
from dirprune.train.measures import evaluate
from dirprune.train.snapshots import KeepSnapshots, Snapshot, read_snapshot
from dirprune.train.trainer import Trainer

__all__ = [
    "METHODS",
    "Callback",
    "Diagnosis",
    "Duration",
    "Experiment",
    "Job",
    "KeepSnapshots",
    "Method",
    "Outcome",
    "Position",
    "ProgressDisplay",
    "Run",
    "Snapshot",
    "StopRequested",
    "TrainConfig",
    "Trainer",
    "describe_environment",
    "evaluate",
    "raise_failures",
    "read_snapshot",
    "run_experiment",
    "run_jobs",
]
