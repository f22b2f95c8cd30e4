"""C and C++ code is compiled once, kept, and never half there."""

import concurrent.futures
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from dirprune.core.native import load_native
from dirprune.errors import CompilerError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dirprune" / "native"


@pytest.fixture
def source(tmp_path, compiler):
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


def test_c_and_cplusplus_by_the_suffix(source, folder):
    other = source.with_suffix(".cpp")
    other.write_text('struct Sum { int x; }; extern "C" int sum(int a, int b) { return Sum{a * b}.x; }')
    assert load_native(other).sum(2, 3) == 6
    assert load_native(source).sum(2, 3) == 5
    assert len(list(folder.iterdir())) == 2


def test_code_for_this_processor_alone_is_kept_apart_from_that_of_others(source, folder, monkeypatch):
    """As on a cluster whose machines share a home."""
    processors = iter(["flags: sse2", "flags: sse2 avx2"] * 2)
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda p: next(processors) if p == Path("/proc/cpuinfo") else read_text(p)
    )
    for flags, kept in ((), 1), (("-march=native",), 3):
        for _ in range(2):
            load_native(source, flags=flags)
        assert len(list(folder.iterdir())) == kept


def test_faults_are_one_line_and_leave_nothing(source, folder, tmp_path, monkeypatch):
    source.write_text("int sum(int a) { return b; }")
    with pytest.raises(CompilerError, match=r"^\S+cc failed: .*error.*b.* undeclared.*$"):
        load_native(source)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cannot compile today' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(CompilerError, match=f"^{broken} failed: cannot compile today$"):
        load_native(source)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match=r"^no C compiler .*\(looked for no-such-compiler\).* set CC$"):
        load_native(source)
    monkeypatch.setenv("CC", 'gcc "-O2')
    with pytest.raises(CompilerError, match=r"^CC is no command \(No closing quotation\)"):
        load_native(source)
    assert list(folder.iterdir()) == []


def test_a_temporary_folder_that_is_not_there_is_a_fault_of_the_compiler(source, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CompilerError, match=r"cannot be kept or loaded: .*gone"):
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


@pytest.mark.parametrize("umask", [0, 0o002, 0o022])
def test_nobody_else_may_change_what_is_kept(source, folder, umask):
    before = os.umask(umask)
    try:
        load_native(source)
    finally:
        os.umask(before)
    (library,) = folder.iterdir()
    assert [path.stat().st_mode & 0o022 for path in (library, folder, folder.parent)] == [0, 0, 0]


@pytest.mark.parametrize("mode", [0o770, 0o707])
@pytest.mark.parametrize("parent", [False, True])
def test_a_folder_that_others_can_write_is_not_used(source, folder, mode, parent):
    folder.mkdir(parents=True)
    changed = folder.parent if parent else folder
    changed.chmod(mode)
    assert load_native(source).sum(1, 2) == 3
    assert list(folder.iterdir()) == []


def test_without_a_folder_each_process_compiles_for_itself(source, folder):
    folder.parent.parent.write_text("a file where the cache would be")
    assert load_native(source).sum(1, 2) == 3


def test_many_at_once(source, folder):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_native(source).sum(20, 22), range(4)))
    assert results == [42] * 4
    assert [path.suffix for path in folder.iterdir()] == [".so"]
