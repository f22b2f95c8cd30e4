"""Sparse networks on the Hugging Face hub: the sparse file, config.json, and a page about them."""

import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dirprune.errors import UsageError, first_line, from_extra

with from_extra("hub", "a network for the hub"):
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dirprune import __version__
from dirprune.core.atomic import atomic_write
from dirprune.core.names import SPARSE_FILE
from dirprune.core.sparsity import sparsity_report
from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse
from dirprune.integrations.model_card import Provenance, model_card
from dirprune.models import create_model

__all__ = ["Provenance", "from_pretrained", "push_to_hub", "save_pretrained"]

CONFIG_FILE = "config.json"
_LIBRARY = "dirprune"
_GREATEST = 2**20  # of the numbers in a stranger's config.json


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    architecture: Mapping[str, Any] | None = None,
    provenance: Provenance = Provenance(),  # noqa: B008 - frozen
    name: str | None = None,
    **file_options: Any,
) -> SparseFileInfo:
    """Write a network as the folder of a repository: sparse file, config.json, README.md.

    Args:
        model: The network.
        folder: Where to; what these three files held before is replaced if they are such a repository's.
        architecture: Arguments of :func:`dirprune.models.create_model` by their names, with which it is
            built again; None for a module of your own, which who loads it has to bring.
        provenance: Accuracy, data set and recipe for the page; :meth:`Provenance.of_run` reads them from a
            run folder.
        name: Of the repository, on the page; None: the folder's name.
        file_options: ``values`` and ``compress`` of :func:`dirprune.save_sparse`.

    Returns:
        What :func:`dirprune.save_sparse` says of the file.

    Raises:
        UsageError: The architecture is not that of the model, or the folder holds a config.json or README.md
            of something else.
        OSError: A file cannot be written.

    Example:
        >>> arguments = {"name": "lenet-300-100", "num_classes": 10, "in_channels": 1, "image_size": 8}
        >>> model = create_model(**arguments)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = save_pretrained(model, folder, architecture=arguments)
        ...     again = from_pretrained(folder)
        ...     sorted(os.listdir(folder))
        ['README.md', 'config.json', 'model.sparse.safetensors']
        >>> torch.equal(again.fc1.weight, model.fc1.weight)
        True
    """
    target = Path(folder)
    if architecture is not None:
        architecture = _checked(architecture, "architecture")
        _check_shapes(model.state_dict(), architecture, "the model")
    _check_free(target)
    target.mkdir(parents=True, exist_ok=True)
    info = save_sparse(model, target / SPARSE_FILE, **file_options)
    config = {"library_name": _LIBRARY, "dirprune_version": __version__, "architecture": architecture}
    card = model_card(
        name or target.resolve().name,
        info,
        sparsity_report(model),
        architecture,
        provenance,
        values=file_options.get("values", "same"),
    )
    for file_name, text in ((CONFIG_FILE, json.dumps(config, indent=2) + "\n"), ("README.md", str(card))):
        with atomic_write(target / file_name) as file:
            file.write(text.encode())
    return info


