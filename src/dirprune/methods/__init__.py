"""Pruning methods behind one small protocol."""

from dirprune.methods.base import Facts, Method, Search, TrainingPlan, Work
from dirprune.methods.registry import METHODS, Entry, create_method, penalty_of_form

__all__ = [
    "METHODS",
    "Entry",
    "Facts",
    "Method",
    "Search",
    "TrainingPlan",
    "Work",
    "create_method",
    "penalty_of_form",
]
