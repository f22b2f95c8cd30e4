"""What holds for every test, and the documentation, built once for all that look at it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from dirprune.core.native import _LANGUAGES, _compiler
from dirprune.errors import CompilerError

# Before any test is read: the examples are the same at every run, and a busy machine fails none.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("search", deadline=None)  # new examples: HYPOTHESIS=search make unit
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # the scripts that measure can be imported


@dataclass(frozen=True)
class Site:
    """A built site, and what the build said."""

    path: Path
    said: str


@pytest.fixture(autouse=True)
def _alone_as_in_company():
    """Every test begins with the same random numbers, and leaves the threads as they were."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips what needs a C or C++ compiler where there is none."""
    for language in _LANGUAGES.values():
        try:
            _compiler(*language)
        except CompilerError as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(
                f"NO COMPILER, nothing is compiled: {error}"
            )


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Site:
    path = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    return Site(path, built.stdout)
