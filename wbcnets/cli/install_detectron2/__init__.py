"""Installs Detectron2 for this Python: keeps the one it has, else builds 0.5 in pure Python.

Examples:
  wbcnets install-detectron2
  wbcnets install-detectron2 --sdist detectron2-cdo-0.5.tar.gz      without a network
  wbcnets install-detectron2 --force                                replace a broken one

The package index has no detectron2 under its own name. An installation from conda-forge, or by
detectron2's own guide, is kept as it is. Otherwise this command downloads the source archive
detectron2-cdo 0.5 from the index that pip is configured for, compares it with a pinned SHA-256,
patches it for current NumPy, Pillow and setuptools, and installs it as a wheel without the compiled
operators, which mfds_detr does not use. detectron2 is under the Apache License 2.0; its license is
in the wheel.
"""

import argparse
import importlib
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

from wbcnets.cli.install_detectron2.download import (
    InstallError,
    check_hash,
    fetch_sdist,
    read_pip_settings,
)
from wbcnets.cli.install_detectron2.wheel import (
    MARKER,
    PATCHES,
    VERSION,
    apply_patches,
    read_sources,
    recipe_digest,
    write_wheel,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``wbcnets install-detectron2``."""
    add = parser.add_argument
    add("--sdist", type=Path, metavar="FILE", help="use this source archive, not the index")
    add("--force", action="store_true", help="replace the detectron2 that is installed")
    add("--dry-run", action="store_true", help="do everything but the installation")


def run(args: argparse.Namespace) -> int:
    """Installs, and prints what was done.

    Raises:
        InstallError: if detectron2 cannot be downloaded, patched or installed.
    """
    print(install(args.sdist, args.force, args.dry_run))
    return 0


def installed_version() -> str | None:
    """Returns the version of detectron2 that this Python imports, or None.

    Raises:
        InstallError: if there is one and it does not import.
    """
    try:
        module = importlib.import_module("detectron2")
    except Exception as error:  # a broken build may raise anything while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
            return None
        raise InstallError(
            f"detectron2 is installed for {sys.executable} but does not import "
            f"({type(error).__name__}: {error}). Repair it, or replace it with the pure-Python "
            f"version {VERSION}: wbcnets install-detectron2 --force"
        ) from error
    # An empty folder of that name imports as a namespace package, without a version
    return getattr(module, "__version__", None)


def is_outdated() -> bool:
    """Returns whether an earlier version of this command built the installed detectron2."""
    try:
        marker = importlib.metadata.distribution("detectron2").read_text(MARKER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return marker is not None and marker != recipe_digest()


def pip_install(wheel: Path) -> None:
    """Installs the wheel for this Python, without dependencies.

    Raises:
        InstallError: if pip fails; the message quotes it.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--force-reinstall", str(wheel)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise InstallError(f"pip could not install {wheel.name}:\n{done.stderr.strip()}")


def install(sdist: Path | None, force: bool, dry_run: bool) -> str:
    """Installs detectron2 unless a current one is installed; returns one line on what was done.

    Args:
        sdist: A local source archive to use instead of the index.
        force: Install even if a detectron2 is installed.
        dry_run: Stop before pip changes anything.

    Raises:
        InstallError: if detectron2 cannot be downloaded, patched or installed.
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
