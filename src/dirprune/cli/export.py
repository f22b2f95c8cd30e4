"""`dirprune export RUN --to KIND`: the finished network as a file for where it runs."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dirprune.cli.arguments import in_a_folder, parse
from dirprune.cli.networks import architecture, load_network, one_run
from dirprune.errors import UsageError
from dirprune.export import SlimResult, export_onnx, load_slim, load_sparse, save_dense, save_sparse, slim
from dirprune.export.packing import Values
from dirprune.export.sizes import dense_sizes
from dirprune.export.sparse_runtime import dense_outputs

_IMAGES = 4
_ON = f"on {_IMAGES} random images"
_NAMES = {
    "sparse": "export-sparse",
    "slim": "export-slim",
    "dense": "export-dense",
    "onnx": "export",
    "hub": "export-hub",
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the network of a finished run as another file, and say what that saves."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of one run."""
    to: Literal["sparse", "onnx", "slim", "dense", "hub"]
    """sparse: our file; slim: without superfluous channels, in our file; onnx; dense: plain safetensors;
    hub: the folder of a repository on the Hugging Face hub, with a page about the network."""
    out: Path | None = None
    """The file (hub: the folder) to write; default: a new name in the run's folder."""
    values: Values = "same"
    """sparse, slim, hub: round weights to two bytes."""
    compress: bool = False
    """sparse, slim, hub: Zstandard."""
    dense_weights: bool = False
    """onnx: store zeros too, for programs that do not read sparse initialisers."""

    def __post_init__(self) -> None:
        if self.to in ("onnx", "dense") and (self.values != "same" or self.compress):
            raise UsageError(f"--values and --compress are for sparse, slim and hub, not for {self.to}")
        if self.to != "onnx" and self.dense_weights:
            raise UsageError(f"--dense-weights is for onnx, not for {self.to}")
        if self.to != "hub":
            in_a_folder(out=self.out)


def export(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(ExportOptions, arguments, prog="dirprune export")
    console = Console()
    run = one_run(options.run)
    model, shape = load_network(run)
    suffix = {"onnx": ".onnx", "hub": ""}.get(options.to, ".safetensors")
    path = options.out or run.path / f"{_NAMES[options.to]}{suffix}"
    sizes = dense_sizes(model)
    images = torch.randn(_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    notes: list[str] = []
    if options.to == "onnx":
        info = export_onnx(model, path, shape, sparse=not options.dense_weights, example=images)
        size = info.bytes
        notes.append(f"onnxruntime's outputs differ by {info.difference:.1e} {_ON}")
        if info.sparse_weights:
            notes.append(f"{info.sparse_weights} weights are stored without zeros; they run as dense ones")
    elif options.to == "dense":
        size = save_dense(model, path).bytes
    elif options.to == "hub":
        from dirprune.integrations.hub import Provenance, save_pretrained

        written = save_pretrained(
            model,
            path,
            architecture=architecture(run),
            provenance=Provenance.of_run(run.path),
            values=options.values,
            compress=options.compress,
        )
        size = written.bytes
        notes.append(_difference(written.path, model, images))
        notes.append(f"publish it: hf upload OWNER/NAME {path}")
    else:
        smaller = slim(model, shape, example=images) if options.to == "slim" else None
        stored = smaller.model if smaller else model
        size = save_sparse(stored, path, values=options.values, compress=options.compress).bytes
        notes += _slim_notes(smaller) if smaller else []
        notes.append(_difference(path, model, images))
        if smaller:
            notes.append("load it: dirprune.export.load_slim(load_sparse(this file), the network as it was)")
    _print(console, sizes, f"this file ({options.to})", size)
    for note in [*notes, f"written: {path}"]:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    return 0


def _print(console: Console, sizes: dict[str, int], name: str, size: int) -> None:
    table = Table("file", "bytes", "of dense")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, number in [*sizes.items(), (name, size)]:
        table.add_row(kind, f"{number:,}", f"{100 * number / sizes['dense']:.2f} %")
    console.print(table)


def _difference(path: Path, model: nn.Module, images: Tensor) -> str:
    """What the file that was written, read again, computes otherwise than the network of the run."""
    again = copy.deepcopy(model)
    load_slim(load_sparse(path), again)
    difference = float((dense_outputs(again, images) - dense_outputs(model, images)).abs().max())
    return f"outputs of this file differ by {difference:.1e} {_ON}"


def _slim_notes(result: SlimResult) -> list[str]:
    before, after = result.before, result.after
    nothing = ["no channel is superfluous: slim has nothing to remove"]
    return [
        *(nothing if after.channels == before.channels else []),
        f"channels {before.channels:,} -> {after.channels:,}, parameters {before.parameters:,} -> "
        f"{after.parameters:,}, multiplications {before.multiplications:,} -> {after.multiplications:,}",
        f"one image takes {before.milliseconds:.2f} -> {after.milliseconds:.2f} ms here and now",
    ]
