"""Commands in the pages: read by the parsers of the programs that they name, without doing anything."""

import contextlib
import re
import shlex
import tomllib
from collections.abc import Sequence
from typing import Any

import pytest
import tyro
from torch.distributed.run import parse_args as parse_torchrun

from dirprune.cli import main
from tests.pages.blocks import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
_PACKAGE = re.compile(r"(?:\.|directional-pruning)(?:\[([\w,]+)\])?")


class Understood(BaseException):
    """The arguments are read; the command ends here. Not an Exception, which `main` would explain."""


def words_of(line: str) -> list[str]:
    """Split a line as a shell does."""
    return shlex.split(line, comments=True)


def check_command(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program that is named understands its arguments."""
    match words:
        case ["dirprune", *given]:
            _check_ours(given, monkeypatch)
        case ["torchrun", *given]:
            launched = parse_torchrun(given)
            assert (launched.module, launched.training_script) == (True, "dirprune"), words
            _check_ours(launched.training_script_args, monkeypatch)
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), f"there is no {script}"
        case ["make", target, *settings]:
            assert target in TARGETS, f"the Makefile has no {target}"
            assert all(re.fullmatch(r"[A-Z_]+=.+", setting) for setting in settings), settings
        case ["pip", "install", package]:
            named = _PACKAGE.fullmatch(package)
            assert named, f"{package} is not this package"
            assert set((named[1] or "all").split(",")) <= set(EXTRAS), f"no such extra: {package}"
        case _:
            pytest.fail(f"nobody reads this command: {shlex.join(words)}")


def _check_ours(given: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command read its arguments, defaults and ranges included, and stop it there."""
    read = tyro.cli

    def read_only(*options: Any, **settings: Any) -> None:
        read(*options, **settings)
        raise Understood

    with monkeypatch.context() as patched, contextlib.suppress(Understood):
        patched.setattr(tyro, "cli", read_only)
        code = main(given)
        pytest.fail(f"dirprune {shlex.join(given)} ended with {code} without having read its arguments")
