"""Fetches the pinned source archive of detectron2 from the indexes that pip is configured for."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wbcnets.errors import WbcnetsError
from wbcnets.io.atomic_files import sha256_of_file

if TYPE_CHECKING:
    from unearth import PackageFinder

REQUIREMENT = "detectron2-cdo==0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
WAYS_OUT = f"""\
Ways out:
  - on a machine with a network, download the source archive of {REQUIREMENT} from the package
    index (sha256 {SHA256}), copy it here, and run
        wbcnets install-detectron2 --sdist FILE
  - name a package mirror that this machine reaches (PIP_INDEX_URL, or `pip config set
    global.index-url URL`) and run this command again
  - use a conda environment: conda install -c conda-forge detectron2
  - install detectron2 0.6 or later by the guide in its own repository (it compiles C++ code)"""


class InstallError(WbcnetsError):
    """The installation cannot continue; the message says why and what to do."""


def parse_pip_config(listing: str) -> dict[str, str]:
    """Returns the options of ``pip config list``, such as "index-url", with their values.

    The environment beats [install], which beats [global]. Lists are separated by white space.
    """
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            key, separator, text = line.partition("=")
            if separator and key.startswith(section):
                settings[key.removeprefix(section)] = str(ast.literal_eval(text))
    return settings


def read_pip_settings() -> dict[str, str]:
    """Returns pip's options from its files and the PIP_* variables.

    Raises:
        InstallError: if this Python has no pip.
    """
    command = [sys.executable, "-m", "pip", "--no-color", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        raise InstallError(
            f"`{' '.join(command)}` failed: {listed.stderr.strip()}\n"
            "This Python needs pip: python -m ensurepip"
        )
    return parse_pip_config(listed.stdout)


def make_finder(settings: Mapping[str, str]) -> "PackageFinder":
    """Returns a finder that searches the indexes pip would search, PyPI by default.

    Args:
        settings: pip's options, see ``parse_pip_config``.

    Raises:
        InstallError: if unearth is missing, or pip may not use an index.
    """
    try:
        from unearth import PackageFinder
    except ModuleNotFoundError as error:
        raise InstallError(f"{error}; run: pip install 'wbcnets[detection]'\n{WAYS_OUT}") from error
    for option, variable in (("cert", "SSL_CERT_FILE"), ("proxy", "HTTPS_PROXY")):
        if option in settings:
            os.environ.setdefault(variable, settings[option])
    names = [REQUIREMENT.partition("==")[0]]
    find_links = settings.get("find-links", "").split()
    trusted_hosts = settings.get("trusted-host", "").split()
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        if not find_links:
            raise InstallError(f"pip is configured to use no index (no-index).\n{WAYS_OUT}")
        return PackageFinder(find_links=find_links, trusted_hosts=trusted_hosts, no_binary=names)
    # unearth uses its default index only if no source is given here: the others are added later
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
    """Downloads the source archive from the configured indexes; returns its path, not yet checked.

    Args:
        settings: pip's options, see ``parse_pip_config``.
        directory: An existing folder for the file.

    Raises:
        InstallError: if no index can be reached, or none has the archive.
    """
    finder = make_finder(settings)
    searched = ", ".join(without_password(source["url"]) for source in finder.sources)
    try:
        best = finder.find_best_match(REQUIREMENT).best
        if best is not None:
            archive = directory / best.link.filename
            with finder.session.get_stream(best.link.normalized) as response:
                response.raise_for_status()
                archive.write_bytes(b"".join(response.iter_bytes()))
            return archive
    # unearth's releases use different HTTP clients, whose exceptions share no base class
    except Exception as error:
        raise InstallError(
            f"{REQUIREMENT} could not be downloaded ({type(error).__name__}: {error}); "
            f"searched: {searched}\n{WAYS_OUT}"
        ) from error
    raise InstallError(f"{REQUIREMENT} was not found; searched: {searched}\n{WAYS_OUT}")


def without_password(url: str) -> str:
    """Returns an index URL with its credentials hidden."""
    return re.sub(r"//[^/@]+@", "//****@", url)


def check_hash(archive: Path) -> None:
    """Compares a file with the pinned SHA-256.

    Raises:
        InstallError: if the file cannot be read, or is another one.
    """
    try:
        if not archive.is_file():  # a pipe or a device would be read without end
            raise FileNotFoundError("there is no such file")
        found = sha256_of_file(archive)
    except OSError as error:
        raise InstallError(f"{archive} cannot be read: {error}\n{WAYS_OUT}") from error
    if found != SHA256:
        raise InstallError(
            f"{archive.name} has sha256 {found}, expected {SHA256}: it is damaged, or not the "
            f"archive that this project is tested with. Nothing was unpacked.\n{WAYS_OUT}"
        )
