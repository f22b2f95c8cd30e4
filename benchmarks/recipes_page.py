"""The page of what was measured of the paper's experiments, made from the JSON files beside it.

A file of `first_steps.py` or `collect.py` in `src/dirprune/recipes/results` is a section; what has not been
measured is not on the page.

Example: python benchmarks/recipes_page.py
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import recipes_cost
import recipes_not_shown
from collect import Json, complete_config, markdown
from dirprune.core.atomic import atomic_write
from dirprune.recipes import get_recipe
from dirprune.report import wording
from dirprune.report.summary import plain, variant_labels
from dirprune.train import TrainConfig
from dirprune.train.config import OF_A_RUN
from record import FIRST_STEPS, RECIPE_RESULTS, RESULTS

PAGE = RECIPE_RESULTS.parent / "README.md"
PAPER = ("vgg16-cifar10", "wrn28x10-cifar10", "wrn28x10-cifar100", "resnet50-imagenet")

_HEAD = """\
# The paper's experiments, as far as they were measured

Made by `python benchmarks/recipes_page.py` from the JSON files in [results](results), which hold every
setting, epoch, version and date; a test holds this page to them. Figures are mean ± standard deviation over
seeds. Training loss and accuracy are of the finished network on the whole training set: evaluation mode, no
dropout, no augmentation. DATA stands for the folder with the data sets as parquet. What none of this shows
[stands at the end](#not-shown-here).
"""

_NOT_SHOWN = """\
## Not shown here

What was not run, or did not come so far, from the same files:
"""

_EPOCH_BY_EPOCH = """\
Epoch by epoch: mean training loss, in training mode, test accuracy in %, and in brackets the zeros in %.
"""


def page(results: Path) -> str:
    """Write the page from a folder of JSON files."""
    sections, unshown, run = [_HEAD], [], set()
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == FIRST_STEPS.name:
            sections += first_steps_sections(content)
            for runs in _experiments(content):
                unshown.append(f"- {_title(runs[0]['config'])}: {recipes_not_shown.of_first_steps(runs)}\n")
                run.add(runs[0]["config"]["recipe"])
        else:
            config = content["runs"][0]["config"]
            sections.append(section(path.name, content))
            unshown.append(f"- {_title(config)}: {recipes_not_shown.of_trainings(content)}\n")
            run.add(config["recipe"])
    missing = [recipe for recipe in PAPER if recipe not in run]
    unshown += [f"- {_title(asdict(get_recipe(recipe).config))}: not run.\n" for recipe in missing]
    return "\n".join([*sections, recipes_cost.section(RESULTS), _NOT_SHOWN, "".join(unshown)])


def section(name: str, content: Json) -> str:
    """Write the section of a file of `collect.py`."""
    runs = content["runs"]
    config = runs[0]["config"]
    epochs, of = config["epochs"], config["schedule_epochs"]
    length = f"{epochs} epochs" if of in (None, epochs) else f"the first {epochs} of {of} epochs"
    length = length.replace("first 1 of", "first of")
    parts = [
        f"## {_title(config)}, {length}\n",
        f"Recipe `{config['recipe']}`{_changes(config)}; [{name}](results/{name}).\n",
        markdown(content["summary"]),
        *(_pooled(name, runs) for name in content.get("pooled", ())),
    ]
    if of not in (None, epochs):
        parts += [_EPOCH_BY_EPOCH, _grid("epoch", range(1, epochs + 1), runs, _epoch)]
    return "\n".join([*parts, _circumstances(runs)])


def _pooled(setting: str, runs: Sequence[Json]) -> str:
    """Say which runs of a table have another value of a setting that does not tell its rows apart."""
    values: dict[str, list[str]] = {}
    for run in runs:
        values.setdefault(plain(complete_config(run)[setting]), []).append(run["name"])
    first, *others = values
    exceptions = [f"{setting}={value} of {', '.join(values[value])}" for value in others]
    return f"A row has its seeds whatever their {setting}: {'; '.join([*exceptions, f'else {first}'])}.\n"


def first_steps_sections(content: Json) -> Iterable[str]:
    """Write a section for each experiment of the file of `first_steps.py`."""
    for runs in _experiments(content):
        steps = sorted({step for run in runs for step in run["points"]["step"]})
        config = runs[0]["config"]
        yield "\n".join(
            [
                f"## {_title(config)}, the first {steps[-1]} steps\n",
                f"Recipe `{config['recipe']}`{_changes(config)}; mean training loss of the last "
                f"{content['interval']} steps, in training mode, and in brackets the zeros in %; "
                f"[{FIRST_STEPS.name}](results/{FIRST_STEPS.name}).\n",
                _grid("steps", steps, runs, _point),
                _circumstances(runs),
            ]
        )


def _experiments(content: Json) -> Iterable[list[Json]]:
    """Put the runs of `first_steps.py` together by their experiment."""
    experiments: dict[str, list[Json]] = {}
    for path, run in content["runs"].items():
        experiment, _, name = path.rpartition("/")
        experiments.setdefault(experiment, []).append({"name": name, **run})
    return experiments.values()


def _grid(what: str, rows: Iterable[int], runs: Sequence[Json], cell: Callable[[Json, int], str]) -> str:
    """Write a table with a row for each of some points in time and a column for each run, SGD's first."""
    runs = sorted(runs, key=lambda run: (run["config"]["method"] != "sgd", run["config"]["mu"]))
    labels = variant_labels([_without_seed(complete_config(run)) for run in runs])
    seeds = [run["config"]["seed"] for run in runs]
    if len(set(seeds)) > 1:
        labels = [f"{label}, seed {seed}" for label, seed in zip(labels, seeds, strict=True)]
    table = [(what, *labels), ("---",) * (len(runs) + 1)]
    table += [(str(row), *(cell(run, row) for run in runs)) for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _epoch(run: Json, epoch: int) -> str:
    curves = run["epochs"]
    if epoch not in curves.get("epoch", ()):
        return wording.NOTHING
    index = curves["epoch"].index(epoch)
    zeros, right = (wording.percent(curves[name][index]) for name in ("sparsity", "test_accuracy"))
    return f"{curves['train_loss'][index]:.2f}, {right} ({zeros})"


def _point(run: Json, step: int) -> str:
    points = run["points"]
    if step not in points["step"]:
        return wording.NOTHING
    index = points["step"].index(step)
    return f"{points['train_loss'][index]:.4f} ({wording.percent(points['sparsity'][index])})"


def _without_seed(config: Json) -> Json:
    return {key: value for key, value in config.items() if key not in ("seed", "data")}


def _title(config: Json) -> str:
    names = {"vgg16": "VGG16", "resnet50": "ResNet50"}
    names |= {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
    model = names.get(config["model"], config["model"].replace("wrn", "Wide ResNet ").replace("x", "-"))
    width = "" if config["width"] == 1 else f" at width {config['width']:g}"
    return f"{model}{width} on {names.get(config['dataset'], config['dataset'])}"


def _changes(config: Json) -> str:
    """Say what was changed in the recipe."""
    recipe = get_recipe(config["recipe"]).config
    held = TrainConfig.from_json(config)
    changed = [
        f"{field.name}={plain(getattr(held, field.name))}"
        for field in fields(TrainConfig)
        if field.name not in OF_A_RUN and getattr(held, field.name) != getattr(recipe, field.name)
    ]
    return f" with {', '.join(changed)}" if changed else ""


def _circumstances(runs: Sequence[Json]) -> str:
    """Say where and by which commands runs were made, which of them where, and what went wrong."""
    starts = [
        (run["name"], start)
        for run in runs
        for start in (run["environment"], *run["environment"].get("resumed", []))
    ]
    commands = dict.fromkeys(start["command"] for _, start in starts)
    lines = [f"- made with `{command}`" for command in commands]
    machines: dict[str, list[tuple[str, str]]] = {}
    for run, start in starts:
        machine = (
            f"{start['cpu']}, {start['cores']} cores, {_threads(start)} on the {start['device']}, torch "
            f"{start['versions']['torch']}, dirprune {start['versions']['dirprune']}"
        )
        machines.setdefault(machine, []).append((start["date"][:10], run))
    for machine, of_it in machines.items():
        first, last = min(of_it)[0], max(of_it)[0]
        whose = ", ".join(dict.fromkeys(run for _, run in of_it)) if len(machines) > 1 else ""
        lines.append(
            f"- on {machine}; {first if first == last else f'{first} to {last}'}{whose and f': {whose}'}"
        )
    troubles = [f"- {run['name']}: {message}" for run in runs for message in [_trouble(run)] if message]
    watched = all("warnings" in run for run in runs)  # first_steps.py ends before a run is looked over
    none = f"- no run diverged or failed{', and none warned' if watched else ''}"
    return "\n".join([*lines, *(troubles or [none]), ""])


def _threads(start: Json) -> str:
    return f"{start['threads']} thread{'' if start['threads'] == 1 else 's'}"


def _trouble(run: Json) -> str:
    """Say why a run came to no good end, or what it warned of on the way."""
    result, failure = run.get("result"), run.get("failure")
    if result and result["status"] == "diverged":
        return f"diverged, {result['message']}"
    if failure:
        return f"failed, {failure['message']}"
    warnings = run.get("warnings")
    if not warnings:
        return ""
    gravest = next((each for each in warnings if each["kind"] in wording.GRAVE), warnings[0])
    which = "first" if gravest is warnings[0] else "among others"
    often = "once," if len(warnings) == 1 else f"{len(warnings)} times, {which}"
    return f"warned {often} after epoch {gravest['epoch']}: {gravest['message']}"


def main() -> None:
    with atomic_write(PAGE) as file:
        file.write(page(RECIPE_RESULTS).encode())
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
