"""What the site holds beside its pages: equations as MathML, the help of every command, the results."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils.utils.math.latex2mathml import tex2mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dirprune.cli import COMMANDS, main
from dirprune.cli.bench import BENCHMARKS
from dirprune.cli.landscape import TOPICS

RESULTS = sorted(Path(__file__).parents[1].glob("benchmarks/results/*.json"))
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
    if page.file.src_uri == "command-line.md":
        markdown = markdown.replace("<!-- help -->", _help())
    if page.file.src_uri == "results.md":
        markdown = markdown.replace("<!-- results -->", _results())
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
    """What the command prints, without the boxes around it."""
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main(words)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    lines = []
    for line in said.getvalue().splitlines():
        if title := re.fullmatch(r"╭─ (.*?) ─*╮", line):
            lines += ["", f"{title[1]}:"]
        elif not re.fullmatch(r"[│╰]?[ ─]*[│╯]?", line):
            lines.append(line.removeprefix("│").removesuffix("│").rstrip())
        elif not line:
            lines.append("")
    return "\n".join(lines)


# -- results -------------------------------------------------------------------------------------------


def _results() -> str:
    """A row for each file of results: the commands that made it, and when."""
    rows = ["| result | made by | on |", "|---|---|---|"]
    for path in RESULTS:
        origins = list(_origins(json.loads(path.read_text())))
        commands = "<br>".join(f"`{command}`" for command in dict.fromkeys(c for c, _ in origins))
        days = sorted({date[:10] for _, date in origins})
        made = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        rows.append(f"| [{path.stem}](results/{path.name}) | {commands} | {made} |")
    return "\n".join(rows)


def _origins(content: Any) -> Iterator[tuple[str, str]]:
    """Find (command, date) wherever a result has them, from the outside in."""
    if isinstance(content, dict):
        if {"command", "date"} <= set(content):
            yield content["command"], content["date"]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _origins(part)
