"""What the site holds beside its pages: equations as MathML, and what the package and the results say."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dirprune.cli import COMMANDS, main
from dirprune.cli.bench import BENCHMARKS
from dirprune.cli.compare import CompareOptions, prunable_part
from dirprune.cli.landscape import TOPICS
from dirprune.compare import Protocol
from dirprune.export.contenders import CONTENDERS, DENSE
from dirprune.methods import METHODS
from dirprune.recipes import get_recipe
from dirprune.report.statistics import paired_difference

_ROOT = Path(__file__).parents[1]
RESULTS = sorted(_ROOT.glob("benchmarks/results/*.json"))
_PARTS = {"bench": list(BENCHMARKS), "landscape": list(TOPICS)}
_WITH_RECIPE = ("train", "tune", "compare", "bench train")
_WIDTH = "88"  # of the help, in characters


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let fences and inline code of the language `math` be equations."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": _block}]
    }
    config.mdx_configs["pymdownx.inlinehilite"] = {
        "custom_inline": [{"name": "math", "class": "math", "format": _inline}]
    }
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the measured results beside the pages, as they are."""
    for path in RESULTS:
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in what a page asks for by a comment."""
    for name, make in _GENERATED.get(page.file.src_uri, {}).items():
        if f"<!-- {name} -->" not in markdown:
            raise PluginError(f"{page.file.src_uri} has no place for its {name}: <!-- {name} -->")
        markdown = markdown.replace(f"<!-- {name} -->", make())
    return markdown


# -- equations -----------------------------------------------------------------------------------------


def _block(source: str, *_: Any, **__: Any) -> str:
    return f'<div class="equation">{_mathml(source, as_block=True)}</div>'


def _inline(source: str, *_: Any, **__: Any) -> str:
    return _mathml(source, as_block=False)


def _mathml(source: str, *, as_block: bool) -> str:
    return re.sub(r">\s+<", "><", str(tex2mathml(" ".join(source.split()), as_block=as_block)))


# -- commands ------------------------------------------------------------------------------------------


def _help() -> str:
    """The help of every command, folded."""
    parts = []
    for command in COMMANDS:
        for part in _PARTS.get(command, [""]):
            words = f"{command} {part}".split()
            if " ".join(words) in _WITH_RECIPE:
                words.append("digits")
            text = "".join(f"    {line}\n" for line in _said([*words, "--help"]).splitlines())
            parts.append(f'??? note "dirprune {" ".join(words)}"\n\n    ```text\n{text}    ```\n')
    return "\n".join(parts)


def _said(words: list[str]) -> str:
    """What the command prints, without the lines around its sections."""
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main(words)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    text = re.sub(r" +$", "", said.getvalue(), flags=re.MULTILINE)
    text = re.sub(r"^ (\S.*)\n -{9,}$", r"\n\1:", text, flags=re.MULTILINE)
    return re.sub(r"^ +-{9,}\n", "", text, flags=re.MULTILINE)


# -- results -------------------------------------------------------------------------------------------


def _results() -> str:
    """An entry for each file of results: the commands that made it, and when."""
    entries = []
    for path in RESULTS:
        origins = list(_origins(json.loads(path.read_text())))
        days = sorted({date[:10] for _, date in origins})
        made = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        commands = "".join(f"  \n    `{command}`" for command in dict.fromkeys(c for c, _ in origins))
        entries.append(f"- [{path.stem}](results/{path.name}), {made}{commands}")
    return "\n".join(entries)


def _origins(content: Any) -> Iterator[tuple[str, str]]:
    """Find (command, date) wherever a result has them, from the outside in."""
    if isinstance(content, dict):
        if {"command", "date"} <= set(content):
            yield content["command"], content["date"]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _origins(part)


# -- evidence ------------------------------------------------------------------------------------------


def _measured(name: str) -> Any:
    """Read a file of results."""
    return json.loads((_ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _theorem() -> str:
    """A row for each experiment, the greatest and the least learning rate, a short time and a long one."""
    heads = ("experiment", "gamma", "t", "overlap of zeros", "overlap, soft", "signs")
    lines = [f"| {' | '.join(heads)} | distance | distance, soft | correlation |", "|---" * 9 + "|"]
    columns = ("overlap", "overlap_plain", "signs", "distance", "distance_plain", "correlation")
    for name, found in _measured("theorem").items():
        rates = [row["rate"] for row in found["rows"]]
        for rate in (max(rates), min(rates)):
            for row in (row for row in found["rows"] if row["rate"] == rate and row["time"] in (30, 300)):
                cells = " | ".join(f"{row[column]:.2f}" for column in columns)
                lines.append(f"| {name.replace('-', ' ')} | {rate:g} | {row['time']:g} | {cells} |")
    return "\n".join(lines)


def _theorem_whole() -> str:
    """The whole table of each experiment, folded."""
    text = (_ROOT / "benchmarks" / "results" / "theorem.md").read_text(encoding="utf-8")
    parts = []
    for name, table in re.findall(r"^\*\*(\S+)\*\*\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        rows = "".join(f"    {line}\n" for line in table.splitlines())
        parts.append(f'??? note "{name.replace("-", " ")}"\n\n{rows}')
    return "\n".join(parts)


def _cost() -> str:
    """A row for each size: what its eigenpairs cost."""
    content = _measured("hessian_cost")
    lines = [
        "| weights | images | products | seconds of one core | a product | peak, MiB | before, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in content["rows"]:
        counts = f"{size['weights']:,} | {size['images']:,} | {size['products']}"
        seconds = f"{size['cpu_seconds']:.0f} | {size['cpu_seconds_per_product']:.2f}"
        lines.append(f"| {counts} | {seconds} | {size['peak_mib']:,.0f} | {size['peak_mib_before']:,.0f} |")
    return "\n".join(lines)


def _pairs() -> str:
    """The tables of every pair that was measured."""
    tables = []
    for path in sorted((_ROOT / "benchmarks" / "results").glob("evidence-*.md")):
        tables.append(f"### {path.stem.removeprefix('evidence-')}\n\n{path.read_text(encoding='utf-8')}")
    return "\n".join(tables)


# -- more accuracy -------------------------------------------------------------------------------------


def _frontier() -> str:
    """A row for each variant: accuracy at the wanted sparsities, and the difference to the hard threshold."""
    content = _measured("frontier")
    targets = list(content["variants"][0]["accuracy"])
    heads = " | ".join(f"{100 * float(target):g} %" for target in targets)
    lines = [f"| change | {heads} |", "|---" * (len(targets) + 1) + "|"]
    (hard,) = [variant for variant in content["variants"] if variant["name"] == "hard"]
    for variant in content["variants"]:
        at = [(variant["accuracy"][target]["seeds"], hard["accuracy"][target]["seeds"]) for target in targets]
        cells = [_beside(*both) for both in at]
        lines.append(f"| {variant['change']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(accuracies: list[float | None], reference: list[float | None]) -> str:
    """Mean of what is known, and the difference to a reference, paired by seed, with its 95 % interval."""
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if not known:
        return "not reached"
    mean = f"{100 * sum(known) / len(known):.2f}"
    both = [(a, b) for a, b in zip(accuracies, reference, strict=True) if a is not None and b is not None]
    if accuracies is reference or len(both) < 2:
        return mean
    gap = paired_difference(*(list(side) for side in zip(*both, strict=True)))
    return f"{mean}, {100 * gap.mean:+.2f} ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})"


def _judged(part: str) -> str:
    """A row for each method of a comparison, on the test set."""
    rows = _measured(f"compare-{part}")["rows"]
    targets = sorted({row["target"] for row in rows if row["target"] is not None})
    heads = " | ".join(f"{100 * target:g} %" for target in targets)
    lines = [f"| method | {heads} |", "|---" * (len(targets) + 1) + "|"]
    for title in dict.fromkeys(row["title"] for row in rows if row["target"] is not None):
        at = {row["target"]: row for row in rows if row["title"] == title}
        lines.append(f"| {title} | {' | '.join(_with_interval(at[target]) for target in targets)} |")
    (dense,) = [row for row in rows if row["target"] is None]
    return "\n".join([*lines, "", f"{dense['title']}: {_with_interval(dense)}."])


def _with_interval(row: dict[str, Any]) -> str:
    """Mean accuracy with half of its 95 % interval, and the sparsity that was reached."""
    accuracy = row["accuracy"]
    half = (accuracy["high"] - accuracy["low"]) / 2
    return f"{100 * accuracy['mean']:.2f} ± {100 * half:.2f} at {100 * row['sparsity']['mean']:.2f}"


def _readings() -> str:
    """What becomes of the theorem's reading: the variants of gRDA by what there is to say of them."""
    alike: dict[str, list[str]] = {}
    for variant in _measured("frontier")["variants"]:
        if variant["reading"] != "none":
            alike.setdefault(variant["reading"], []).append(variant["change"])
    rows = (f"| {'; '.join(changes)} | {reading} |" for reading, changes in alike.items())
    return "\n".join(["| change | reading |", "|---|---|", *rows])


