"""Optimisers."""

from dirprune.optim.grda import GRDA

__all__ = ["GRDA"]
