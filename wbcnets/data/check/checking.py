"""Reads every set with the reader that training uses, then searches for leaks between sets."""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wbcnets.data.cards.classes import ClassTable, explain_class_name, normalize_name
from wbcnets.data.cards.paths import DATASET_NAMES, dataset_paths, dataset_root
from wbcnets.data.cells.checks import CellReport, CheckedCells, check_cells, fingerprint_manifest
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.cells.manifest import read_manifest, verify_hashes
from wbcnets.data.check.formats import FoundSet, find_sets
from wbcnets.data.check.repair import FIX_COMMAND, write_repaired
from wbcnets.data.check.results import CheckResult, SetResult
from wbcnets.data.detection.box_checks import Policy
from wbcnets.data.detection.coco import load_coco
from wbcnets.data.detection.dataset import CocoDataset
from wbcnets.data.detection.labelme import load_labelme
from wbcnets.data.detection.voc import load_voc
from wbcnets.data.detection.yolo import load_yolo
from wbcnets.data.duplicates.leaks import (
    Leak,
    SideImage,
    cell_sides,
    describe_leaks,
    find_leaks,
    smear_sides,
)
from wbcnets.errors import ConfigError, DataError
from wbcnets.io.archives import unpacked
from wbcnets.io.image_files import IMAGE_SUFFIXES, find_image_files
from wbcnets.io.outputs import check_folder


@dataclass(frozen=True)
class CheckOptions:
    """Options of a check.

    Args:
        images: Folder of the images of all sets; searched beside the annotations by default.
        format: One of ``wbcnets.data.check.formats.FORMATS``; detected by default.
        class_names: The classes; those of the set by default.
        policy: How far readers go with faulty items, see
            ``wbcnets.data.detection.box_checks.Policy``. Faulty images of cells are problems,
            except with "skip".
        voc_origin: See ``wbcnets.data.detection.voc.load_voc``.
        strict: Whether repairs, drops and notes are problems too.
        leaks: Whether to search for images that two sets or splits share.
        group_pattern: Regular expression with a part ``(?P<group>...)``, the patient or slide, in
            the names of the files.

    Raises:
        ConfigError: if a class is named twice, or its name cannot be used.
    """

    images: Path | None = None
    format: str = ""
    class_names: tuple[str, ...] = ()
    policy: Policy = "drop"
    voc_origin: Literal["auto", 0, 1] = "auto"
    strict: bool = False
    leaks: bool = True
    group_pattern: str = ""

    def __post_init__(self) -> None:
        odd = [problem for problem in map(explain_class_name, self.class_names) if problem]
        if odd:
            raise ConfigError(odd[0], setting="class_names")
        table = Counter(map(normalize_name, self.class_names))
        twice = [name for name in self.class_names if table[normalize_name(name)] > 1]
        if twice:
            raise ConfigError(
                f"the classes {', '.join(twice)} are the same; name each class once",
                setting="class_names",
            )


def check_datasets(paths: Sequence[Path], options: CheckOptions) -> CheckResult:
    """Checks sets of any format; the files of the user are only read.

    Args:
        paths: Files, folders, zips and names of prepared sets; images that two of them share are
            leaks.
        options: The options.

    Raises:
        ConfigError: if the group pattern is wrong.
    """
    with contextlib.ExitStack() as stack:
        return _check_places([_open_path(path, stack) for path in paths], options)


def fix_datasets(paths: Sequence[Path], options: CheckOptions, folder: Path) -> list[Path]:
    """Writes a copy of sets without their problems, see ``write_repaired``.

    Args:
        paths: As for ``check_datasets``.
        options: As for ``check_datasets``.
        folder: A new or empty folder.

    Returns:
        The files that training can use: a JSON file or a manifest for each set.

    Raises:
        ConfigError: if the folder is in use.
        DataError: if a problem has no certain repair.
    """
    check_fix_folder(folder, paths, options)
    options = replace(options, policy="skip", strict=False)
    with contextlib.ExitStack() as stack:
        places = [_open_path(path, stack) for path in paths]
        return write_repaired(_check_places(places, options), folder)


def check_fix_folder(folder: Path, paths: Sequence[Path], options: CheckOptions) -> None:
    """Checks the folder of ``fix_datasets`` before any work; for the arguments see there.

    Raises:
        ConfigError: if the folder is in use, or one of the data folders.
    """
    data = [*paths, *([options.images] if options.images else [])]
    check_folder(folder, FIX_COMMAND, data=data, results=["*"], setting="fix_to")


@dataclass(frozen=True)
class _Place:
    """One path to check.

    Args:
        name: As the user gave it.
        path: Where the data lies.
        images: Folder of its images, if that is known.
        error: Why it cannot be opened.
    """

    name: str
    path: Path
    images: Path | None = None
    error: str = ""


