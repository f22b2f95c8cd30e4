"""Figures of the report as PNG, by a headless chromium: for pages that cannot hold the report's own SVG.

Example: python benchmarks/figures_png.py runs/theorem/20-images --figures docs/figures
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import dirprune.report
from dirprune.report.landscape import run_section
from dirprune.report.sections import Figure
from dirprune.report.theorem import theorem_section

SCALE = 2
WIDTH = 560  # CSS pixels


def save_figures(name: str, figures: Sequence[Figure], folder: Path) -> None:
    """Write each figure to FOLDER/NAME-TITLE.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        title = re.sub(r"[^a-z0-9]+", "-", figure.title.lower()).strip("-")
        render(figure.svg, folder / f"{name}-{title}.png")


def render(svg: str, path: Path) -> None:
    """Draw an SVG that takes its colours from the page, in the colours of the light page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("figures as PNG need chromium")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box
    height = round(WIDTH * float(box[2]) / float(box[1]))
    style = f"body{{margin:0;background:#fff;font-family:sans-serif}}svg{{width:{WIDTH}px;height:{height}px}}"
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "figure.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{light_colours()}{style}</style>{svg}")
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
        command += [f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{height}"]
        shot = Path(scratch) / "shot.png"
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        shutil.copyfile(shot, path)
    print(f"written: {path}")


def light_colours() -> str:
    """Return the rule of the report's style sheet that names its colours."""
    sheet = (Path(dirprune.report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    rule = re.search(r":root \{.*?\}", sheet, re.DOTALL)
    assert rule
    return rule[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="with a theorem.json, or results of one run")
    parser.add_argument("--figures", type=Path, required=True)
    given = parser.parse_args()
    for folder in given.folders:
        is_theorem = (folder / "theorem.json").is_file()
        section = theorem_section(folder) if is_theorem else run_section(folder.name, folder)
        save_figures(folder.name, section.figures if section else (), given.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
