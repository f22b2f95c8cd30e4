"""Nobody else can write into the folder of the cache, or it is refused."""

import os
from pathlib import Path

import pytest

from dirprune.core.folders import cache_folder, make_cache_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["", "native"])
def test_made_for_the_user_alone_whatever_the_umask(name: str) -> None:
    before = os.umask(0)
    try:
        folder = make_cache_folder(name)
    finally:
        os.umask(before)
    assert folder == make_cache_folder(name) == cache_folder() / name
    assert [path.stat().st_mode & 0o777 for path in (folder, cache_folder())] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("changed", ["", "native"])
def test_one_that_others_can_write_is_refused(changed: str, mode: int) -> None:
    make_cache_folder("native")
    (cache_folder() / changed).chmod(mode)
    with pytest.raises(PermissionError, match=r"must belong to the user, and be writable by nobody else$"):
        make_cache_folder("native")


def test_one_that_others_can_only_read_is_taken() -> None:
    make_cache_folder().chmod(0o755)
    assert make_cache_folder().stat().st_mode & 0o777 == 0o755


def test_one_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache_folder()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(PermissionError, match="must belong to the user"):
        make_cache_folder()
