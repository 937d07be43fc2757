"""Give the running interpreter a detectron2: keep the one it has, else build 0.5 in pure Python.

Detectron2 is not published on the package index under its own name. An installation that is there
(from conda-forge, or made by detectron2's own guide) is kept as it is. Otherwise the source archive
`detectron2-cdo` 0.5 is fetched from the index that pip is configured for, compared with a pinned
SHA-256, patched for today's NumPy, Pillow and setuptools, and installed as a wheel without the
compiled operators, which this project does not use. detectron2 is under the Apache License 2.0;
its license text goes into the wheel.
"""

import argparse
import ast
import base64
import fnmatch
import hashlib
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unearth import PackageFinder

REQUIREMENT = "detectron2-cdo==0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
VERSION = "0.5"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
MARKER = "PATCHES"
OPERATORS = Path(__file__).with_name("detectron2_operators.py")
WAYS_OUT = f"""\
Ways out:
  - on a machine with a network, fetch the source archive of {REQUIREMENT} from the package index
    (sha256 {SHA256}), copy it here, and run
        python tools/install_detectron2.py --sdist FILE
  - name a package mirror that this machine reaches (PIP_INDEX_URL, or `pip config set
    global.index-url URL`) and run this command again
  - use a conda environment: conda install -c conda-forge detectron2
  - install detectron2 0.6 or later by the guide in its own repository (it compiles C++ code)"""


class InstallError(Exception):
    """The installation cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Patch:
    """One textual change that detectron2 0.5 needs on current libraries.

    Args:
        files: Glob over the paths inside the archive; `*` also matches `/`.
        pattern: Regular expression of what no longer works.
        replacement: What takes its place, with `re.sub`'s group references.
        reason: Why the change is needed.
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


def parse_pip_config(listing: str) -> dict[str, str]:
    """Reads the output of `pip config list`; environment beats [install] beats [global].

    Returns:
        Option, such as `index-url`, -> value; lists are separated by white space.
    """
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            key, separator, text = line.partition("=")
            if separator and key.startswith(section):
                settings[key.removeprefix(section)] = str(ast.literal_eval(text))
    return settings


def read_pip_settings() -> dict[str, str]:
    """Asks pip for its configuration, files and PIP_* variables together."""
    command = [sys.executable, "-m", "pip", "--no-color", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        raise InstallError(
            f"`{' '.join(command)}` failed: {listed.stderr.strip()}\n"
            "This interpreter needs pip: python -m ensurepip"
        )
    return parse_pip_config(listed.stdout)


def make_finder(settings: Mapping[str, str]) -> "PackageFinder":
    """Makes a finder that asks the indexes pip would ask, unearth's default one if none is named.

    Args:
        settings: pip's options, see `parse_pip_config`.

    Raises:
        InstallError: unearth is missing, or pip may ask no index.
    """
    try:
        from unearth import PackageFinder
    except ModuleNotFoundError as error:
        raise InstallError(
            f"{error}: `pip install unearth`, a part of the [detection] extra.\n{WAYS_OUT}"
        ) from error
    for option, variable in (("cert", "SSL_CERT_FILE"), ("proxy", "HTTPS_PROXY")):
        if option in settings:
            os.environ.setdefault(variable, settings[option])
    names = [REQUIREMENT.partition("==")[0]]
    find_links = settings.get("find-links", "").split()
    trusted_hosts = settings.get("trusted-host", "").split()
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        if not find_links:
            raise InstallError(f"pip is configured to ask no index (no-index).\n{WAYS_OUT}")
        return PackageFinder(find_links=find_links, trusted_hosts=trusted_hosts, no_binary=names)
    # The default index is taken only when no source is given here, so the others follow after.
    finder = PackageFinder(
        index_urls=settings.get("index-url", "").split(),
        trusted_hosts=trusted_hosts,
        no_binary=names,
    )
    for url in settings.get("extra-index-url", "").split():
        finder.add_index_url(url)
    for link in find_links:
        finder.add_find_links(link)
    return finder


def fetch_sdist(settings: Mapping[str, str], directory: Path) -> Path:
    """Finds the source archive on the configured indexes and downloads it.

    Args:
        settings: pip's options, see `parse_pip_config`.
        directory: Existing directory for the file.

    Returns:
        Path of the downloaded archive, not yet checked.

    Raises:
        InstallError: No index could be reached, or none has the archive.
    """
    finder = make_finder(settings)
    asked = ", ".join(without_password(source["url"]) for source in finder.sources)
    try:
        best = finder.find_best_match(REQUIREMENT).best
        if best is not None:
            archive = directory / best.link.filename
            with finder.session.get_stream(best.link.normalized) as response:
                response.raise_for_status()
                archive.write_bytes(b"".join(response.iter_bytes()))
            return archive
    # unearth changed its HTTP client between releases, and their exceptions share no base class.
    except Exception as error:
        raise InstallError(
            f"{REQUIREMENT} could not be downloaded ({type(error).__name__}: {error}); "
            f"asked: {asked}\n{WAYS_OUT}"
        ) from error
    raise InstallError(f"{REQUIREMENT} was not found; asked: {asked}\n{WAYS_OUT}")


def without_password(url: str) -> str:
    """Hides the credentials of an index URL before it is shown."""
    return re.sub(r"//[^/@]+@", "//****@", url)


def check_hash(archive: Path) -> None:
    """Compares the file with the pinned SHA-256.

    Raises:
        InstallError: The file cannot be read, or is another one.
    """
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"{archive} cannot be read: {error}\n{WAYS_OUT}") from error
    if found != SHA256:
        raise InstallError(
            f"{archive.name} has sha256 {found}, expected {SHA256}: it is damaged, or not the "
            f"archive that this project was tested with. Nothing was unpacked.\n{WAYS_OUT}"
        )


