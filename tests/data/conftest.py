"""Fixtures: a cache folder of our own, and each parquet data set in memory and on disk."""

from pathlib import Path

import datasets
import pytest
from image_sets import COUNTS, make_split

from dirprune.data import DATASETS, DatasetSpec


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(
    params=[name for name, spec in DATASETS.items() if spec.hub_name is not None and not spec.streamed]
)
def spec(request: pytest.FixtureRequest) -> DatasetSpec:
    """Every data set that is read into memory from parquet files."""
    return DATASETS[request.param]


@pytest.fixture
def hub(spec: DatasetSpec) -> datasets.DatasetDict:
    """What the hub would give."""
    return datasets.DatasetDict({split: make_split(spec, split)[2] for split in COUNTS})


@pytest.fixture
def folder(hub: datasets.DatasetDict, spec: DatasetSpec, tmp_path: Path) -> Path:
    """A folder with `<name>/train.parquet` and `<name>/test.parquet`."""
    (tmp_path / spec.name).mkdir()
    for split, rows in hub.items():
        rows.to_parquet(tmp_path / spec.name / f"{split}.parquet")
    return tmp_path
