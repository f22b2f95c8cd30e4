"""The code blocks of README.md and docs/, with what a comment before a block says of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
_INDENTED = "sh"  # README.md's lists of commands
# A whole script, which tests/examples runs; in braces, so that nobody formats the include as Python.
EXAMPLE = re.compile(r'{\.python title="(examples/\w+\.py)"}\n--8<-- "\1"\n')
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_RUN = "<!-- run -->"


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        page: Path of the page, from the root.
        line: Of the first line of code, from 1.
        language: As the fence has it.
        source: The code.
        run: Whether commands are to be executed, not only read.
        reason: Why Python cannot be executed; empty where it is.
    """

    page: str
    line: int
    language: str
    source: str
    run: bool = False
    reason: str = ""


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Find the blocks of a page; what it includes from elsewhere is read there."""
    said = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            fenced = token.type == "fence"
            reason = _NOT_RUN.fullmatch(said)
            yield Block(
                page,
                token.map[0] + 1 + fenced,
                token.info.strip() if fenced else _INDENTED,
                token.content,
                run=said == _RUN,
                reason=reason[1] if reason else "",
            )
        said = token.content.strip() if token.type == "html_block" else ""


BLOCKS = [block for page, path in PAGES.items() for block in read_blocks(page, path.read_text())]
