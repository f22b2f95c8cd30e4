"""A few hundred damaged files, and proof that the watch on them sees each kind of misbehaviour."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_sparse_file.py"


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_sparse_file", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # results come back from the child by the name of their class
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_refused_or_load(tmp_path: Path) -> None:
    output = tmp_path / "fuzz.json"
    command = [sys.executable, str(SCRIPT), "--mutations", "500", "--seed", "1", "--output", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(output.read_text())
    assert report["failures"] == []
    assert ended.returncode == 0, ended.stderr
    assert report["outcomes"].keys() == {"loaded", "refused"}
    assert sum(report["outcomes"].values()) == 500
    assert report["slowest_load"]["seconds"] < 10
    assert len(report["refusals"]) > 15  # the mutations get past the first check


def foreign(path: Path) -> None:
    raise KeyError(path.name)


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(path: Path) -> None:
    time.sleep(60)


def greedy(path: Path) -> None:
    np.ones(2**25, dtype=np.uint8)


def too_greedy(path: Path) -> None:
    bytearray(2**33)


@pytest.mark.parametrize(
    ("load", "outcome"),
    [
        (foreign, "foreign KeyError"),
        (crash, "crash"),
        (hang, "hang"),
        (greedy, "oversized allocation"),
        (too_greedy, "foreign MemoryError"),
    ],
)
def test_the_watch_sees_a_loader_that_misbehaves(fuzzer: ModuleType, load: object, outcome: str) -> None:
    results = fuzzer.fuzz(2, seed=0, load=load, patience=0.5 if load is hang else 30.0)
    assert [(result.index, result.outcome) for result in results] == [(0, outcome), (1, outcome)]
    assert len(fuzzer.record(results, seed=0)["failures"]) == 2


def test_a_case_is_always_the_same(fuzzer: ModuleType) -> None:
    first = [fuzzer.case(3, index) for index in range(50)]
    assert first == [fuzzer.case(3, index) for index in range(50)]
    assert len({content for _, content in first}) > 40
