"""The published curves of ResNet50 on ImageNet as the figure of docs/comparison.md.

Example: python benchmarks/published.py
"""

import argparse
import io
from pathlib import Path

from matplotlib import style

from dirprune.core.atomic import atomic_write
from dirprune.report.published import draw_published

FIGURE = Path(__file__).parents[1] / "docs" / "assets" / "published.svg"


def figure() -> bytes:
    """Draw it on white, as for paper; the same bytes at every run of one matplotlib."""
    content = io.BytesIO()
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "published"}]):
        draw_published().savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with atomic_write(FIGURE) as file:
        file.write(figure())
    print(f"written: {FIGURE}")


if __name__ == "__main__":
    main()
