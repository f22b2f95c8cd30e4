"""What gRDA costs beside SGD, for the page of the recipes: the ratios, losses among them, from the JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dirprune.core.wording import counted

_AIM = 1.03  # of the time of SGD's epoch
_NETWORKS = {"lenet5": "LeNet-5", "vgg16": "VGG16", "resnet50": "ResNet50"}
_BASE = "SGD"

_HEAD = """\
## Time and memory

The machine was shared while the runs above were trained, so their seconds are no benchmark. The ratios below
are of other runs, in which the optimisers take turns or, for memory, have a process each. The step alone is
in [step.json](../../../benchmarks/results/step.json) (`python benchmarks/step.py`).
"""


def section(results: Path) -> str:
    """Write the section from the folder of the benchmarks' results."""
    read = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("epoch", "epoch-epyc", "step_memory", "step_memory-epyc", "pipeline")
    }
    return "\n".join(
        [
            _HEAD,
            _epochs([read["epoch"], read["epoch-epyc"]]),
            _memory([read["step_memory"], read["step_memory-epyc"]]),
            _pipeline(read["pipeline"]),
        ]
    )


def _epochs(machines: list[dict[str, Any]]) -> str:
    """Time of an epoch over SGD's, a column for each machine, and where it is more than what we aim at."""
    cpus = [content["environment"]["cpu"] for content in machines]
    rows, over = [("time of an epoch, gRDA / SGD", *cpus)], []
    for name, network in machines[0]["networks"].items():
        title = _title(name)
        ratios = [content["networks"][name]["gRDA_over_SGD"] for content in machines]
        cells = [f"{ratio['epoch']:.3f} ({ratio['median_batch']:.3f})" for ratio in ratios]
        rows.append((f"{title}, {network['batches']} batches of {network['batch']}", *cells))
        over += [
            f"{title} on {cpu}, {100 * (ratio['epoch'] - 1):.1f} % longer than SGD"
            for cpu, ratio in zip(cpus, ratios, strict=True)
            if ratio["epoch"] > _AIM
        ]
    missed = f"Over it: {'; '.join(over)}." if over else "None is over it."
    return (
        f"{_table(rows)}\nIn brackets by the median batch; {_link('epoch')} and {_link('epoch-epyc')} "
        f"(`python benchmarks/epoch.py`). The aim is {100 * (_AIM - 1):.0f} % more time at most. {missed}\n"
    )


def _memory(machines: list[dict[str, Any]]) -> str:
    """Peak memory over SGD's, in buffers of the size of the parameters, a column for each machine."""
    first, above = machines[0], [_over_sgd(content["bytes"]) for content in machines]
    cpus = [content["environment"]["cpu"] for content in machines]
    title = f"{_title(first['network'])}, batch {first['batch']}: peak memory over SGD's, in buffers"
    rows = [(title, *cpus), *((name, *(f"{each[name]:.3f}" for each in above)) for name in above[0])]
    over = [
        f"gRDA on {cpu}, by {each['gRDA'] - 1:.3f}"
        for cpu, each in zip(cpus, above, strict=True)
        if each["gRDA"] > 1
    ]
    missed = f"Over it: {'; '.join(over)}." if over else "None is over it."
    return (
        f"{_table(rows)}\nA buffer has the size of the parameters, "
        f"{first['bytes'][_BASE]['parameters'] / 1e6:.0f} MB here; a peak differs by some hundredths of one "
        f"from time to time. {_link('step_memory')} and {_link('step_memory-epyc')} "
        f"(`python benchmarks/step_memory.py`). The aim is one buffer more at most. {missed}\n"
    )


def _over_sgd(taken: dict[str, Any]) -> dict[str, float]:
    """Peaks over SGD's, in buffers."""
    return {
        name: (each["peak"] - taken[_BASE]["peak"]) / each["parameters"]
        for name, each in taken.items()
        if name != _BASE
    }


def _pipeline(content: dict[str, Any]) -> str:
    """What the input pipeline gives beside what the step takes, and of which machine that is true."""
    environment, rows = content["environment"], content["pipeline"]
    given = "; ".join(
        f"{row['images_per_second']:.1f} with {counted(row['workers'], 'worker')}, "
        f"{row['times_the_step']:.0f} times the step"
        for row in rows
    )
    load, cores = content["load_average"][0], environment["cores"]
    step = f"{_title(content['model'])} (batch {content['batch_size']}, {environment['cpu']})"
    return (
        f"Images a second of the input pipeline alone, where a training step of {step} takes "
        f"{content['step_images_per_second']:.2f}: {given}. Others were at work on the machine, with a load "
        f"of {load:.2f} on {cores} cores, which slows both sides down. The ratio holds for this CPU's step; "
        f"of a GPU's it says nothing. {_link('pipeline')} (`python benchmarks/pipeline.py`).\n"
    )


def _title(name: str) -> str:
    network, _, rest = name.partition(" ")
    return f"{_NETWORKS[network]} {rest}".strip()


def _link(name: str) -> str:
    return f"[{name}.json](../../../benchmarks/results/{name}.json)"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *others = rows
    lines = [head, ("---",) * len(head), *others]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