# -- deployment ----------------------------------------------------------------------------------------


def _slim() -> str:
    """For each trained network what slim leaves of it, then the times of 1 and 64 images on one core."""
    left = [
        "| trained | accuracy | zeros | channels | parameters | multiplications per image |",
        f"|{'---|' * 6}",
    ]
    heads = [f"{name}, {what}" for what in ("1 image", "64 images") for name in ("onnxruntime", "sparse")]
    times = [f"| milliseconds | {' | '.join(heads)} |", f"|{'---|' * 5}"]
    for network in _measured("group_penalty")["networks"]:
        before, after, config = network["before"], network["after"], network["config"]
        counts = [
            f"{before[key]:,} → {after[key]:,}" for key in ("channels", "parameters", "multiplications")
        ]
        timed = {(row["name"], row["batch"]): row["milliseconds"] for row in network["timings"]}
        pairs = [
            f"{timed['onnxruntime', batch]:.3f} → {timed['slim, onnxruntime', batch]:.3f} "
            f"| {timed['sparse (ours)', batch]:.3f}"
            for batch in (1, 64)
        ]
        label = f"{config['model']}, {config['dataset']}, {config['epochs']} epochs, {network['label']}"
        left.append(
            f"| {label} | {100 * network['accuracy']:.2f} % | {100 * network['sparsity']:.2f} % "
            f"| {' | '.join(counts)} |"
        )
        times.append(f"| {label} | {' | '.join(pairs)} |")
    return "\n".join([*left, "", *times])


