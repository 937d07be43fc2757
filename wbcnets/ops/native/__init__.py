"""Loops in C++ behind some operators on processors: compiled once on the user's machine.

The sources use neither PyTorch's headers nor its binary interface, so that one second of any C++
compiler is all they need, and no release of PyTorch can break them. Without a compiler, or with
`WBCNETS_NATIVE=0`, operators take their forms in tensor operations.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["ENVIRONMENT_VARIABLE", "TYPES", "call", "load_library"]

ENVIRONMENT_VARIABLE = "WBCNETS_NATIVE"
TYPES = {torch.float32: "float32", torch.float64: "float64"}
Number = Any  # of ctypes, whose common base is private
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 120
# No -ffast-math: it would take NaN for a number, and change how the whole process rounds
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
# Compilers for x86 take half of a wide register otherwise; others do not know the flag
X86_FLAGS = ("-mprefer-vector-width=512",)

logger = logging.getLogger(__name__)


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """The compiled `NAME.cpp` of this folder, or None where it cannot be had.

    The first call on a machine compiles it into `WBCNETS_CACHE`, or `~/.cache/wbcnets`; the name of
    the file there holds a hash of source, compiler, flags and processor. Why there is none is
    logged once.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE, "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(_compiled(Path(__file__).with_name(f"{name}.cpp"))))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.warning(
            "The fast loops of %s are not available, slower tensor operations take their place; "
            "install a C++ compiler with OpenMP, or set %s=0 to leave this message out. %s",
            name,
            ENVIRONMENT_VARIABLE,
            reason,
        )
        return None


def call(library: ctypes.CDLL, name: str, tensors: Sequence[Tensor], *numbers: Number) -> None:
    """Runs a loop with as many threads as PyTorch takes.

    Args:
        library: What `load_library` returned.
        name: Of the function, without the type behind it.
        tensors: Contiguous, all of the first one's type, which is one of `TYPES`.
        numbers: What follows in the function's arguments; the threads come last.
    """
    function = getattr(library, f"{name}_{TYPES[tensors[0].dtype]}")
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    function(*pointers, *numbers, ctypes.c_int(torch.get_num_threads()))


def _compiled(source: Path) -> Path:
    compiler, flags = _find_compiler(), _flags()
    digest = hashlib.sha256(source.read_bytes())
    for part in (*flags, _first_line(compiler, "--version"), platform.machine(), _processor()):
        digest.update(part.encode())
    folder = _cache_folder()
    library = folder / f"{source.stem}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        _compile([compiler, *flags], source, library)
    return library


def _compile(command: list[str], source: Path, library: Path) -> None:
    # Under a name of its own first: several processes may compile at once
    descriptor, unfinished = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(descriptor)
    try:
        subprocess.run(
            [*command, str(source), "-o", unfinished],
            check=True,
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
        )
        os.chmod(unfinished, stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR)
        os.replace(unfinished, library)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _flags() -> tuple[str, ...]:
    return (*FLAGS, *X86_FLAGS) if platform.machine() in ("x86_64", "AMD64") else FLAGS


def _find_compiler() -> str:
    if sys.platform == "win32":
        raise RuntimeError("There is no build for Windows.")
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise RuntimeError(f"No C++ compiler was found: looked for CXX, {', '.join(COMPILERS)}.")


def _cache_folder() -> Path:
    """A folder that nobody else can write to, since what lies there is run."""
    chosen = os.environ.get("WBCNETS_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(cache) / "wbcnets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(
            f"{folder} belongs to or can be written by others; name a folder of your own in "
            "WBCNETS_CACHE."
        )
    return folder


def _first_line(*command: str) -> str:
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return finished.stdout.partition("\n")[0]


def _processor() -> str:
    """What tells processors of different instruction sets apart, that share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))
