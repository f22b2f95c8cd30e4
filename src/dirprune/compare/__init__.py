"""Methods beside each other on equal terms: the same trials to tune them, the same seeds, data and budget."""

from dirprune.compare.protocol import Choice, Comparison, Protocol
from dirprune.compare.search import Candidate, Space, Trial

__all__ = ["Candidate", "Choice", "Comparison", "Protocol", "Space", "Trial"]