def _open_path(path: Path, stack: contextlib.ExitStack) -> _Place:
    """Unpacks a zip, and finds a prepared set by its name."""
    try:
        if path.suffix.lower() == ".zip":
            return _Place(str(path), stack.enter_context(unpacked(path)))
        if os.path.exists(path) or len(path.parts) > 1 or path.suffix:
            return _Place(str(path), path)
        prepared = dataset_root(None) / path.name
        if os.path.isdir(prepared):
            return _Place(str(path), prepared)
        if path.name not in DATASET_NAMES:
            return _Place(str(path), path)
        return _Place(str(path), *dataset_paths(path.name))
    except DataError as error:
        return _Place(str(path), path, error=str(error))


def _check_places(places: Sequence[_Place], options: CheckOptions) -> CheckResult:
    result = CheckResult([entry for place in places for entry in _check_place(place, options)])
    if options.leaks:
        _search_leaks(result, options.group_pattern)
    return result


def _check_place(place: _Place, options: CheckOptions) -> list[SetResult]:
    try:
        if place.error:
            raise DataError(place.error)
        found = find_sets(place.path, options.images or place.images, options.format)
    except (DataError, OSError) as error:  # a folder that may not be listed
        return [SetResult(place.name, options.format or "unknown", error=str(error))]
    results = [_check_set(entry, options) for entry in found]
    for entry in results:  # an unpacked zip goes by its own name
        entry.name = entry.name.replace(str(place.path), place.name)
    return results


def _search_leaks(result: CheckResult, group_pattern: str) -> None:
    short = Counter(Path(entry.name).name for entry in result.sets)
    cells: list[SideImage] = []
    smears: list[SideImage] = []
    for entry in result.sets:
        name = Path(entry.name).name
        name = name if short[name] == 1 else entry.name
        if entry.cells is not None:
            cells += cell_sides(entry.cells.manifest, entry.cells.fingerprints, name)
        if entry.dataset is not None:
            smears += smear_sides(entry.dataset, name, group_pattern)
    leaks = find_leaks(cells, "cells")
    leaks += [leak for leak in find_leaks(smears, "smears") if not _is_union(leak, smears)]
    result.leaks = describe_leaks([leak for leak in leaks if leak.certain])
    result.suspicions = describe_leaks([leak for leak in leaks if not leak.certain])
    several = any(len({image.side for image in images}) > 1 for images in (cells, smears))
    if several and not any(image.group for image in cells + smears):
        result.suspicions.append(
            "patients or slides: unknown; a group pattern finds them in the names of the files"
        )


def _is_union(leak: Leak, images: Sequence[SideImage]) -> bool:
    """Tells whether one side is the union that many sets publish beside its parts."""
    stems = {Path(images[index].side).stem.casefold() for index in (leak.first, leak.second)}
    return "trainval" in stems and bool(stems & {"train", "val"})


def _check_set(found: FoundSet, options: CheckOptions) -> SetResult:
    result = SetResult(str(found.path), found.format)
    try:
        if found.format in ("cells", "manifest"):
            result.set_cells(_read_cells(found, options))
        else:
            result.set_boxes(_read_boxes(found, options))
    except DataError as error:
        result.problems = list(error.problems)
        result.error = "" if error.problems else str(error)
    except OSError as error:
        result.error = f"{error} - check the rights of the folder"
    if options.strict and not result.error:
        changed = [*result.dropped_images, *result.dropped, *result.repaired, *result.notes]
        result.problems += [f"{line} (strict)" for line in changed]
    return result


def _read_boxes(found: FoundSet, options: CheckOptions) -> CocoDataset:
    names, policy = options.class_names or found.class_names, options.policy
    if found.format == "voc":
        return load_voc(found.files, found.images, names, options.voc_origin, policy=policy)
    if found.format == "labelme":
        return load_labelme(found.files, found.images, names, policy=policy)
    if found.format == "yolo":
        images = find_image_files(found.images, recursive=False, outside_links=True)
        if not images:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{found.images}: holds no image ({suffixes}) - name their folder")
        root = found.images
        return load_yolo(images, found.files[0], names, image_root=root, policy=policy)
    dataset = load_coco(found.path, found.images, policy=policy)
    unknown = sorted(set(dataset.class_names) - set(names or dataset.class_names))
    if unknown:
        problem = f"categories: {', '.join(unknown)} are none of the classes {list(names)}"
        raise DataError(f"{found.path}: 1 problem", [problem])
    return dataset


def _read_cells(found: FoundSet, options: CheckOptions) -> CheckedCells:
    names = options.class_names
    if found.format == "cells":
        listing = list_cells(found.path, options.group_pattern)
        table = ClassTable(names or listing.class_texts)
        policy: Policy = "skip" if options.policy == "skip" else "refuse"
        return check_cells(found.path.stem, listing, table, policy=policy)
    manifest = read_manifest(found.path)
    verify_hashes(manifest)
    if names and manifest.class_names != names:
        problem = f"its classes are {list(manifest.class_names)}, not {list(names)}"
        raise DataError(f"{found.path}: 1 problem", [problem])
    read = Counter(manifest.class_names[image.label] for image in manifest.images)
    return CheckedCells(manifest, fingerprint_manifest(manifest), CellReport(read))
