"""The page of the benchmarks, made from the scripts and from the JSON files beside them.

What has not been measured is not on the page. Why a method wins is not: ``results/compare-reasons.md``
holds what we take for the reason, where we have one.

Example: python benchmarks/page.py
"""

import ast
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dirprune.core.atomic import atomic_write
from dirprune.report.statistics import Estimate, paired_difference
from record import RESULTS

PAGE = Path(__file__).parent / "README.md"
REASONS = "compare-reasons.md"
OVERVIEW = 0.95  # the sparsity of the first table
FORMS = ("grda", "grda-l0", "grda-rescaled")
TRADED = 0.01  # of sparsity, from which a difference in accuracy may be its price

_HEAD = """\
# Benchmarks

Made by `python benchmarks/page.py` from the scripts and the JSON files in [results](results), which hold
every figure with its command, versions, machine and date; a test holds this page to them. DATA stands for the
folder with the data sets as parquet.
"""

Json = dict[str, Any]


def page(results: Path) -> str:
    """Write the page from a folder of JSON files."""
    return "\n".join([_HEAD, *_scripts(results), *comparison(results)])


def write_page() -> None:
    """Make the page anew."""
    with atomic_write(PAGE) as file:
        file.write(page(RESULTS).encode())


def _scripts(results: Path) -> list[str]:
    """List every script that is run, with the results that are kept of it."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py") if _is_run(path)}
    kept: dict[str, list[str]] = {name: [] for name in names}
    for path in sorted(results.glob("*.json")):
        owners = [name for name in names if path.stem == name or path.stem.startswith(f"{name}-")]
        kept[max(owners, key=len, default="collect")].append(path.stem)
    lines = ["| command | what it does | results |", "|---|---|---|"]
    for name in sorted(names):
        summary = _docstring(name).partition("\n")[0]
        links = ", ".join(f"[{stem}](results/{stem}.json)" for stem in kept[name])
        lines.append(f"| `python benchmarks/{name}.py` | {summary} | {links} |")
    return [*lines, "", "Each script says more at its beginning, and `--help` names its options.", ""]


def _docstring(name: str) -> str:
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or ""


def _is_run(path: Path) -> bool:
    return "__main__" in path.read_text(encoding="utf-8")


# -- the comparison of methods --------------------------------------------------------------------------


def comparison(results: Path) -> list[str]:
    """Write what `compare.py` measured: the protocol, a table for each part, where the reference loses."""
    parts = sorted(results.glob("compare-*.json"))
    if not parts:
        return []
    lines = [
        "## Pruning methods beside each other",
        "",
        "`python benchmarks/compare.py --data-dir DATA --only PART` goes on from what is finished in "
        "`results/compare-PART.runs.jsonl`. Sparsity and accuracy in %, mean ± sample standard deviation "
        "over seeds, by wanted sparsity and then from accurate to inaccurate. The difference to the method "
        "named in the head is paired by seed, with its 95 % interval (Student's t), in points; behind it, by "
        "how many points of sparsity the method is sparser. s: seconds of training. GMAC: 10⁹ "
        "multiplications on a machine that skips every product with a pruned weight; of dense: as a part of "
        "what the dense network's training takes.",
        "",
    ]
    found = {
        path.stem.removeprefix("compare-"): json.loads(path.read_text(encoding="utf-8")) for path in parts
    }
    lines += _overview(found)
    lines += _verdicts(results, found)
    for name, content in found.items():
        lines += _part(name, content, _archived(results / f"compare-{name}.runs.jsonl"))
    reasons = results / REASONS
    return [*lines, *([reasons.read_text(encoding="utf-8")] if reasons.is_file() else [])]


def _overview(found: dict[str, Json]) -> list[str]:
    """A row for each part: the dense network, the best of what is told a sparsity, and ours."""
    lines = [
        f"Test accuracy in %, at {100 * OVERVIEW:g} % wanted; in brackets the zeros in %:",
        "",
        "<!-- --8<-- [start:overview] -->",
        "| part | dense | best of the methods that are told the sparsity | gRDA | gRDA, l0 |",
        "|---|---|---|---|---|",
    ]
    for name, content in found.items():
        rows = content["rows"]
        at = {row["method"]: row for row in rows if row["target"] == OVERVIEW and row["accuracy"]}
        told = [row for row in at.values() if row["needs_target"]]
        best = max(told, key=lambda row: float(row["accuracy"]["mean"]), default=None)
        dense = next(row for row in rows if row["target"] is None)
        ours = " | ".join(_at(at.get(method)) for method in ("grda", "grda-l0"))
        accuracy = f"{100 * dense['accuracy']['mean']:.2f}"
        lines.append(f"| {name} | {accuracy} | {best['title'] + ': ' if best else ''}{_at(best)} | {ours} |")
    return [*lines, "<!-- --8<-- [end:overview] -->", ""]


def _verdicts(results: Path, found: dict[str, Json]) -> list[str]:
    """A row for each form of gRDA in each part: how it stands to the best of all other methods."""
    targets = sorted({row["target"] for each in found.values() for row in each["rows"] if row["target"]})
    lines = [
        "Each form of gRDA beside the most accurate of all other methods whose networks have the wanted "
        f"zeros, or {100 * TRADED:g} point less: the difference in points with its 95 % interval, paired by "
        "seed, for the settings that were chosen and without a correction for the number of comparisons; in "
        "brackets, by how many points gRDA's networks are sparser. Which is the best was seen on the test "
        "images, which favours it.",
        "",
        "<!-- --8<-- [start:verdicts] -->",
        f"| part | form | {' | '.join(f'{100 * target:g} %' for target in targets)} |",
        f"|---|---|{'---|' * len(targets)}",
    ]
    for name, content in found.items():
        runs = reported(results / f"compare-{name}.runs.jsonl")
        for form in FORMS:
            at = {row["target"]: row for row in content["rows"] if row["method"] == form}
            if not at:
                continue
            cells = [_verdict(at.get(target), content["rows"], runs) for target in targets]
            title = next(iter(at.values()))["title"]
            lines.append(f"| {name} | {title} | {' | '.join(cells)} |")
    return [*lines, "<!-- --8<-- [end:verdicts] -->", ""]


def _verdict(own: Json | None, rows: Sequence[Json], runs: Sequence[Json]) -> str:
    """Say whether a form is above or below the best other at its sparsity, or not told apart from it."""
    if own is None or own["accuracy"] is None:
        return ""
    others = [row for row in rows if row["target"] == own["target"] and row["method"] not in FORMS]
    wanted = next(row["sparsity"]["mean"] for row in others if row["needs_target"])
    sparse = [row for row in others if row["accuracy"] and row["sparsity"]["mean"] >= wanted - TRADED]
    best = max(sparse, key=lambda row: float(row["accuracy"]["mean"]))
    gap = paired(own, best, runs)
    word = "above" if gap.low > 0 else "below" if gap.high < 0 else "level with"
    mean, low, high = (f"{100 * value:+.2f}" for value in (gap.mean, gap.low, gap.high))
    sparser = 100 * (own["sparsity"]["mean"] - best["sparsity"]["mean"])
    if sparser < -100 * TRADED:
        word = f"denser, {word}"  # no match
    return f"{word} {best['title']}, {mean} ({low} to {high}) [{sparser:+.2f}]"


def paired(own: Json, other: Json, runs: Sequence[Json]) -> Estimate:
    """Pair two rows of a part by seed, from the runs that it keeps."""
    ours, theirs = _by_seed(own, runs), _by_seed(other, runs)
    seeds = sorted(ours.keys() & theirs.keys())[-own["accuracy"]["n"] :]  # the first may be of the trials
    return paired_difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def reported(archive: Path) -> list[Json]:
    """Return the runs of a part that are no trials."""
    return [run for run in _archived(archive) if not _is_trial(run)]


def _archived(archive: Path) -> list[Json]:
    """Return all runs of a part."""
    head, *lines = (json.loads(line) for line in archive.read_text(encoding="utf-8").splitlines())
    return [{**line, "config": {**head["config"], **line["config"]}} for line in lines]


def _is_trial(run: Json) -> bool:
    return str(run["run"]).startswith("trials/")


def _lost(rows: Sequence[Json], trials: Sequence[Json]) -> str:
    """Say which methods lost trials, for a search that loses many finds less."""
    titles = {row["method"]: row["title"] for row in rows}
    tried = Counter(run["config"]["method"] for run in trials)
    lost = Counter(run["config"]["method"] for run in trials if run["result"]["status"] != "finished")
    named = (f"{titles[method]} {lost[method]} of {tried[method]}" for method in titles if lost[method])
    return f"- Trials that diverged: {', '.join(named) or 'none'}."


def _by_seed(row: Json, runs: Sequence[Json]) -> dict[int, float]:
    """Return the test accuracies of a row's runs."""
    wanted = {name: f"{value:g}" for name, value in row["settings"].items()}
    found = {}
    for run in runs:
        config = run["config"]
        named = dict(setting.split("=") for setting in config["settings"])
        held = {**{key: f"{config[key]:g}" for key in ("lr", "momentum", "c", "mu")}, **named}
        target = row["target"] if row["needs_target"] else None
        if (
            config["method"] == row["method"]
            and config["sparsity"] == target
            and wanted.items() <= held.items()
        ):
            found[config["seed"]] = run["result"]["test_accuracy"]
    return found


