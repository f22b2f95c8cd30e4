"""Choosing c: the greatest that keeps SGD's accuracy, or the one that ends at a sparsity asked for."""

from dirprune.tune.comparable import Comparison, non_inferiority
from dirprune.tune.crossing import Prediction, predict_sparsity
from dirprune.tune.greatest import Candidate, greatest_comparable_c
from dirprune.tune.target import Trial, c_for_sparsity, reaches

__all__ = [
    "Candidate",
    "Comparison",
    "Prediction",
    "Trial",
    "c_for_sparsity",
    "greatest_comparable_c",
    "non_inferiority",
    "predict_sparsity",
    "reaches",
]
