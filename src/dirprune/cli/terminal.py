"""The terminal, where what the library says of its settings is read by who gave flags."""

from typing import Any

from rich.console import Console

from dirprune.cli.flags import as_flags


class Terminal(Console):
    """A console that names settings as the command line does; see :func:`dirprune.cli.flags.as_flags`."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with flags in place of settings in backquotes."""
        super().print(*(as_flags(each) if isinstance(each, str) else each for each in objects), **options)
