"""The code in README.md and docs/ runs: Python page by page, commands as far as they are cheap."""

from dataclasses import replace
from shutil import copytree

import pytest
import torch
from torch import nn

from dirprune import recipes, save_sparse
from dirprune.cli import main
from dirprune.data import load_dataset
from dirprune.runs import RunFolder
from dirprune.train import Trainer
from tests.pages.blocks import BLOCKS, EXAMPLE, PAGES, ROOT, Block, read_blocks
from tests.pages.commands import check_command, words_of

PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]
NOT_RUN = {"docs/integrations.md": 1}  # blocks of Python with a reason, page by page


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


def execute(block: Block, names: dict[str, object]) -> None:
    """Run a block; a traceback shows page and line."""
    padding = "\n" * (block.line - 1)
    exec(compile(padding + block.source, ROOT / block.page, "exec"), names)


@pytest.fixture
def readers_own() -> dict[str, object]:
    """What a page calls "yours": a network, data, a loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    loader = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(3)]
    return {"model": model, "loader": loader, "loss_function": nn.functional.cross_entropy}


@pytest.fixture
def short_digits(monkeypatch):
    """The recipe of the digits with one seed and one epoch."""
    digits = recipes.get_recipe("digits")
    short = replace(digits, seeds=1, config=replace(digits.config, epochs=1))
    monkeypatch.setitem(recipes.RECIPES, "digits", lambda: short)


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in PYTHON))
def test_python_runs(page, readers_own, short_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page", **readers_own}
    for block in PYTHON:
        if block.page == page and not block.reason:
            execute(block, names)


def test_what_does_not_run_says_why():
    stopped = [block for block in BLOCKS if block.reason]
    assert all(block.language == "python" for block in stopped)
    assert {page: sum(block.page == page for block in stopped) for page in PAGES} == {
        page: NOT_RUN.get(page, 0) for page in PAGES
    }
    for block in stopped:
        compile(block.source, place(block), "exec")
        assert len(block.reason) > 20


@pytest.mark.parametrize("block", SHELL, ids=place)
def test_commands_are_understood(block, monkeypatch):
    lines = [words for line in block.source.splitlines() if (words := words_of(line))]
    assert lines
    for words in lines:
        check_command(words, monkeypatch)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """What a page calls RUN: a folder of a finished run."""
    config = replace(recipes.get_recipe("digits").config, epochs=1)
    run = RunFolder(tmp_path_factory.mktemp("finished") / config.run_name)
    Trainer(config, load_dataset("digits"), run, command="").run()
    return run.path


@pytest.mark.parametrize("block", [block for block in SHELL if block.run], ids=place)
def test_cheap_commands_run(block, finished_run, short_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copytree(finished_run, "RUN")
    save_sparse(nn.Linear(3, 2), "FILE")
    for line in block.source.splitlines():
        program, *words = words_of(line)
        assert program == "dirprune"
        assert main(words) == 0, capsys.readouterr().err
        assert capsys.readouterr().out


def test_every_block_is_of_a_kind_that_is_tested():
    for block in BLOCKS:
        if script := EXAMPLE.fullmatch(f"{block.language}\n{block.source}"):
            assert (ROOT / script[1]).is_file(), place(block)
        else:
            assert block.language in ("python", "sh", "math", "bibtex"), f"{place(block)}: {block.language!r}"
            assert "--8<--" not in block.source, f"{place(block)}: code from elsewhere, tested by nobody"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dirprune train digitz", "without having read"),
        ("dirprune train digits --epoch 3", "without having read"),
        ("dirprune train digits --mu 7", "without having read"),
        ("dirprune landscape connekt A B", "without having read"),
        ("torchrun --nproc-per-node 2 -m dirprune train digits --parallel fsdp3", "without having read"),
        ("make demos", "no demos"),
        ("pip install '.[everything]'", "no such extra"),
        ("pip install torch", "not this package"),
        ("rm -rf .", "nobody reads"),
    ],
)
def test_a_wrong_command_is_found(line, complaint, monkeypatch):
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        check_command(words_of(line), monkeypatch)


def test_markers_and_places_are_read():
    text = """text

<!-- not run: it needs a moon -->
```python
a = 1
```

    dirprune train digits

<!-- run -->
```sh
dirprune report .
```
```sh
dirprune report .
```
"""
    assert list(read_blocks("page.md", text)) == [
        Block("page.md", 5, "python", "a = 1\n", reason="it needs a moon"),
        Block("page.md", 8, "sh", "dirprune train digits\n"),
        Block("page.md", 12, "sh", "dirprune report .\n", run=True),
        Block("page.md", 15, "sh", "dirprune report .\n"),
    ]
