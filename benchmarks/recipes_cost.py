"""What gRDA costs beside SGD, for the page of the recipes: the ratios, losses among them, from the JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dirprune.core.wording import counted

_AIM = 1.03  # of the time of SGD's epoch
_NETWORKS = {"lenet5": "LeNet-5", "vgg16": "VGG16", "resnet50": "ResNet50"}
_BASE, _MOMENTUM = "SGD", "SGD with momentum"

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
        for name in ("epoch", "epoch-epyc", "step_memory", "pipeline")
    }
    return "\n".join(
        [
            _HEAD,
            _epochs([read["epoch"], read["epoch-epyc"]]),
            _memory(read["step_memory"]),
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


def _memory(content: dict[str, Any]) -> str:
    """Peak memory over SGD's, in buffers of the size of the parameters."""
    taken = content["bytes"]
    buffer = taken[_BASE]["parameters"]
    above = {
        name: (each["peak"] - taken[_BASE]["peak"]) / buffer for name, each in taken.items() if name != _BASE
    }
    head = (f"{_title(content['network'])}, batch {content['batch']}", "peak memory over SGD's, in buffers")
    more = above["gRDA"] - above[_MOMENTUM]
    compared = f"{abs(more):.3f} of one {'more' if more > 0 else 'less'} than SGD with momentum"
    over, of_half = above["gRDA"] - 1, above["gRDA, bfloat16 accumulator"] - 0.5
    missed = (
        f"gRDA is {over:.3f} ({over * buffer / 1e6:.1f} MB) over it, and {of_half:.3f} over half a buffer with "
        "the bfloat16 accumulator: what is over does not grow with the accumulator."
        if over > 0
        else "gRDA is not over it."
    )
    return (
        f"{_table([head, *((name, f'{ratio:.3f}') for name, ratio in above.items())])}\n"
        f"A buffer has the size of the parameters, {buffer / 1e6:.0f} MB here; gRDA takes {compared}. "
        f"The aim is one buffer at most. {missed} "
        f"{_link('step_memory')} (`python benchmarks/step_memory.py`).\n"
    )


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
