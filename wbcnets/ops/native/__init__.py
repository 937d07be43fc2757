"""C++ loops of some operators on CPUs, compiled once on the user's machine.

The sources use neither PyTorch's headers nor its binary interface: any C++ compiler builds them in
a second, and no release of PyTorch can break them. Without a compiler, or with
``WBCNETS_NATIVE=0``, the operators use tensor operations.
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

from wbcnets.io.atomic_files import sha256_of_file
from wbcnets.io.content_cache import cache_folder

__all__ = ["ENVIRONMENT_VARIABLE", "TYPES", "call", "load_library"]

ENVIRONMENT_VARIABLE = "WBCNETS_NATIVE"
# Types that every loop knows; some know others, too
TYPES = (torch.float32, torch.float64)
Number = Any  # a ctypes number; their common base class is private
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 120
# No -ffast-math: it would treat NaN as a number and change the rounding of the whole process
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
# x86 compilers otherwise use half of a wide register; other compilers reject the flag
X86_FLAGS = ("-mprefer-vector-width=512",)

logger = logging.getLogger(__name__)


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Returns the compiled ``NAME.cpp`` of this folder, or None if it is not available.

    The first call on a machine compiles it into ``WBCNETS_CACHE``, or ``~/.cache/wbcnets``, under a
    name with a hash of source, compiler, flags and processor, and the hash of its own bytes: a
    library that was cut short ends the process when it is loaded, or fails to load for ever. One
    that does not fit is compiled again. If that fails, the reason is logged once.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE, "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(_compiled(Path(__file__).with_name(f"{name}.cpp"))))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.warning(
            "The fast loops of %s are not available; slower tensor operations replace them. "
            "Install a C++ compiler with OpenMP, or set %s=0 to silence this message. %s",
            name,
            ENVIRONMENT_VARIABLE,
            reason,
        )
        return None


def call(library: ctypes.CDLL, name: str, tensors: Sequence[Tensor], *numbers: Number) -> None:
    """Runs a loop with as many threads as PyTorch uses.

    Args:
        library: Result of ``load_library``.
        name: Name of the function without its type suffix.
        tensors: Contiguous tensors; the type of the first one is the suffix.
        numbers: Further arguments of the function; the number of threads is added.
    """
    suffix = str(tensors[0].dtype).removeprefix("torch.")
    function = getattr(library, f"{name}_{suffix}")
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    function(*pointers, *numbers, ctypes.c_int(torch.get_num_threads()))


def _compiled(source: Path) -> Path:
    compiler, flags = _find_compiler(), _flags()
    digest = hashlib.sha256(source.read_bytes())
    for part in (*flags, _first_line(compiler, "--version"), platform.machine(), _processor()):
        digest.update(part.encode())
    name = f"{source.stem}-{digest.hexdigest()[:16]}"
    folder = cache_folder()
    return _find_whole(folder, name) or _compile([compiler, *flags], source, folder, name)


def _find_whole(folder: Path, name: str) -> Path | None:
    """Returns the compiled library whose bytes fit its name, and removes all others."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        if path.is_file() and path.name == _whole_name(name, path):
            return path
        logger.warning("%s: does not fit its checksum; it is compiled again", path)
        path.unlink(missing_ok=True)
    return None


def _whole_name(name: str, library: Path) -> str:
    return f"{name}-{sha256_of_file(library)[:32]}.so"


def _compile(command: list[str], source: Path, folder: Path, name: str) -> Path:
    # A folder of its own first: several processes may compile at the same time, and a compiler that
    # is stopped leaves its temporary files
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unfinished = Path(scratch) / f"{name}.so"
        subprocess.run(
            [*command, str(source), "-o", str(unfinished)],
            check=True,
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            env={**os.environ, "TMPDIR": scratch},
        )
        unfinished.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR)
        library = folder / _whole_name(name, unfinished)
        os.replace(unfinished, library)
    return library


def _flags() -> tuple[str, ...]:
    return (*FLAGS, *X86_FLAGS) if platform.machine() in ("x86_64", "AMD64") else FLAGS


def _find_compiler() -> str:
    if sys.platform == "win32":
        raise RuntimeError("Windows is not supported.")
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise RuntimeError(f"No C++ compiler was found: looked for CXX, {', '.join(COMPILERS)}.")


def _first_line(*command: str) -> str:
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return finished.stdout.partition("\n")[0]


def _processor() -> str:
    """Returns the processor's model and flags: home folders may serve several processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))
