"""grda.cpp as a library, and the threads that it runs on."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from dirprune.core.native import load_native
from dirprune.errors import CompilerError
from dirprune.optim.kernels import UnavailableError

_FLAGS = (
    "-ffp-contract=off",  # every rounding is written in the source
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
)
# The instructions that torch itself uses on this processor, so that results agree and a shared home is safe.
_INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"),
}

_Pointer, _Count, _Real = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_double
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "has_float16": (ctypes.c_int, ()),
    "runs": (_Count, (_Pointer, _Count, _Pointer)),
    "grda": (
        None,
        (
            _Pointer,
            _Count,
            _Pointer,
            _Count,
            *[_Real] * 4,
            *[ctypes.c_int] * 3,
            _Count,
            ctypes.c_uint,
            _Pointer,
        ),
    ),
}


@cache
def library() -> ctypes.CDLL:
    """Return the compiled kernel, compiling it if no earlier process has.

    Raises:
        UnavailableError: No compiler, or none that makes it.
    """
    instructions = _INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    multiply_add = f"-DFUSED_MULTIPLY_ADD={int(_torch_multiplies_and_adds_at_once())}"
    try:
        loaded = load_native(
            Path(__file__).with_name("grda.cpp"), flags=(*_FLAGS, *instructions, multiply_add)
        )
    except CompilerError as error:
        raise UnavailableError(str(error)) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


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