def from_pretrained(
    source: str | os.PathLike[str], model: nn.Module | None = None, **download_options: Any
) -> nn.Module:
    """Load a network of :func:`save_pretrained` or :func:`push_to_hub`.

    It may be a stranger's: config.json only names a known architecture and its numbers, no code is run, and
    the network is built only if its shapes are those of the sparse file, which is checked as
    :func:`dirprune.load_sparse` checks it.

    Args:
        source: A folder, or else the name of a repository on the hub, such as ``"owner/name"``.
        model: A module of the saved architecture, to load into; needed where config.json names none.
        download_options: Of ``huggingface_hub.snapshot_download``: ``revision``, ``token``, ``cache_dir`` ...

    Returns:
        The network with the saved weights, on the CPU unless `model` is elsewhere, in evaluation mode.

    Raises:
        UsageError: There is nothing to load, it is damaged, or it is another architecture.
    """
    folder = Path(source) if Path(source).is_dir() else _download(str(source), download_options)
    path = folder / SPARSE_FILE
    if model is not None:
        load_sparse(path, model)
        return model.eval()
    architecture = _read_architecture(folder / CONFIG_FILE)
    if architecture is None:
        raise UsageError(f"{source} is of its author's own architecture: pass a module of it, model=...")
    state = load_sparse(path)
    _check_shapes(state, architecture, str(path))
    model = create_model(**architecture)
    model.load_state_dict(state)
    return model.eval()


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload sparse network",
    **save_options: Any,
) -> str:
    """Publish a network as a repository of the hub.

    Args:
        model: The network.
        repo_id: ``"owner/name"``; made if there is none.
        private: Whether a new repository is private; None: as the owner's settings say.
        token: To write with; None: that of ``hf auth login``.
        revision: Branch; None: main.
        commit_message: What the history says.
        save_options: Of :func:`save_pretrained`: ``architecture``, ``provenance``, ``values``, ``compress``.

    Returns:
        The address of the commit.

    Raises:
        UsageError: As in :func:`save_pretrained`.
        huggingface_hub.errors.HfHubHTTPError: The hub refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, name=repo_id, **save_options)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
        )
        return str(commit.commit_url)


def _download(repo_id: str, options: Mapping[str, Any]) -> Path:
    """Fetch the files that are read, and no others."""
    try:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG_FILE, SPARSE_FILE], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UsageError(
            f"{repo_id!r} is no folder, and no repository that can be read: {first_line(error)}"
        ) from error


def _check_free(folder: Path) -> None:
    """Refuse a folder whose files of the same names are not a repository of ours."""
    config, page = folder / CONFIG_FILE, folder / "README.md"
    if config.exists():
        with suppress(ValueError, AttributeError, OSError):
            if json.loads(config.read_text(encoding="utf-8")).get("library_name") == _LIBRARY:
                return
    for path in (config, page):
        if path.exists():
            raise UsageError(f"{folder} has a {path.name} that is not of such a network: name another folder")


def _read_architecture(path: Path) -> dict[str, Any] | None:
    """Read what config.json, perhaps a stranger's, says about the network."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: it was not written by save_pretrained") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON that can be read ({error})") from None
    if not isinstance(config, dict) or "architecture" not in config:
        raise UsageError(f"{path} has no architecture: it was not written by save_pretrained")
    return None if config["architecture"] is None else _checked(config["architecture"], str(path))


def _checked(architecture: Any, where: str) -> dict[str, Any]:
    """Return the arguments of a network, all of them, if they are such."""
    parameters = inspect.signature(create_model).parameters
    given = set(architecture) if isinstance(architecture, Mapping) else set()
    if not {"name", "num_classes"} <= given <= set(parameters):
        raise UsageError(f"{where}: expected {', '.join(parameters)}, got {architecture!r:.100}")
    full = {key: parameter.default for key, parameter in parameters.items()} | dict(architecture)
    for key, value in full.items():
        kinds = {"name": (str,), "width": (int, float)}.get(key, (int,))
        if type(value) not in kinds or (key != "name" and not 0 < value <= _GREATEST):
            expected = "a text" if key == "name" else f"a number up to {_GREATEST}"
            raise UsageError(f"{where}: {key} must be {expected}, got {value!r:.100}")
    return full


def _check_shapes(state: Mapping[str, Tensor], architecture: Mapping[str, Any], what: str) -> None:
    """Refuse an architecture that has not the names and shapes of a state, without taking memory for it."""
    try:
        with torch.device("meta"):
            expected = create_model(**architecture).state_dict()
    except RuntimeError as error:
        raise UsageError(f"{architecture} cannot be built: {error}") from error
    if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in expected.items()}:
        raise UsageError(f"{what} has other parameters than {architecture}")
