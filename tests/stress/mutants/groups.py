"""The modules that `make mutants` changes, in groups that the same tests know."""

from typing import NamedTuple


class Group(NamedTuple):
    """Modules and their tests.

    Args:
        sources: Patterns of the files to change.
        tests: Files and folders of tests.
    """

    sources: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "metrics": Group(
        (
            "wbcnets/evaluation/bootstrap.py",
            "wbcnets/evaluation/metrics.py",
            "wbcnets/evaluation/weighted_metrics.py",
        ),
        (
            "tests/evaluation/test_bootstrap.py",
            "tests/evaluation/test_metrics.py",
            "tests/evaluation/test_weighted_metrics.py",
        ),
    ),
    "matcher": Group(
        ("mfds_detr/modeling/criterion.py", "mfds_detr/modeling/matcher.py"),
        (
            "tests/mfds_detr/modeling/test_criterion.py",
            "tests/mfds_detr/modeling/test_matcher.py",
        ),
    ),
    "spline": Group(
        ("wbcnets/ops/kan_spline/*.py",),
        ("tests/ops/test_kan_knots.py", "tests/ops/test_kan_spline.py"),
    ),
    "attention": Group(("wbcnets/ops/ms_deform_attn/*.py",), ("tests/ops/test_ms_deform_attn.py",)),
    "cells": Group(
        ("wbcnets/data/cells/checks.py",),
        ("tests/data/cells/test_checks.py", "tests/data/cells/test_listing.py"),
    ),
    "splits": Group(("wbcnets/data/cells/splits.py",), ("tests/data/cells/test_splits.py",)),
    "boxes": Group(
        ("wbcnets/data/detection/box_checks.py", "wbcnets/data/detection/builder.py"),
        ("tests/data/detection/test_box_checks.py", "tests/data/detection/test_builder.py"),
    ),
    "coco": Group(
        ("wbcnets/data/detection/coco.py",),
        ("tests/data/detection/test_coco.py",),
    ),
    "check": Group(
        ("wbcnets/data/check/*.py",),
        ("tests/cli/test_check.py", "tests/data/check"),
    ),
}
