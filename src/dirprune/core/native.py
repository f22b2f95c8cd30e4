"""C code, compiled where it runs: once for each machine, source and compiler, kept in the user's cache."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from dirprune.errors import CompilerError

_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
_SECONDS = 300


def load_native(source: Path, *, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compile a C file with the system's compiler, or take the result of an earlier time, and load it.

    The compiler is `$CC`, else `cc`. The library lies in `$XDG_CACHE_HOME/dirprune/native` (`~/.cache` where
    the variable is unset), under a hash of the source, the flags, the compiler and the processor, so that a
    change of any of them compiles anew. Processes that compile at the same time do not disturb each other.

    Args:
        source: The C file; it includes system headers only.
        flags: More flags for the compiler.

    Returns:
        The library.

    Raises:
        CompilerError: There is no compiler, it fails, or the cache folder cannot be used.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder) / "half.c"
        ...     _ = source.write_text("int half(int x) { return x / 2; }")
        ...     load_native(source).half(42)
        21
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    content = source.read_bytes()
    key = hashlib.sha256()
    for part in (content, " ".join((*_FLAGS, *flags)).encode(), _identity(tuple(compiler)).encode()):
        key.update(len(part).to_bytes(8, "little") + part)
    try:
        library = _folder() / f"{source.stem}-{key.hexdigest()[:32]}.so"
        if library.is_file():
            with contextlib.suppress(OSError):  # a power cut may have left it damaged
                return ctypes.CDLL(str(library))
        _compile([*compiler, *_FLAGS, *flags], content, library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilerError(f"cannot keep or load compiled code in the cache: {error}") from error


def _folder() -> Path:
    """The cache folder, which only its owner may write: what lies in it is run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dirprune" / "native"  # noqa: PTH111
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise CompilerError(
            f"{folder} belongs to or can be written by others, and code in it is run: "
            "set XDG_CACHE_HOME to a folder of your own"
        )
    return folder


@cache
def _identity(compiler: tuple[str, ...]) -> str:
    """What decides the machine code beside source and flags: the compiler and the processor."""
    if shutil.which(compiler[0]) is None:
        raise CompilerError(
            f"no C compiler by the name {compiler[0]!r}: install one (gcc or clang), or set CC"
        )
    asked = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    return f"{shlex.join(compiler)}\n{asked.stdout}\n{platform.machine()}\n{processor}"


def _compile(command: list[str], source: bytes, library: Path) -> None:
    """Compile into a temporary file of the same folder and rename it."""
    handle, name = tempfile.mkstemp(suffix=".tmp", prefix=".dirprune-", dir=library.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        done = subprocess.run(
            [*command, "-x", "c", "-", "-o", name, "-lm"],
            input=source,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            first = next((x for x in done.stderr.decode(errors="replace").splitlines() if "error" in x), "")
            raise CompilerError(
                f"{shlex.join(command)} ended with code {done.returncode}: {first or 'no message'}"
            )
        temporary.chmod(0o700)
        temporary.replace(library)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{shlex.join(command)} took more than {_SECONDS} s: set CC to another") from None
    finally:
        temporary.unlink(missing_ok=True)
