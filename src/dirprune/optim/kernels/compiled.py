"""grda.cpp, compiled once with the system's compiler, kept, and loaded."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import torch

from dirprune.core.folders import cache_folder
from dirprune.optim.kernels import UnavailableError

logger = logging.getLogger(__name__)

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    "-O3",
    "-ffp-contract=off",  # every rounding is written in the source
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fPIC",
    "-shared",
)
# The instructions that torch itself uses on this processor, so that results agree and a shared home is safe.
_INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"),
}
_TIME_LIMIT = 60  # seconds for the compiler, which needs one

_Pointer, _Count, _Real = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_double
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "has_float16": (ctypes.c_int, ()),
    "alike": (_Count, (_Pointer, _Count, _Count)),
    "advance": (None, (_Pointer, _Count, _Count, _Count, _Real)),
    "grda": (
        None,
        (_Pointer, _Count, *[_Real] * 4, *[ctypes.c_int] * 2, _Count, ctypes.c_uint, _Pointer),
    ),
}


@cache
def library() -> ctypes.CDLL:
    """Return the compiled kernel, compiling it if no earlier process has.

    Raises:
        UnavailableError: No compiler, or none that makes it.
    """
    source = resources.files(__package__).joinpath("grda.cpp").read_bytes()
    compiler = _compiler()
    capability = torch.backends.cpu.get_cpu_capability()
    flags = (
        *_FLAGS,
        *_INSTRUCTIONS.get(capability, ()),
        f"-DFUSED_MULTIPLY_ADD={int(_torch_multiplies_and_adds_at_once())}",
    )
    made_by = compiler.stat()
    parts = (
        platform.machine(),
        platform.system(),
        str(compiler),
        made_by.st_size,
        made_by.st_mtime_ns,
        flags,
    )
    key = hashlib.sha256(repr(parts).encode() + source).hexdigest()[:32]
    with tempfile.TemporaryDirectory() as temporary:
        folder = _trusted(cache_folder() / "kernels") or Path(temporary)
        path = folder / f"grda-{key}.so"
        if not path.is_file():
            _compile([str(compiler), *flags], source, path)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # a damaged file
            _compile([str(compiler), *flags], source, path)
            loaded = _load(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _load(path: Path) -> ctypes.CDLL:
    """Load what was just compiled."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be loaded: {error}") from error


def _compiler() -> Path:
    """Find the system's C++ compiler."""
    for name in (os.environ.get("CXX", ""), *_COMPILERS):
        if name and (found := shutil.which(name)):
            return Path(found).resolve()
    raise UnavailableError(f"no C++ compiler is installed (looked for {', '.join(_COMPILERS)})")


def _trusted(folder: Path) -> Path | None:
    """Make the folder of the cache; None if it cannot be made, or if others could put code into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = [folder.stat(), folder.parent.stat()]
    except OSError:
        return None
    others_write = any(each.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for each in held)
    mine = not hasattr(os, "getuid") or all(each.st_uid == os.getuid() for each in held)
    return folder if mine and not others_write and os.access(folder, os.W_OK) else None


def _compile(command: list[str], source: bytes, path: Path) -> None:
    """Compile to a file that appears whole or not at all, however many processes do it at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".grda-", suffix=".tmp")
    os.close(handle)
    try:
        ended = subprocess.run(
            [*command, "-x", "c++", "-", "-o", temporary],
            input=source,
            capture_output=True,
            timeout=_TIME_LIMIT,
            check=False,
        )
        if ended.returncode != 0:
            complaint = ended.stderr.decode(errors="replace").strip().splitlines()
            raise UnavailableError(f"{command[0]} failed: {complaint[0] if complaint else ended.returncode}")
        Path(temporary).replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]} failed: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    logger.info("compiled the CPU kernel of GRDA with %s into %s", command[0], path)


def _torch_multiplies_and_adds_at_once() -> bool:
    """Whether torch rounds a + alpha b once: (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24, or 0 if rounded twice."""
    b = torch.full((64,), 1 + 2**-12, dtype=torch.float32, device="cpu")
    a = torch.full((64,), -(1 + 2**-11), dtype=torch.float32, device="cpu")
    return bool((a.add(b, alpha=1 + 2**-12) != 0).all())


def _find_parallel() -> int | None:
    """Address of the OpenMP function that torch's own threads run on; None where there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


parallel = cache(_find_parallel)
_threads: Callable[[], int] = torch.get_num_threads


def threads() -> int:
    """How many threads a step may use: torch's number; one in a forked child, which has lost the others."""
    return _threads()


def _one_thread_after_a_fork() -> None:
    global _threads  # noqa: PLW0603
    _threads = lambda: 1  # noqa: E731


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_after_a_fork)