def _sizes() -> str:
    """A row for each kind of file: its bytes, network by network, and what made them."""
    content = _measured("sizes")
    results = content["results"]
    heads = [f"{result['network']}, {_zeros(result)}" for result in results]
    lines = [f"| bytes | {' | '.join(heads)} |", "|---" + "|--:" * len(results) + "|"]
    for kind in results[0]["bytes"]:
        cells = [f"{result['bytes'][kind]:,}" for result in results]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _made(content["environment"])])


def _inference() -> str:
    """A table for each network, folded: every program, and what made its times."""
    alike: dict[str, list[tuple[str, Any]]] = {}
    for result in _measured("inference")["results"]:
        for table in result["tables"]:
            alike.setdefault(result["network"], []).append((_zeros(result), table))
    parts = []
    for network, tables in alike.items():
        tables.sort(key=lambda pair: (pair[1]["batch"], pair[1]["threads"], pair[0]))
        made = (f"- {_made(table['environment'])}" for _, table in tables)
        lines = [*_programs(tables), "", *made]
        parts.append(f'??? note "{network}"\n\n' + "".join(f"    {line}\n" for line in lines))
    return "\n".join(parts)


def _programs(tables: list[tuple[str, Any]]) -> list[str]:
    """A row for each program: its times, how far off it is at most; then what the sparse runtime gains."""
    heads = [
        f"{zeros}, batch {table['batch']}, {table['threads']} thread{'s' * (table['threads'] > 1)}"
        for zeros, table in tables
    ]
    columns = [{row["name"]: row for row in table["timings"]} for _, table in tables]
    lines = [f"| ms | {' | '.join(heads)} | off by |", "|---" + "|--:" * (len(tables) + 1) + "|"]
    for name in CONTENDERS:
        rows = [column.get(name) for column in columns]
        timed = [row for row in rows if row is not None and row["milliseconds"] is not None]
        if not timed:
            continue
        cells = [f"{row['milliseconds']:,.2f}" if row in timed else "" for row in rows]
        off = max(row["difference"] for row in timed)
        lines.append(f"| {name} | {' | '.join(cells)} | {off:.1e} |")
    gains = []
    for column in columns:
        times = {name: row["milliseconds"] for name, row in column.items() if row["milliseconds"]}
        best = min((name for name in DENSE if name in times), key=times.__getitem__)
        gains.append(f"{times[best] / times['sparse (ours)']:.2f} x {best}")
    return [*lines, f"| **ours against the fastest dense** | {' | '.join(gains)} | |"]


