"""Copies the images of a manifest into class folders."""

import re
from dataclasses import replace
from pathlib import Path

from wbcnets.data.cells.manifest import MANIFEST_NAME, CellImage, CellManifest, write_manifest
from wbcnets.io.atomic_files import copy_atomically, shorten_name


def copy_cells(manifest: CellManifest, output: Path) -> CellManifest:
    """Copies images byte by byte to ``output/images/[split/]class/`` and writes the manifest there.

    Folds share the class folders, so that the images of one class stay together.

    Returns:
        The manifest of the copies.
    """
    taken: set[str] = set()
    images = []
    folds = any(image.split.startswith("fold") for image in manifest.images)
    for image in manifest.images:
        split = "" if folds else image.split
        folders = [
            _folder_name(text) for text in (split, manifest.class_names[image.label]) if text
        ]
        file = _free_name("/".join(["images", *folders]), image, taken)
        target = output / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not target.samefile(manifest.path(image)):
            copy_atomically(manifest.path(image), target)
        images.append(replace(image, file=file))
    copied = replace(manifest, root=output, images=tuple(images))
    write_manifest(copied, output / MANIFEST_NAME)
    return copied


def _folder_name(text: str) -> str:
    """Returns a class or split as a folder name; a label in a table may hold any character."""
    return shorten_name(re.sub(r"[^\w .()+-]", "_", text).strip(". ") or "_")


def _free_name(folder: str, image: CellImage, taken: set[str]) -> str:
    name = Path(image.file).name
    # Some systems take names that differ only in case for one file
    if f"{folder}/{name}".casefold() in taken:
        name = shorten_name(f"{Path(name).stem}-{image.sha256[:12]}{Path(name).suffix}")
    taken.add(f"{folder}/{name}".casefold())
    return f"{folder}/{name}"
