"""`dirprune bench inference RUN`: how fast a finished network runs in each program that is installed."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from dirprune.cli.arguments import in_a_folder, parse
from dirprune.cli.networks import load_network, one_run
from dirprune.core.atomic import write_json
from dirprune.export.inference_bench import Timing, as_json, check_request, measure_inference, verdicts
from dirprune.train import describe_environment


@dataclass(frozen=True)
class BenchInferenceOptions:
    """Time the network of a finished run in every program, side by side."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of one run."""
    batches: tuple[int, ...] = (1, 64)
    """Batch sizes."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""
    rounds: int = 15
    """How often each program is timed; they take turns."""
    programs: tuple[str, ...] = ()
    """Names of programs; default: all."""
    json: Path | None = None
    """Also write the figures and the environment to this file."""

    def __post_init__(self) -> None:
        in_a_folder(json=self.json)


def bench_inference(arguments: list[str]) -> int:
    """Time a finished network in every program that is installed."""
    options = parse(BenchInferenceOptions, arguments, prog="dirprune bench inference")
    check_request(options.batches, options.threads, options.rounds, options.programs)
    model, shape = load_network(one_run(options.run))
    console = Console()
    with console.status("timing"):
        rows = measure_inference(
            model,
            shape,
            batches=options.batches,
            threads=options.threads,
            rounds=options.rounds,
            contenders=options.programs or None,
        )
    show_timings(console, rows)
    if options.json is not None:
        environment = describe_environment(shlex.join(["dirprune", "bench", "inference", *arguments]))
        write_json(options.json, {"environment": environment, **as_json(rows)})
    return 0


def show_timings(console: Console, rows: list[Timing]) -> None:
    """Print timings and verdicts."""
    table = Table("program", "batch", "threads", "ms", "fastest", "per second", "difference")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        if row.milliseconds is None or row.fastest is None or row.per_second is None:
            table.add_row(row.name, str(row.batch), str(row.threads), "-", "-", "-", "-")
            continue
        figures = (f"{row.milliseconds:.2f}", f"{row.fastest:.2f}", f"{row.per_second:,.0f}")
        difference = "-" if row.difference is None else f"{row.difference:.1e}"
        table.add_row(row.name, str(row.batch), str(row.threads), *figures, difference)
    console.print(table)
    notes = dict.fromkeys(f"{row.name}: {row.note}" for row in rows if row.note)
    for line in [*notes, *verdicts(rows)]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