def _zeros(result: dict[str, Any]) -> str:
    (percent,) = re.findall(r"the smallest (\d+)%", result["weights"])
    return f"{percent} %"


def _made(environment: dict[str, Any]) -> str:
    """Say by which command, where and when."""
    machine = f"{environment['cores']} cores of an {environment['cpu']}"
    versions, day = environment["versions"], environment["date"][:10]
    return f"`{environment['command']}`, {machine}, torch {versions['torch']}, {day}"


# -- comparison ----------------------------------------------------------------------------------------


def _protocol() -> str:
    """What `dirprune compare digits` says first."""
    config = replace(get_recipe("digits").config, prune="weights", validation=0.1)
    given = CompareOptions(config=config)
    protocol = Protocol(
        config=config,
        methods=tuple(METHODS),
        sparsities=given.sparsities,
        seeds=given.seeds,
        trials=given.trials,
        prunable=prunable_part(config),
    )
    return "".join(f"- {sentence}\n" for sentence in protocol.words())


def _methods() -> str:
    """A row for each method: its name in commands, and what it is."""
    rows = ["| name | method | sparsity | source |", "|---|---|---|---|"]
    for name, entry in METHODS.items():
        facts = entry.facts
        ruled = (
            "given in advance" if facts.needs_target else f"by `{facts.strength}`" if facts.strength else "-"
        )
        rows.append(f"| `{name}` | {facts.title} | {ruled} | {facts.paper} |")
    return "\n".join(rows)


_GENERATED = {
    "command-line.md": {"help": _help},
    "comparison.md": {"protocol": _protocol, "methods": _methods},
    "deployment.md": {"sizes": _sizes, "slim": _slim, "programs": _inference},
    "frontier.md": {
        "frontier": _frontier,
        "judged": partial(_judged, "lenet-300-100-strongest"),
        "judged-momentum": partial(_judged, "lenet-300-100-momentum"),
        "judged-rescaled": partial(_judged, "lenet-300-100-rescaled"),
        "judged-common": partial(_judged, "lenet-300-100-common"),
        "judged-lenet5": partial(_judged, "lenet5-momentum"),
        "judged-vit": partial(_judged, "vit"),
        "judged-vit-rescaled": partial(_judged, "vit-rescaled"),
        "readings": _readings,
    },
    "evidence.md": {"theorem": _theorem, "theorem-whole": _theorem_whole, "cost": _cost, "pairs": _pairs},
    "results.md": {"results": _results},
}
