"""C code is compiled once, kept, and never half there."""

import concurrent.futures
import shutil

import pytest

from dirprune.core import native
from dirprune.core.native import load_native
from dirprune.errors import CompilerError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._identity.cache_clear()
    yield tmp_path / "cache" / "dirprune" / "native"
    native._identity.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "sum.c"
    path.write_text("int sum(int a, int b) { return a + b; }")
    return path


def test_compiled_once_and_again_when_anything_changes(source, folder, monkeypatch):
    assert load_native(source).sum(2, 3) == 5
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_native(source)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == first
    load_native(source, flags=("-DX",))
    source.write_text("int sum(int a, int b) { return a - b; }")
    assert load_native(source).sum(2, 3) == -1
    assert len(list(folder.iterdir())) == 3
    monkeypatch.setenv("CC", f"{shutil.which('cc')} -DY")
    load_native(source)
    assert len(list(folder.iterdir())) == 4


def test_faults_are_one_line_and_leave_nothing(source, folder, monkeypatch):
    source.write_text("int sum(int a) { return b; }")
    with pytest.raises(CompilerError, match=r"ended with code 1: .*error.*b.* undeclared"):
        load_native(source)
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="no C compiler by the name 'no-such-compiler'"):
        load_native(source)


def test_a_damaged_library_is_compiled_again(source, folder, tmp_path, monkeypatch):
    load_native(source)
    (whole,) = folder.iterdir()
    # Elsewhere, for this process has the whole one loaded and would not look again.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    path = tmp_path / "other" / folder.relative_to(tmp_path / "cache") / whole.name
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"damaged")
    assert load_native(source).sum(1, 2) == 3
    assert path.stat().st_size > 1000


def test_a_folder_that_others_can_write_is_refused(source, folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(CompilerError, match="can be written by others"):
        load_native(source)


def test_many_at_once(source, folder):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_native(source).sum(20, 22), range(4)))
    assert results == [42] * 4
    assert [path.suffix for path in folder.iterdir()] == [".so"]
