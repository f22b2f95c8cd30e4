"""Where gRDA's network lies beside its SGD twin: `dirprune landscape` for one pair, as numbers and figures.

The pair comes from `dirprune train ... --snapshots ...`. The bend of the curve is trained on all images. The
Hessian and the loss may each be measured on fewer than there are; the result says how many. Work that is
stopped goes on with the same command.

Example: python benchmarks/evidence.py RUN_SGD RUN_GRDA --data-dir DATA --images 5000 --out runs/evidence/NAME
    --output benchmarks/results/evidence-NAME.json
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dirprune.cli import main as dirprune
from dirprune.core.atomic import atomic_write
from dirprune.landscape import (
    Connection,
    NormSeries,
    OneShot,
    Plane,
    ProjectionSeries,
    Result,
    Values,
    barrier,
)
from dirprune.report.landscape import run_section
from dirprune.runs import RunFolder
from figures_png import save_figures
from record import record

SPARSITIES = ("0.3", "0.5", "0.7", "0.8", "0.9", "0.95")
KEPT = ("epochs", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "sparsity", "parameters")


def run(topic: str, runs: list[Path], folder: Path, options: list[str]) -> None:
    """Call the command."""
    code = dirprune(["landscape", topic, *map(str, runs), "--out", str(folder), *options])
    if code:
        sys.exit(code)


def images(result: Result) -> dict[str, int]:
    """Return the number of images of each split that a result rests on."""
    return {name: split["samples"] for name, split in result.request["data"].items()}


def settings(result: Result) -> dict[str, Any]:
    """Return what a result was made with, without hashes of weights."""
    return {
        key: value for key, value in result.request.items() if key not in ("first", "last", "network", "data")
    }


def heights(t: tuple[float, ...], values: Values) -> dict[str, dict[str, float]]:
    """Return the barrier of every list of values that is there."""
    return {name: asdict(barrier(t, measured)) for name, measured in asdict(values).items() if measured}


def pair_record(paths: list[Path]) -> dict[str, Any]:
    """Return settings and outcome of both runs."""
    return {
        name: {"config": run.config(), "result": {key: (run.result() or {}).get(key) for key in KEPT}}
        for name, run in zip(("sgd", "grda"), map(RunFolder, paths), strict=True)
    }


def collect(folder: Path, more: Path) -> dict[str, Any]:
    """Read the results of all topics."""
    content: dict[str, Any] = {}
    if curve := Connection.load(folder):
        content["connect"] = {
            "images": images(curve),
            "settings": settings(curve),
            "converged": curve.converged,
            "epoch_losses": curve.epoch_losses,
            "barrier_curve": heights(curve.t, curve.curve),
            "barrier_line": heights(curve.t, curve.line),
            "t": curve.t,
            "curve": asdict(curve.curve),
            "line": asdict(curve.line),
        }
    if plane := Plane.load(folder):
        content["plane"] = {
            "images": images(plane),
            "settings": settings(plane),
            "points": dict(zip(("grda", "bend", "sgd"), plane.points, strict=True)),
            "at_points": asdict(plane.at_points),
            "x": plane.x,
            "y": plane.y,
            "grid": asdict(plane.grid),
        }
    for name, place in (("project", folder), ("project_more_images", more)):
        if series := ProjectionSeries.load(place):
            content[name] = {
                "images": images(series),
                "settings": settings(series),
                "by_chance": series.by_chance,
                "steps": [
                    {key: value for key, value in asdict(step).items() if key not in ("sgd", "grda")}
                    for step in series.steps
                ],
            }
    if norms := NormSeries.load(folder):
        content["norms"] = {
            "epochs": norms.epochs,
            **{
                name: [{**asdict(n), "ratio": n.ratio} for n in each]
                for name, each in (("sgd", norms.sgd), ("grda", norms.grda))
            },
        }
    if shot := OneShot.load(folder):
        ways = {way: asdict(getattr(shot, way)) for way in ("dense", "directional", "soft", "magnitude")}
        content["directional"] = {
            "images": images(shot),
            "settings": settings(shot),
            "sparsities": shot.sparsities,
            "strengths": shot.strengths,
            "mean_score": shot.mean_score,
            "negative_scores": shot.negative_scores,
            **ways,
        }
    return content


def markdown(content: dict[str, Any]) -> str:
    """Return the numbers as tables."""
    lines: list[str] = []
    if found := content.get("connect"):
        lines += [
            f"**Paths from gRDA to SGD** ({_counted(found)}; the bend is trained on "
            f"{found['settings']['trained_on']['samples']:,} images). Barrier: above the higher end.",
            "",
            "| path | training loss: gRDA | SGD | greatest | barrier | test loss: gRDA | SGD | greatest "
            "| test error: gRDA | SGD | greatest |",
            f"|{'---|' * 11}",
        ]
        for name, way in (("trained curve", "curve"), ("straight line", "line")):
            loss, test_loss = found[way]["train_loss"], found[way]["test_loss"]
            error = [100 * part for part in found[way]["test_error"]]
            lines.append(
                f"| {name} | {loss[0]:.4f} | {loss[-1]:.4f} | {max(loss):.4f} "
                f"| {found[f'barrier_{way}']['train_loss']['height']:.4f} "
                f"| {test_loss[0]:.4f} | {test_loss[-1]:.4f} | {max(test_loss):.4f} "
                f"| {error[0]:.2f} % | {error[-1]:.2f} % | {max(error):.2f} % |"
            )
    if found := content.get("plane"):
        at = found["at_points"]
        lines += [
            "",
            f"**At the points of the plane** ({_counted(found)}).",
            "",
            "| | gRDA | bend | SGD |",
            "|---|---|---|---|",
            f"| training loss | {' | '.join(f'{loss:.4f}' for loss in at['train_loss'])} |",
            f"| test error | {' | '.join(f'{100 * error:.2f} %' for error in at['test_error'])} |",
        ]
    for name in ("project", "project_more_images"):
        if found := content.get(name):
            lines += [
                "",
                f"**Part of gRDA - SGD in the {found['settings']['k']} sharpest directions** "
                f"({_counted(found)}; a random direction: {100 * found['by_chance']:.2f} %).",
                "",
                "| epoch | part | distance | sparsity | loss SGD | loss gRDA | eigenvalues | products |",
                "|---|---|---|---|---|---|---|---|",
            ]
            lines += [
                f"| {s['epoch']} | {100 * s['fraction']:.2f} % | {s['distance']:.2f} "
                f"| {100 * s['sparsity']:.1f} % | {s['loss_sgd']:.4f} | {s['loss_grda']:.4f} "
                f"| {s['values'][0]:.3g} to {s['values'][-1]:.3g} | {s['products']} |"
                for s in found["steps"]
            ]
    if found := content.get("norms"):
        lines += ["", "**Norm ratio**, l2 / l1.", "", "| epoch | SGD | gRDA |", "|---|---|---|"]
        rows = zip(found["epochs"], found["sgd"], found["grda"], strict=True)
        lines += [f"| {epoch} | {sgd['ratio']:.5f} | {grda['ratio']:.5f} |" for epoch, sgd, grda in rows]
    if found := content.get("directional"):
        before = found["dense"]
        lines += [
            "",
            f"**One shot on the SGD network** ({_counted(found)}; mean score {found['mean_score']:.4f}). "
            f"Before: training loss {before['train_loss'][0]:.4f}, "
            f"test accuracy {100 - 100 * before['test_error'][0]:.2f} %. "
            "Training loss and test accuracy after:",
            "",
            "| sparsity | directional | | soft threshold | | magnitude | |",
            "|---|---|---|---|---|---|---|",
        ]
        for i, sparsity in enumerate(found["sparsities"]):
            cells = (
                f"{found[way]['train_loss'][i]:.4f} | {100 - 100 * found[way]['test_error'][i]:.2f} %"
                for way in ("directional", "soft", "magnitude")
            )
            lines.append(f"| {100 * sparsity:.1f} % | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _counted(found: dict[str, Any]) -> str:
    counts = found["images"]
    return f"{counts['train']:,} training and {counts['test']:,} test images"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="the SGD run, then its gRDA twin")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of the commands")
    parser.add_argument("--images", type=int, required=True, help="measured on curve and line")
    parser.add_argument("--plane-images", type=int, required=True)
    parser.add_argument("--hessian-images", type=int, required=True, help="at every epoch")
    parser.add_argument("--last-hessian-images", type=int, help="once more at the last epoch, with so many")
    parser.add_argument("--curve-epochs", type=int, default=30)
    parser.add_argument("--curve-lr", type=float, default=0.02)
    parser.add_argument("--points", type=int, default=61)
    parser.add_argument("--size", type=int, default=29, help="points along an edge of the plane")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=list(TOPICS))
    parser.add_argument("--output", type=Path, help="JSON file; tables in Markdown are written beside it")
    parser.add_argument("--figures", type=Path, help="folder for PNG; needs chromium")
    given = parser.parse_args()
    more = given.out / f"last-{given.last_hessian_images}"
    for topic in given.only:
        TOPICS[topic](given, more, ["--data-dir", given.data_dir, "--threads", str(given.threads)])
    content = {"pair": pair_record(given.runs), **collect(given.out, more)}
    print(markdown(content))
    if given.output:
        record(given.output, content)
        with atomic_write(given.output.with_suffix(".md")) as file:
            file.write(markdown(content).encode())
    if given.figures:
        section = run_section(given.out.name, given.out)
        save_figures(given.out.name, section.figures if section else (), given.figures)
    return 0


def _norms(given: argparse.Namespace, _: Path, common: list[str]) -> None:
    run("norms", given.runs, given.out, common)


def _project(given: argparse.Namespace, more: Path, common: list[str]) -> None:
    run("project", given.runs, given.out, [*common, "--images", str(given.hessian_images)])
    if given.last_hessian_images:
        shared = (set(RunFolder(path).snapshots()) for path in given.runs)
        last = max(set.intersection(*shared))
        options = ["--images", str(given.last_hessian_images), "--epochs", str(last)]
        run("project", given.runs, more, [*common, *options])


def _directional(given: argparse.Namespace, _: Path, common: list[str]) -> None:
    options = ["--images", str(given.hessian_images), "--sparsities", *SPARSITIES]
    run("directional", given.runs[:1], given.out, [*common, *options])


def _connect(given: argparse.Namespace, _: Path, common: list[str]) -> None:
    options = {
        "--images": given.images,
        "--epochs": given.curve_epochs,
        "--lr": given.curve_lr,
        "--points": given.points,
    }
    run(
        "connect", given.runs, given.out, [*common, *(str(part) for pair in options.items() for part in pair)]
    )


def _plane(given: argparse.Namespace, _: Path, common: list[str]) -> None:
    run(
        "plane",
        given.runs,
        given.out,
        [*common, "--images", str(given.plane_images), "--size", str(given.size)],
    )


TOPICS = {
    "norms": _norms,
    "connect": _connect,
    "plane": _plane,
    "project": _project,
    "directional": _directional,
}

if __name__ == "__main__":
    sys.exit(main())