def read_sources(archive: Path) -> dict[str, bytes]:
    """Reads what the wheel needs out of the archive, without writing anything to disk.

    Returns:
        Path inside the wheel -> content: the package, its configs, and the license text.
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
    """Maps a path of the archive to its place in the wheel, None for what stays out."""
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
    """Applies every patch to the files it names.

    Raises:
        InstallError: Mends that changed nothing, all of them listed.
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
        raise InstallError(f"The archive is not what the patches were written for:\n{listed}")
    return patched


def recipe_digest() -> str:
    """Names this version of the patches; kept in the wheel so that an outdated one is renewed."""
    return hashlib.sha256(repr((SHA256, PATCHES, OPERATORS.read_text())).encode()).hexdigest()


def write_wheel(sources: Mapping[str, bytes], directory: Path) -> Path:
    """Writes the sources as a pure-Python wheel.

    Args:
        sources: Path inside the wheel -> content.
        directory: Existing directory for the wheel.

    Returns:
        Path of the wheel. It lists no requirements: wbcnets' [detection] extra holds them, since
        the pins of 0.5 cannot be met by current releases.
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
    record.append(f"{DIST_INFO}/RECORD,,")
    wheel = directory / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for path, content in files.items():
            target.writestr(path, content)
        target.writestr(f"{DIST_INFO}/RECORD", "\n".join(record) + "\n")
    return wheel


def record_hash(content: bytes) -> str:
    """The hash of a file as a wheel's RECORD wants it: URL-safe base64 without padding."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode()


def installed_version() -> str | None:
    """The version of the detectron2 that this interpreter imports, None when there is none.

    Raises:
        InstallError: There is one, and it does not import.
    """
    try:
        module = importlib.import_module("detectron2")
    # A broken build may raise anything while it is imported.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
            return None
        raise InstallError(
            f"detectron2 is installed for {sys.executable} but does not import "
            f"({type(error).__name__}: {error}). Repair it, or replace it by the pure-Python "
            f"version {VERSION}: python tools/install_detectron2.py --force"
        ) from error
    # A mere folder of that name imports as a namespace package, without a version.
    return getattr(module, "__version__", None)


def is_outdated() -> bool:
    """Whether the installed detectron2 was made by an earlier version of this command."""
    try:
        marker = importlib.metadata.distribution("detectron2").read_text(MARKER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return marker is not None and marker != recipe_digest()


def pip_install(wheel: Path) -> None:
    """Installs the wheel for the running interpreter, nothing else with it.

    Raises:
        InstallError: pip refused; its own words are in the text.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--force-reinstall", str(wheel)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise InstallError(f"pip could not install {wheel.name}:\n{done.stderr.strip()}")


def install(sdist: Path | None, force: bool, dry_run: bool) -> str:
    """Does what the command line asks for.

    Args:
        sdist: A local source archive to use instead of the index.
        force: Install even if a detectron2 is there.
        dry_run: Stop before pip changes anything.

    Returns:
        One line that says what was done.
    """
    version = None if force else installed_version()
    if version is not None and not is_outdated():
        return f"detectron2 {version} is installed and is kept"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        archive = sdist or fetch_sdist(read_pip_settings(), directory)
        check_hash(archive)
        wheel = write_wheel(apply_patches(read_sources(archive)), directory)
        if dry_run:
            return f"{archive.name} is the pinned archive and all patches apply; nothing installed"
        pip_install(wheel)
    return f"detectron2 {VERSION} (pure Python, {len(PATCHES)} patches) installed into {sys.prefix}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sdist", type=Path, metavar="FILE", help="a source archive on this disk")
    parser.add_argument("--force", action="store_true", help="replace a detectron2 that is there")
    parser.add_argument("--dry-run", action="store_true", help="do all but the installation")
    options = parser.parse_args(arguments)
    try:
        print(install(options.sdist, options.force, options.dry_run))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
