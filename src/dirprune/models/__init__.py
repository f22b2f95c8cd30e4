"""Networks as their papers have them."""

from dirprune.models.registry import MODELS, create_model

__all__ = ["MODELS", "create_model"]
