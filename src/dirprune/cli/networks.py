"""Networks from run folders, for the commands that use a finished one."""

from pathlib import Path
from typing import Any

from torch import nn

from dirprune.data.catalogue import find_spec
from dirprune.errors import RunFolderError
from dirprune.export import load_sparse
from dirprune.models import create_model
from dirprune.runs import RunFolder, find_runs


def one_run(folder: Path) -> RunFolder:
    """The one run that a folder is or holds, which must be finished.

    Raises:
        RunFolderError: There is none, there are several, or it has no network yet.
    """
    runs = find_runs(folder)
    if len(runs) > 1:
        names = ", ".join(run.path.name for run in runs)
        raise RunFolderError(f"{folder} holds {len(runs)} runs: name one of them, {names}")
    if not runs[0].sparse_file.is_file():
        raise RunFolderError(f"{runs[0].path} has no finished network: {runs[0].sparse_file.name} is missing")
    return runs[0]


def architecture(run: RunFolder) -> dict[str, Any]:
    """The arguments of `create_model` that build a run's network.

    Raises:
        RunFolderError: The configuration does not say which network it is.
    """
    config = run.config()
    try:
        spec = find_spec(config["dataset"])
        channels, size, _ = spec.image_shape
        return {
            "name": config["model"],
            "num_classes": spec.num_classes,
            "in_channels": channels,
            "image_size": config.get("image_size") or size,
            "width": config["width"],
        }
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{run.path}/config.json does not say which network it is: {error}") from error


def load_network(run: RunFolder) -> tuple[nn.Module, tuple[int, int, int]]:
    """A run's network in evaluation mode, and the shape of the images that it takes.

    Raises:
        RunFolderError: The configuration does not say which network it is.
        SparseFileError: The network's file is damaged or does not fit.
    """
    arguments = architecture(run)
    try:
        model = create_model(**arguments)
    except TypeError as error:
        raise RunFolderError(f"{run.path}/config.json does not say which network it is: {error}") from error
    load_sparse(run.sparse_file, model)
    return model.eval(), (arguments["in_channels"], arguments["image_size"], arguments["image_size"])