def _at(row: Json | None) -> str:
    return "" if row is None else f"{100 * row['accuracy']['mean']:.2f} ({100 * row['sparsity']['mean']:.2f})"


def _part(name: str, content: Json, runs: Sequence[Json]) -> list[str]:
    environment = content["environment"]
    rows = content["rows"]
    targets = sorted({row["target"] for row in rows if row["target"] is not None})
    reference = next(row["title"] for row in rows if row["method"] == content["reference"])
    dense = next((row["macs"] for row in rows if row["target"] is None), None)
    head = (
        "wanted",
        "method",
        "accuracy",
        "sparsity",
        f"to {reference}",
        "training loss",
        "s",
        "GMAC",
        "of dense",
    )
    return [
        f"### {name}",
        "",
        "<details><summary>Protocol and command</summary>",
        "",
        " ".join(content["protocol"]),
        "",
        f"`{environment['command']}`",
        "",
        "</details>",
        "",
        f"Made {environment['date'][:10]} on {environment['cpu']}, torch {environment['versions']['torch']}.",
        "",
        f"| {' | '.join(head)} | needs | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(row, dense) for row in rows),
        "",
        *(_standing(rows, target, content["reference"]) for target in targets),
        _lost(rows, [run for run in runs if _is_trial(run)]),
        "",
    ]


