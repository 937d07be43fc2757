import csv

import numpy as np
import pytest

from wbcnets.errors import DataError
from wbcnets.evaluation.predictions import Predictions
from wbcnets.evaluation.significance import mcnemar_test, shared_images, write_disagreements


def right_on(files, right, names=("a", "b")):
    """A table in which just some files are right; all are of the first class."""
    probabilities = np.array([[0.9, 0.1] if file in right else [0.1, 0.9] for file in files])
    return Predictions(names, tuple(files), probabilities, np.zeros(len(files), dtype=np.int64))


def test_hand_worked_test():
    # Of six discordant images the first has all: two-sided, 2 / 2^6
    files = [f"{i}.png" for i in range(10)]
    comparison = mcnemar_test(right_on(files, files[:8]), right_on(files, files[6:8]))
    assert (comparison.images, comparison.only_first, comparison.only_second) == (10, 6, 0)
    assert comparison.p_value == pytest.approx(2 / 2**6)


def test_equal_tables_do_not_differ():
    table = right_on(["x", "y"], ["x"])
    assert mcnemar_test(table, table).p_value == 1


def test_only_shared_files_count_whatever_their_order():
    comparison = mcnemar_test(right_on(["x", "y", "z"], ["x"]), right_on(["z", "y"], ["y", "z"]))
    assert (comparison.images, comparison.only_first, comparison.only_second) == (2, 0, 2)
    assert comparison.not_shared == 1


def test_contradicting_or_missing_truth_is_an_error():
    first, second = right_on(["x"], ["x"]), right_on(["x"], ["x"], names=("b", "a"))
    with pytest.raises(DataError, match="x is 'a' in one table and 'b' in the other"):
        mcnemar_test(first, second)
    with pytest.raises(DataError, match="share no file"):
        mcnemar_test(first, right_on(["y"], ["y"]))
    unknown = Predictions(("a", "b"), ("x",), np.array([[1.0, 0.0]]))
    with pytest.raises(DataError, match="true class of every image"):
        mcnemar_test(first, unknown)


def test_table_of_disagreements_names_both_classes(tmp_path):
    first, second = right_on(["x", "y", "z"], ["x", "y"]), right_on(["z", "y", "x"], ["y", "z"])
    write_disagreements(first, second, tmp_path / "d.csv")
    table = list(csv.DictReader((tmp_path / "d.csv").open()))
    assert [row["file"] for row in table] == ["x", "z"]
    assert (table[1]["true"], table[1]["this"], table[1]["other"]) == ("a", "b", "a")
    assert table[0] == {
        "file": "x",
        "true": "a",
        "this": "a",
        "other": "b",
        "this_probability": "0.900000",
        "other_probability": "0.900000",
    }


def test_same_class_in_another_order_of_the_names_is_no_disagreement():
    first = Predictions(("a", "b"), ("x",), np.array([[0.7, 0.3]]), np.array([0]))
    second = Predictions(("b", "a"), ("x",), np.array([[0.4, 0.6]]), np.array([1]))
    (image,) = shared_images(first, second)
    assert image.this == image.other == "a"
    assert mcnemar_test(first, second).p_value == 1
