"""What the page of the recipes does not show, from the JSON files that it is made from."""

from collections.abc import Sequence
from typing import Any

from dirprune.core.wording import counted
from dirprune.report.wording import CLOSE, percent

Json = dict[str, Any]

_HIGH = 0.9  # of the weights are zero: what the paper's networks reach
_LEARNT = 0.999  # of the training images
_FAR_FROM_LEARNT = 0.99


def of_trainings(content: Json) -> str:
    """Say what a file of `collect.py` leaves open: epochs, seeds, how much was learnt, how many zeros."""
    config = content["runs"][0]["config"]
    epochs, of = config["epochs"], config["schedule_epochs"]
    parts = [f"what follows the first {epochs} of {of} epochs"] if of not in (None, epochs) else []
    seeds = [len(variant["finished"]) for variant in content["summary"]]
    most, alone = max(seeds, default=0), seeds.count(1)
    single = f" ({alone} of {len(seeds)} settings have 1)" if most > 1 and alone else ""
    sentences = ["; ".join([*parts, f"more than {counted(most, 'seed')} of a setting{single}"])]
    if not parts:
        sentences += [*_learnt(content), *_high(content)]
    return ". ".join(sentences) + "."


def of_first_steps(runs: Sequence[Json]) -> str:
    """Say what the runs of `first_steps.py` of one experiment leave open."""
    steps = max(step for run in runs for step in run["points"]["step"])
    seeds = {run["config"]["seed"] for run in runs}
    parts = [f"what follows the first {steps} steps", f"more than {counted(len(seeds), 'seed')}"]
    if not any(run["config"]["method"] == "sgd" for run in runs):
        parts.append("SGD beside gRDA")
    return "; ".join(parts) + "."


def _learnt(content: Json) -> list[str]:
    """How many runs have learnt nearly all of their training images, and which of gRDA's are far from it."""
    right = {name: known["accuracy"] for name, known in content.get("training_set", {}).items()}
    if not right:
        return []
    learnt = sum(each > _LEARNT for each in right.values())
    sentences = [
        f"{learnt} of {counted(len(content['runs']), 'run')} {'has' if learnt == 1 else 'have'} more than "
        f"{100 * _LEARNT:g} % of the training images right"
    ]
    far = sorted(
        (run["result"]["sparsity"], right[run["name"]])
        for run in content["runs"]
        if run["config"]["method"] == "grda" and right.get(run["name"], 1) < _FAR_FROM_LEARNT
    )
    if far:
        found = ", ".join(f"{percent(own)} % at {percent(zeros)} % zeros" for zeros, own in far)
        sentences.append(f"gRDA with less than {100 * _FAR_FROM_LEARNT:g} % of them right: {found}")
    return sentences


def _high(content: Json) -> list[str]:
    """Whether a network with many zeros is about as accurate as SGD's; if not, what was not tried."""
    kept = [
        variant["sparsity"]["mean"]
        for variant in content["summary"]
        if (gap := variant.get("difference_to_sgd")) and gap["mean"] >= -CLOSE
    ]
    zeros = sorted(
        run["result"]["sparsity"] for run in content["runs"] if "sparsity" in (run["result"] or ())
    )
    below, above = [z for z in zeros if z < _HIGH], [z for z in zeros if z >= _HIGH]
    if not kept or max(kept) >= _HIGH:
        return []
    sentence = (
        f"No network with {100 * _HIGH:g} % zeros or more is within a point of SGD's test accuracy: the "
        f"sparsest that is has {percent(max(kept))} %"
    )
    if below and above:
        sentence += f", and nothing was run between {percent(below[-1])} and {percent(above[0])} %"
    return [sentence]
