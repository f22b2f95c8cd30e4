"""A length of training that says its unit, so that epochs and iterations cannot be mixed up."""

import re
from dataclasses import dataclass
from typing import Literal

from dirprune.errors import UsageError

_FORM = re.compile(r"([1-9][0-9]*)(ep|it)")


@dataclass(frozen=True)
class Duration:
    """A number of epochs (``"3ep"``) or of iterations (``"500it"``).

    Example:
        >>> Duration.parse("3ep").iterations(steps_per_epoch=391)
        1173
    """

    count: int
    unit: Literal["ep", "it"]

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read ``"3ep"`` or ``"500it"``.

        Raises:
            UsageError: The text has another form.
        """
        match = _FORM.fullmatch(text)
        if not match:
            raise UsageError(
                f"`checkpoint_every` must be epochs or iterations such as '1ep' or '500it', got {text!r}"
            )
        return cls(int(match[1]), "ep" if match[2] == "ep" else "it")

    def iterations(self, steps_per_epoch: int) -> int:
        """Return the length in optimiser steps."""
        return self.count * steps_per_epoch if self.unit == "ep" else self.count

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"
