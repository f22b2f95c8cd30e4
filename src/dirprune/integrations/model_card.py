"""The page of a published sparse network: what it is, how good, how sparse, how small, how to load it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirprune.core.sparsity import SparsityReport
from dirprune.core.wording import percent, size
from dirprune.errors import RunFolderError, UsageError, from_extra
from dirprune.export.packing import Values
from dirprune.export.sparse_file import SparseFileInfo

with from_extra("hub", "the page of a network"):
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

_PAPER = "[Directional Pruning of Deep Neural Networks](https://arxiv.org/abs/2006.09358)"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the weights themselves do not say; whatever is None is left out of the page.

    Args:
        dataset: What it was trained on.
        recipe: How, in words: method, learning rate, length.
        accuracy: Fraction of right answers, in [0, 1].
        measured_on: The data that the accuracy was measured on.
        license: An identifier of the hub, such as ``"mit"``.

    Raises:
        UsageError: The accuracy is no fraction.

    Example:
        >>> Provenance(dataset="digits", recipe="gRDA c=0.01 mu=0.6, 200 epochs", accuracy=0.969).measured_on
        'test'
    """

    dataset: str | None = None
    recipe: str | None = None
    accuracy: float | None = None
    measured_on: str = "test"
    license: str | None = None

    def __post_init__(self) -> None:
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise UsageError(f"accuracy must be a fraction in [0, 1], got {self.accuracy}")

    @classmethod
    def of_run(cls, folder: str | os.PathLike[str], *, license: str | None = None) -> "Provenance":
        """Read it from the folder of a finished run of ``dirprune train``.

        Args:
            folder: Of one run.
            license: The run does not know it.

        Raises:
            RunFolderError: It is not one run that has finished.
        """
        from dirprune.report import summarise

        summaries = summarise(Path(folder))
        runs = [run for summary in summaries for run in summary.runs]
        if len(runs) != 1 or runs[0].outcome is None:
            raise RunFolderError(f"{folder} is not one finished run: name the folder of one")
        config = runs[0].config
        settings = [
            summaries[0].label,
            *(f"{key.replace('_', ' ')} {config[key]}" for key in _SETTINGS if config.get(key)),
        ]
        return cls(
            dataset=config["dataset"],
            recipe=f"{config['recipe']} of dirprune: {', '.join(settings)}",
            accuracy=runs[0].outcome.test_accuracy,
            measured_on=summaries[0].measured_on,
            license=license,
        )


_SETTINGS = ("lr", "schedule", "momentum", "beta2", "weight_decay", "batch_size", "epochs", "validation")


def model_card(
    name: str,
    info: SparseFileInfo,
    sparsity: SparsityReport,
    architecture: Mapping[str, Any] | None,
    provenance: Provenance,
    *,
    values: Values = "same",
) -> ModelCard:
    """Write the page.

    Args:
        name: Of the repository or folder, as it is loaded by.
        info: Of the sparse file.
        sparsity: Of the network.
        architecture: Arguments of :func:`dirprune.models.create_model`; None for a module of the user's own.
        provenance: What else is known.
        values: How :func:`dirprune.save_sparse` stored the weights.

    Returns:
        A card with metadata for the hub; ``str()`` gives its text.
    """
    known = provenance
    accuracy = None if known.accuracy is None else f"{percent(known.accuracy)} %"
    rounded = f"rounded to {values}" + (" after the accuracy was measured" if accuracy else "")
    rows = [
        ("sparsity", f"{percent(sparsity.sparsity)} % of {sparsity.numel:,} trainable parameters are zero"),
        (f"{known.measured_on} accuracy", accuracy),
        ("weights", None if values == "same" else rounded),
        ("data set", known.dataset),
        ("recipe", known.recipe),
        ("size, dense", size(info.dense_bytes)),
        ("size, sparse", f"{size(info.bytes)}: a zero takes a bit or less"),
    ]
    what = f"`{architecture['name']}`" if architecture else "A network"
    network = architecture["name"] if architecture else ""
    of_torchvision = network == "resnet50" or network.startswith("vit")
    builder = "timm" if network.startswith("timm/") else "train" if of_torchvision else None
    extras = f"hub,{builder}" if builder else "hub"
    source = json.dumps(name, ensure_ascii=False)
    loading = f"model = from_pretrained({source})"
    if architecture is None:
        loading = f"model = from_pretrained({source}, model)  # a module of the same architecture"
    text = "\n".join(
        [
            f"# {name.rsplit('/', 1)[-1]}",
            "",
            f"{what} with sparse weights, as a small file of dirprune ({_PAPER}).",
            "",
            "| | |",
            "|---|---|",
            *(f"| {_cell(label)} | {_cell(value)} |" for label, value in rows if value is not None),
            "",
            "## Load it",
            "",
            f"    pip install 'directional-pruning[{extras}]'",
            "",
            "```python",
            "from dirprune.integrations.hub import from_pretrained",
            "",
            loading,
            "```",
            "",
            "The weights come back dense, zeros included; the file is parsed without running code.",
            "",
        ]
    )
    return ModelCard(f"---\n{_metadata(name, architecture, known).to_yaml()}\n---\n\n{text}")


def _cell(text: str) -> str:
    """Keep a text within its cell of the table."""
    return " ".join(text.split()).replace("|", "\\|")


def _metadata(name: str, architecture: Mapping[str, Any] | None, known: Provenance) -> ModelCardData:
    """What the hub reads: library, license, tags, and the accuracy where data set and task are known."""
    results = None
    if architecture and known.dataset and known.accuracy is not None:
        result = EvalResult(
            task_type="image-classification",
            dataset_type=known.dataset,
            dataset_name=known.dataset,
            dataset_split=known.measured_on,
            metric_type="accuracy",
            metric_value=known.accuracy,
        )
        results = [result]
    return ModelCardData(
        library_name="dirprune",
        tags=["pruning", "sparsity", "directional-pruning"],
        license=known.license,
        pipeline_tag="image-classification" if architecture else None,
        model_name=name.rsplit("/", 1)[-1],
        eval_results=results,
    )
