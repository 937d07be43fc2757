"""Patches the sources of detectron2 0.5 for current libraries and packs them as a wheel."""

import base64
import fnmatch
import hashlib
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wbcnets.cli.install_detectron2.download import SHA256, InstallError

VERSION = "0.5"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
MARKER = "PATCHES"
OPERATORS = Path(__file__).with_name("operators.py")


@dataclass(frozen=True)
class Patch:
    """A change of text that detectron2 0.5 needs on current libraries.

    Args:
        files: A glob of paths inside the archive; ``*`` also matches ``/``.
        pattern: A regular expression of the text that no longer works.
        replacement: The new text, with the group references of ``re.sub``.
        reason: The change in a library that broke it.
    """

    files: str
    pattern: str
    replacement: str
    reason: str


NUMPY = "NumPy 1.24 removed its names for Python's types"
PILLOW = "Pillow 10 removed this name of BILINEAR"
SETUPTOOLS = "setuptools 82 removed pkg_resources"
NO_GPU = "0.6 launches processes without a GPU over gloo, 0.5 refuses"
MODEL_ZOO = "detectron2/model_zoo/model_zoo.py"
LAUNCH = "detectron2/engine/launch.py"
PATCHES = (
    Patch("detectron2/*.py", r"\bnp\.(bool|int|float|object|str)\b", r"\1", NUMPY),
    Patch("detectron2/data/*.py", r"\bImage\.LINEAR\b", "Image.BILINEAR", PILLOW),
    Patch(MODEL_ZOO, r"(?m)^import pkg_resources\n", "", SETUPTOOLS),
    Patch(
        MODEL_ZOO,
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo",\s*',
        "os.path.join(os.path.dirname(os.path.abspath(__file__)), ",
        SETUPTOOLS,
    ),
    Patch(LAUNCH, r"(?m)^    assert torch\.cuda\.is_available\(\).*\n", "", NO_GPU),
    Patch(LAUNCH, '"NCCL"', '"NCCL" if torch.cuda.is_available() else "GLOO"', NO_GPU),
    Patch(
        LAUNCH,
        r"(?m)^    (assert .*torch\.cuda\.device_count\(\)\n)    (torch\.cuda\.set_device\(.*\n)",
        r"    if torch.cuda.is_available():\n        \1        \2",
        NO_GPU,
    ),
)


def read_sources(archive: Path) -> dict[str, bytes]:
    """Returns the package, its configs and the license: path inside the wheel -> content.

    Nothing is written to disk.
    """
    sources: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            target = wheel_path(member.name)
            handle = tar.extractfile(member) if target and member.isreg() else None
            if target and handle:
                sources[target] = handle.read()
    return sources


def wheel_path(member: str) -> str | None:
    """Returns the path in the wheel for a path in the archive, or None to leave it out."""
    parts = PurePosixPath(member).parts[1:]
    if not parts or ".." in parts:
        return None
    inside = "/".join(parts)
    if inside == "LICENSE":
        return f"{DIST_INFO}/licenses/LICENSE"
    return inside if parts[0] == "detectron2" and len(parts) > 1 else None


def apply_patches(
    sources: Mapping[str, bytes], patches: Sequence[Patch] = PATCHES
) -> dict[str, bytes]:
    """Returns the sources with every patch applied.

    Raises:
        InstallError: if patches changed nothing; all are listed.
    """
    patched = dict(sources)
    problems = []
    for patch in patches:
        count = 0
        for path in fnmatch.filter(sources, patch.files):
            text = patched[path].decode("utf-8")
            text, replaced = re.subn(patch.pattern, patch.replacement, text)
            patched[path] = text.encode("utf-8")
            count += replaced
        if count == 0:
            problems.append(f"{patch.files}: nothing matches {patch.pattern!r} ({patch.reason})")
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise InstallError(f"the archive is not the one that the patches are for:\n{listed}")
    return patched


def recipe_digest() -> str:
    """Returns a hash of the patches; the wheel keeps it, so that an outdated one is replaced."""
    return hashlib.sha256(repr((SHA256, PATCHES, OPERATORS.read_text())).encode()).hexdigest()


def write_wheel(sources: Mapping[str, bytes], directory: Path) -> Path:
    """Writes a pure-Python wheel into an existing folder; returns its path.

    It lists no requirements: current releases do not meet the pins of 0.5. The extra [detection]
    of wbcnets has those that work.

    Args:
        sources: Path inside the wheel -> content.
        directory: The folder.
    """
    files = {
        **sources,
        "detectron2/_C.py": OPERATORS.read_bytes(),
        f"{DIST_INFO}/{MARKER}": recipe_digest().encode(),
        f"{DIST_INFO}/METADATA": (
            f"Metadata-Version: 2.1\nName: detectron2\nVersion: {VERSION}\n"
            "Summary: Detectron2 without its compiled operators, patched for current libraries\n"
            "License: Apache 2.0\n"
        ).encode(),
        f"{DIST_INFO}/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: install_detectron2\n"
            b"Root-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = [f"{path},{record_hash(content)},{len(content)}" for path, content in files.items()]
    files[f"{DIST_INFO}/RECORD"] = "\n".join([*record, f"{DIST_INFO}/RECORD,,\n"]).encode()
    wheel = directory / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as target:
        for path, content in files.items():
            # With zip's first date: that of a clock in 1970 would be an error
            target.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    return wheel


def record_hash(content: bytes) -> str:
    """Returns the hash of a file for a wheel's RECORD: URL-safe base64 without padding."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode()
