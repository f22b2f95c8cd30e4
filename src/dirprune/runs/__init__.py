"""The run folder: the only thing that training writes and the report reads."""

from dirprune.runs.folder import Checkpoint, RunFolder, find_runs, is_of_a_run

__all__ = ["Checkpoint", "RunFolder", "find_runs", "is_of_a_run"]
