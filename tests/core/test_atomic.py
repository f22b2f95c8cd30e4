"""atomic_write: the old file or the new one, never a part, and nothing left behind."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dirprune.core.atomic import atomic_write, write_json


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    return path


def test_what_json_does_not_know_leaves_the_old_file(target: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, [float("nan")])
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["file.bin"]


def test_writes_a_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new.bin") as file:
        file.write(b"new")
    assert (tmp_path / "new.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["new.bin"]


def test_replaces_an_old_file_only_at_the_end(target: Path) -> None:
    with atomic_write(str(target)) as file:
        file.write(b"a longer new content")
        file.flush()
        assert target.read_bytes() == b"old"
        assert Path(file.name).parent == target.parent
    assert target.read_bytes() == b"a longer new content"
    assert names(target.parent) == ["file.bin"]


@pytest.mark.parametrize(
    "raised", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_an_exception_in_the_block_leaves_the_old_file_and_no_temporary(
    target: Path, raised: BaseException
) -> None:
    def write() -> None:
        with atomic_write(target) as file:
            file.write(b"half")
            raise raised

    with pytest.raises(type(raised)) as caught:
        write()
    assert caught.value is raised
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["file.bin"]


def test_what_cannot_be_removed_does_not_hide_why(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, **_options: bool) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="the reason"), atomic_write(target):
        raise ValueError("the reason")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"), atomic_write(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["file.bin"]


def test_a_killed_writer_leaves_the_old_file_whole(target: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from dirprune.core.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert ended.returncode == -9
    assert target.read_bytes() == b"old"


def test_flushes_the_file_before_the_rename_and_the_folder_after(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        seen.append("folder" if stat.S_ISDIR(status.st_mode) else f"file of {status.st_size}")
        fsync(descriptor)

    def watched_replace(*paths: Path) -> None:
        seen.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    with atomic_write(target) as file:
        file.write(b"12345")
    assert seen == ["file of 5", "rename", "folder"]


def test_the_file_gets_the_mode_that_open_would_give(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(target: Path, tmp_path: Path) -> None:
    target.chmod(0o640)
    link = tmp_path / "latest"
    link.symlink_to(target.name)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"), atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_a_missing_folder_and_a_folder_as_target_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "file"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", ["nowhere/file.bin", "folder"])
def test_an_error_names_what_was_to_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=name) as caught, atomic_write(tmp_path / name) as file:
        file.write(b"x")
    assert caught.value.filename == str(tmp_path / name)
    assert names(tmp_path) == ["folder"]
