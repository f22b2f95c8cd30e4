"""`dirprune report FOLDER`: table and report from run folders alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dirprune.cli.arguments import parse
from dirprune.cli.terminal import Terminal
from dirprune.cli.train import TrainOptions, show


@dataclass(frozen=True)
class ReportOptions:
    """Print the table of a folder of runs and write its HTML report."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A folder that `dirprune train` wrote."""


def report(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(ReportOptions, arguments, prog="dirprune report", before=TrainOptions)
    show(Terminal(), options.folder)
    return 0
