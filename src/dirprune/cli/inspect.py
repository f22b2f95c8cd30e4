"""`dirprune inspect FILE|RUN`: what is in a sparse file, or in a plain one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dirprune.cli.arguments import parse
from dirprune.cli.networks import one_run
from dirprune.core.wording import plain
from dirprune.errors import NotSafetensorsError, PlainFileError
from dirprune.export.sparse_file import StoredTensor, describe_dense, describe_sparse


@dataclass(frozen=True)
class InspectOptions:
    """Print layers, shapes, sparsity and bytes of a sparse file, or of a plain safetensors file."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|RUN")]
    """A sparse file, a file of `--to dense`, or the folder of a finished run."""


def inspect(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(InspectOptions, arguments, prog="dirprune inspect")
    console = Console()
    path = options.path
    if path.is_dir():
        run = one_run(path)
        config, path = run.config(), run.sparse_file
        model, data, method = (plain(config.get(key)) for key in ("model", "dataset", "method"))
        line = f"{model} on {data}, trained by {method}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    try:
        tensors = describe_sparse(path)
    except PlainFileError:
        tensors = describe_dense(path)
    except NotSafetensorsError as error:
        kinds = "sparse files, plain safetensors files (export --to dense), folders of finished runs"
        raise NotSafetensorsError(f"{error}; inspect reads {kinds}") from error
    table = Table("tensor", "shape", "dtype", "stored as", "zeros", "sparsity", "bytes", "of dense")
    for column in table.columns[4:]:
        column.justify = "right"
    for tensor in tensors:
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        dtype = str(tensor.dtype).removeprefix("torch.")
        name, encoding = (escape(plain(text)) for text in (tensor.name, tensor.encoding))
        table.add_row(name, shape, dtype, encoding, *_figures([tensor]))
    table.add_section()
    table.add_row("total", "", "", "", *_figures([t for t in tensors if not t.encoding.startswith("= ")]))
    # names stay whole: where the terminal is narrower, its own line breaks are clearer than cut names
    whole = Console(width=10_000).measure(table).maximum
    Console(width=max(whole, console.width)).print(table)
    size = f"{path}: {path.stat().st_size:,} bytes with names and shapes"
    console.print(size, soft_wrap=True, highlight=False, markup=False)
    return 0


def _figures(tensors: list[StoredTensor]) -> tuple[str, str, str, str]:
    """Zeros, sparsity, bytes, and bytes of dense ones."""
    zeros, size = sum(tensor.zeros for tensor in tensors), sum(tensor.bytes for tensor in tensors)
    count = sum(tensor.numel for tensor in tensors)
    dense = sum(tensor.numel * tensor.dtype.itemsize for tensor in tensors)
    share = f"{100 * zeros / count:.2f} %" if count else "-"
    return f"{zeros:,}", share, f"{size:,}", f"{100 * size / dense:.2f} %" if dense else "-"
