"""Networks from run folders, for the commands that use a finished one."""

import inspect
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
    (run,) = runs
    if not run.sparse_file.is_file():
        advice = "start its training again"
        if run.over() is not None:
            advice = f"delete that folder and {advice}"
        raise RunFolderError(f"{run.path} has no finished network, {run.sparse_file.name}: {advice}")
    return run


def architecture(run: RunFolder) -> dict[str, Any]:
    """The arguments of `create_model` that build a run's network.

    Raises:
        RunFolderError: The folder does not say which network it is.
        UsageError: One of its settings is out of range.
    """
    if (noted := run.network()) is not None:
        if set(noted) != set(inspect.signature(create_model).parameters):
            raise RunFolderError(f"{run.path}/network.json does not hold the arguments of create_model")
        return noted
    from dirprune.train import TrainConfig, shape_of  # takes a second, which `inspect` need not wait for
    from dirprune.train.build import model_arguments

    try:  # a run of before network.json: its data set was one of the catalogue's
        config = TrainConfig.from_json(run.config())
        spec = find_spec(config.dataset)
        return model_arguments(config, shape_of(config, spec), spec.num_classes)
    except TypeError as error:
        raise RunFolderError(f"{run.path}/config.json does not say which network it is: {error}") from error


def load_network(run: RunFolder) -> tuple[nn.Module, tuple[int, int, int]]:
    """A run's network in evaluation mode, and the shape of the images that it takes.

    Raises:
        RunFolderError: The folder does not say which network it is.
        UsageError: One of its settings is out of range.
        SparseFileError: The network's file is damaged or does not fit.
    """
    arguments = architecture(run)
    try:
        model = create_model(**arguments)
    except TypeError as error:
        raise RunFolderError(f"{run.path} does not say which network it is: {error}") from error
    load_sparse(run.sparse_file, model)
    return model.eval(), (arguments["in_channels"], arguments["image_size"], arguments["image_size"])
