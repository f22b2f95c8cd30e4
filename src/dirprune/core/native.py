"""C and C++ code, compiled where it runs: once for each machine, source and compiler, and kept."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from dirprune.core.atomic import atomic_write
from dirprune.core.folders import make_cache_folder
from dirprune.errors import CompilerError

logger = logging.getLogger(__name__)

# By the suffix of the source: the language, the variable that names the compiler, and whom to ask without it.
_LANGUAGES = {
    ".c": ("c", "CC", ("cc", "gcc", "clang")),
    ".cpp": ("c++", "CXX", ("c++", "g++", "clang++")),
}
_FLAGS = ("-O3", "-fno-math-errno", "-fPIC", "-shared")
_SECONDS = 120


def load_native(source: Path, *, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compile a file of C or C++ with the system's compiler, or take an earlier result, and load it.

    The compiler is `$CC` for `.c` and `$CXX` for `.cpp`; where that is unset, `cc` or `c++`, or what else
    there is. The library lies in the folder `native` of :func:`dirprune.core.folders.cache_folder`, under a
    hash of the source, the flags, the compiler and, if flags are for this processor alone, the processor: a
    change of any of them compiles anew. It appears whole or not at all, however many processes compile it at
    once. Where others could write into the folder, or nobody can, each process compiles for itself.

    Args:
        source: The file; it includes system headers only.
        flags: More flags for the compiler.

    Returns:
        The library.

    Raises:
        CompilerError: There is no compiler, it fails, or what it makes cannot be loaded.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder) / "half.c"
        ...     _ = source.write_text("int half(int x) { return x / 2; }")
        ...     try:
        ...         result = load_native(source).half(42)
        ...     except CompilerError:  # this machine has none
        ...         result = 42 // 2
        >>> result
        21
    """
    language, variable, names = _LANGUAGES[source.suffix]
    compiler = _compiler(language, variable, names)
    command = [*compiler, *_FLAGS, *flags, "-x", language, "-"]
    content = source.read_bytes()
    key = hashlib.sha256(repr((command, _identity(compiler[0], flags))).encode() + b"\0" + content)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            library = (_trusted_folder() or Path(own)) / f"{source.stem}-{key.hexdigest()[:32]}.so"
            if library.is_file():
                try:
                    return ctypes.CDLL(str(library))
                except OSError as error:
                    logger.info("%s is damaged, so it is compiled again: %s", library, error)
            _compile(command, content, library)
            return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilerError(f"what {shlex.join(compiler)} makes cannot be kept or loaded: {error}") from error


def _compiler(language: str, variable: str, names: tuple[str, ...]) -> list[str]:
    """Return the compiler's path and the options that its variable has."""
    try:
        asked = shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise CompilerError(f"{variable} is no command ({error}): set another") from None
    for name in asked[:1] or names:
        if found := shutil.which(name):
            return [found, *asked[1:]]
    looked_for = ", ".join(asked[:1] or names)
    raise CompilerError(
        f"no {language.upper()} compiler is installed (looked for {looked_for}): "
        f"install gcc or clang, or set {variable}"
    )


def _identity(compiler: str, flags: tuple[str, ...]) -> tuple[object, ...]:
    """What decides the machine code beside source and command: the compiler's version, and the processor."""
    made = Path(compiler).stat()
    processor = ""
    if "-march=native" in flags:
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        except OSError:  # no Linux
            processor = platform.processor()
    return made.st_size, made.st_mtime_ns, platform.system(), platform.machine(), processor


def _trusted_folder() -> Path | None:
    """Make the folder of the code; None if it cannot be made or written, or others could write into it."""
    try:
        folder = make_cache_folder("native")
    except OSError as error:
        logger.info("compiled code is not kept: %s", error)
        return None
    if not os.access(folder, os.W_OK):
        logger.info("compiled code is not kept: %s cannot be written", folder)
        return None
    return folder


def _compile(command: list[str], source: bytes, library: Path) -> None:
    """Compile elsewhere, and put the result into its place at once."""
    compiler = command[0]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / library.name
        try:
            ended = subprocess.run(
                [*command, "-o", str(made), "-lm"],
                input=source,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CompilerError(f"{compiler} took more than {_SECONDS} s: set another compiler") from None
        if ended.returncode != 0:
            lines = ended.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            said = next((line for line in lines if "error" in line), lines[0])
            raise CompilerError(f"{compiler} failed: {said}")
        with atomic_write(library) as file:
            Path(file.name).chmod(0o600)  # whatever the umask, nobody else may change what is run
            file.write(made.read_bytes())
    logger.info("compiled %s with %s", library, compiler)
