"""The check itself: every set by the reader that training uses, then what sets share."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wbcnets.data.cards.classes import ClassTable, normalize_name
from wbcnets.data.cells.checks import CellReport, CheckedCells, check_cells, fingerprint_manifest
from wbcnets.data.cells.listing import list_cells
from wbcnets.data.cells.manifest import read_manifest, verify_hashes
from wbcnets.data.check.formats import Source, find_sources
from wbcnets.data.check.results import CheckResult, SetResult
from wbcnets.data.detection.box_checks import BadBox
from wbcnets.data.detection.coco import CocoDataset, load_coco, parse_coco
from wbcnets.data.detection.labelme import labelme_to_coco
from wbcnets.data.detection.report import ConversionReport, Counts
from wbcnets.data.detection.voc import read_xml, voc_to_coco
from wbcnets.data.detection.yolo import yolo_to_coco
from wbcnets.data.duplicates.leaks import find_shared
from wbcnets.errors import DataError
from wbcnets.io.image_files import IMAGE_SUFFIXES, find_image_files, natural_order
from wbcnets.io.strict_json import read_json


@dataclass(frozen=True)
class CheckOptions:
    """How sets are checked.

    Args:
        images: Folder of the images of all sets; looked for beside the annotations by default.
        format: See `wbcnets.data.check.formats.find_sources`; found out by default.
        class_names: The classes; those of the set by default.
        bad_box: See `wbcnets.data.detection.box_checks.check_box`.
        voc_origin: See `wbcnets.data.detection.voc.voc_to_coco`.
        strict: Whether repairs, drops and notes are problems too.
        repair: Whether what cannot be used is left out and listed instead of being a problem.
        leaks: Whether images that two sets or splits share are looked for.
        group_pattern: Regular expression with a part `(?P<group>...)`, the patient or slide, in
            the files' names.
    """

    images: Path | None = None
    format: str = ""
    class_names: tuple[str, ...] = ()
    bad_box: BadBox = "drop"
    voc_origin: Literal["auto", 0, 1] = "auto"
    strict: bool = False
    repair: bool = False
    leaks: bool = True
    group_pattern: str = ""


def check_datasets(paths: Sequence[Path], options: CheckOptions) -> CheckResult:
    """Checks sets of any format; the user's files are only read.

    Args:
        paths: Files and folders; what two of them share is a leak.
        options: How.
    """
    results = []
    for path in paths:
        try:
            sources = find_sources(path, options.images, options.format)
        except DataError as error:
            results.append(SetResult(str(path), options.format or "unknown", error=str(error)))
            continue
        results += [_check(source, options) for source in sources]
    result = CheckResult(results)
    if options.leaks:
        result.leaks, result.suspicions = find_shared(results, options.group_pattern)
    return result


def _check(source: Source, options: CheckOptions) -> SetResult:
    result = SetResult(str(source.path), source.format)
    checks: dict[str, Callable[[Source, CheckOptions, SetResult], None]] = {
        "coco": _check_coco,
        "voc": _check_voc,
        "labelme": _check_labelme,
        "yolo": _check_yolo,
        "cells": _check_cells,
        "manifest": _check_manifest,
    }
    try:
        checks[source.format](source, options, result)
    except DataError as error:
        if error.problems:
            result.problems = [*result.problems, *error.problems]
        else:
            result.error = str(error)
    if options.strict and not result.error:
        found = [*result.dropped_images, *result.dropped, *result.repaired, *result.notes]
        result.problems = [*result.problems, *(f"{line} (strict)" for line in found)]
    return result


def _check_coco(source: Source, options: CheckOptions, result: SetResult) -> None:
    bad_box: BadBox = "fix" if options.repair else options.bad_box
    dataset = load_coco(source.path, source.images, bad_box=bad_box, repair=options.repair)
    if options.class_names:
        _require_class_names(dataset, options.class_names)
    _take_dataset(result, dataset)
    result.counts, result.image_counts = dataset.counts, dataset.image_counts
    result.repaired, result.dropped = dataset.repaired, dataset.dropped
    result.dropped_images, result.notes = dataset.dropped_images, dataset.notes


def _require_class_names(dataset: CocoDataset, names: Sequence[str]) -> None:
    unknown = sorted(set(dataset.class_names) - set(names))
    if unknown:
        raise DataError(
            f"{dataset.source}: 1 problem",
            [f"categories: {', '.join(unknown)} are none of the classes {list(names)}"],
        )


def _check_voc(source: Source, options: CheckOptions, result: SetResult) -> None:
    names = options.class_names or _names_found(_voc_names(source.files), result)
    data, report = voc_to_coco(
        source.files,
        source.images,
        names,
        options.voc_origin,
        bad_box="fix" if options.repair else options.bad_box,
        repair=options.repair,
    )
    _take_conversion(source, data, report, result)


def _voc_names(files: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for file in files:
        try:
            names += [entry.findtext("name") or "" for entry in read_xml(file).findall("object")]
        except DataError:  # the conversion names it
            continue
    return names


def _check_labelme(source: Source, options: CheckOptions, result: SetResult) -> None:
    names = options.class_names or _names_found(_labelme_names(source.files), result)
    data, report = labelme_to_coco(
        source.files,
        source.images,
        names,
        bad_box="fix" if options.repair else options.bad_box,
        repair=options.repair,
    )
    _take_conversion(source, data, report, result)


def _labelme_names(files: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for file in files:
        try:
            shapes = read_json(file).get("shapes")
        except DataError:
            continue
        for shape in shapes if isinstance(shapes, list) else ():
            label = shape.get("label") if isinstance(shape, dict) else None
            names += [label] if isinstance(label, str) else []
    return names


def _names_found(names: Sequence[str], result: SetResult) -> tuple[str, ...]:
    """The classes of a set that does not list them; two spellings of one are a problem."""
    counts = Counter(names)
    spellings: dict[str, list[str]] = {}
    for name in counts:
        spellings.setdefault(normalize_name(name), []).append(name)
    result.problems = [
        f"{' and '.join(repr(name) for name in found)} are the same class, spelled in "
        f"{len(found)} ways - choose one"
        for found in spellings.values()
        if len(found) > 1
    ]
    if "" in spellings:
        result.problems = [*result.problems, "objects without a name - give them one"]
    return tuple(sorted(counts, key=natural_order)) or ("none",)


def _check_yolo(source: Source, options: CheckOptions, result: SetResult) -> None:
    labels = source.files[0]
    images = find_image_files(source.images, recursive=False, outside_links=True)
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{source.images}: holds no image ({suffixes}) - name it with --images")
    names = options.class_names or source.class_names or _yolo_numbers(labels)
    data, report = yolo_to_coco(
        images,
        labels,
        names,
        image_root=source.images,
        bad_box="fix" if options.repair else options.bad_box,
        repair=options.repair,
    )
    _take_conversion(source, data, report, result)


def _yolo_numbers(labels: Path) -> tuple[str, ...]:
    """Names such as "class 3" for a set that has numbers alone, up to the largest of them."""
    largest = 0
    for file in labels.glob("*.txt"):
        for line in file.read_bytes()[: 1 << 20].split(b"\n"):
            first = line.split()[:1]
            if first and first[0].isdigit() and len(first[0]) <= 3:
                largest = max(largest, int(first[0]))
    return tuple(f"class {number}" for number in range(largest + 1))


def _take_conversion(
    source: Source, data: dict[str, Any], report: ConversionReport, result: SetResult
) -> None:
    result.counts, result.image_counts = report.counts, report.image_counts
    result.repaired, result.dropped = report.repaired, report.dropped
    result.dropped_images = report.dropped_images
    dataset = parse_coco(data, source.images, source=str(source.path))
    result.notes = [*report.notes, *dataset.notes]
    _take_dataset(result, dataset)


def _take_dataset(result: SetResult, dataset: CocoDataset) -> None:
    result.dataset = dataset
    result.classes = dataset.box_counts


def _check_cells(source: Source, options: CheckOptions, result: SetResult) -> None:
    listing = list_cells(source.path, options.group_pattern)
    table = ClassTable(options.class_names or listing.class_texts)
    checked = check_cells(
        source.path.stem,
        listing,
        table,
        drop_unusable=options.repair,
        drop_conflicts=options.repair,
    )
    _take_cells(result, checked)


def _check_manifest(source: Source, options: CheckOptions, result: SetResult) -> None:
    manifest = read_manifest(source.path)
    verify_hashes(manifest)
    report = CellReport(Counter(manifest.class_names[image.label] for image in manifest.images))
    checked = CheckedCells(manifest, fingerprint_manifest(manifest), report)
    if options.class_names and manifest.class_names != options.class_names:
        raise DataError(
            f"{source.path}: 1 problem",
            [f"its classes are {list(manifest.class_names)}, not {list(options.class_names)}"],
        )
    _take_cells(result, checked)


def _take_cells(result: SetResult, checked: CheckedCells) -> None:
    report, manifest = checked.report, checked.manifest
    result.cells = checked
    result.counts = report.counts
    result.classes = dict(zip(manifest.class_names, manifest.counts()))
    result.repaired = [
        f"{file}: {', '.join(done)}"
        for file, done in report.converted.items()
        if file not in report.dropped
    ]
    result.dropped = [f"{file}: {reason}" for file, reason in report.dropped.items()]
    result.notes = report.notes


def with_repair(options: CheckOptions) -> CheckOptions:
    """The same options for writing a repaired copy: problems are left out, boxes are mended."""
    return replace(options, repair=True, strict=False)


def total_counts(results: Sequence[SetResult]) -> Counts:
    """The sum over sets."""
    counts = [entry.counts for entry in results if entry.counts is not None]
    return Counts(
        sum(entry.n_read for entry in counts),
        sum(entry.n_used for entry in counts),
        sum(entry.n_repaired for entry in counts),
        sum(entry.n_dropped for entry in counts),
    )