def _row(row: Json, dense: float | None) -> str:
    wanted, finished = row["seeds"]
    needs = [name for name in ("target", "pretrained", "hessian") if row[f"needs_{name}"]]
    cells = (
        "dense" if row["target"] is None else f"{100 * row['target']:g}",
        row["title"],
        _spread(row["accuracy"]),
        _spread(row["sparsity"]),
        _difference(row),
        "" if row["train_loss"] is None else f"{row['train_loss']:.3f}",
        "" if row["seconds"] is None else f"{row['seconds']:.0f}",
        "" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}",
        "" if row["macs"] is None or dense is None else f"{100 * row['macs'] / dense:.0f} %",
        ", ".join(needs),
        f"{finished}/{wanted}" if wanted else "all trials diverged",
    )
    return f"| {' | '.join(cells)} |"


def _difference(row: Json) -> str:
    gap = row["difference"]
    if gap is None:
        return ""
    mean, low, high = (f"{100 * gap[key]:+.2f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}) [{100 * row['difference_in_sparsity']:+.2f}]"


def _spread(value: Json | None) -> str:
    if value is None:
        return ""
    return f"{100 * value['mean']:.2f}" + ("" if value["std"] is None else f" ± {100 * value['std']:.2f}")


def _standing(rows: Sequence[Json], target: float, reference: str) -> str:
    """Say whom the reference loses to and by how much, whom it cannot be told from, and whom it beats."""
    at = [row for row in rows if row["target"] == target and row["difference"] is not None]
    own = next(row for row in rows if row["target"] == target and row["method"] == reference)
    if own["accuracy"] is None:
        return f"- **{100 * target:g} %**: {own['title']} has no result."
    better = [row for row in at if row["difference"]["low"] > 0]
    worse = [row for row in at if row["difference"]["high"] < 0]
    alike = [row for row in at if row not in better and row not in worse]

    def named(group: Sequence[Json]) -> str:
        told = (f"{row['title']} ({100 * row['difference']['mean']:+.2f}{_traded(row)})" for row in group)
        return ", ".join(told) or "none"

    return (
        f"- **{100 * target:g} %**: {own['title']} reaches {100 * own['accuracy']['mean']:.2f} % at "
        f"{100 * own['sparsity']['mean']:.2f} % sparsity, training loss {own['train_loss']:.3f}. "
        f"Better: {named(better)}. Not told apart: {named(alike)}. Worse: {named(worse)}."
    )


def _traded(row: Json) -> str:
    """Say that a method is a point or more denser and more accurate, or sparser and less: no match."""
    zeros, accuracy = row["difference_in_sparsity"], row["difference"]["mean"]
    if abs(zeros) < TRADED or zeros * accuracy > 0:
        return ""
    return f", {100 * abs(zeros):.1f} points {'sparser' if zeros > 0 else 'denser'}"


if __name__ == "__main__":
    write_page()
