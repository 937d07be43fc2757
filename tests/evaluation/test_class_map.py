import numpy as np
import pytest

from wbcnets.data.cells.manifest import CellImage, CellManifest
from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.class_map import match_classes, read_class_map
from wbcnets.evaluation.predictions import Predictions


def test_equal_names_in_another_order_need_no_map():
    match = match_classes(("a", "b", "c"), ("c", "a", "b"))
    assert match.class_names == ("c", "a", "b")
    assert match.data_indices == (1, 2, 0)


def test_several_classes_may_become_one_and_others_none():
    mapping = {"band": "neutrophil", "segmented": "neutrophil"}
    match = match_classes(("band", "blast", "segmented"), ("monocyte", "neutrophil"), mapping)
    neutrophil = match.class_names.index("neutrophil")
    assert match.data_indices == (neutrophil, None, neutrophil)


def test_different_names_without_a_map_are_an_error_that_lists_both():
    with pytest.raises(
        DataError, match=r"classes that the model lacks(.|\n)*dataset: a, b(.|\n)*model: a, c"
    ):
        match_classes(("a", "b"), ("a", "c"))


def test_unknown_names_are_all_listed():
    with pytest.raises(DataError) as error:
        match_classes(("a",), ("b",), {"x": "b", "a": "y"})
    assert len(error.value.problems) == 2


def test_file(tmp_path):
    (tmp_path / "map.yaml").write_text("ig: IG\n1: one\n")
    assert read_class_map(tmp_path / "map.yaml") == {"ig": "IG", "1": "one"}


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "a: [", "!!python/object:os.system {}"])
def test_other_files_are_errors_that_name_them(content, tmp_path):
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"map\.yaml"):
        read_class_map(tmp_path / "map.yaml")


def make_manifest(class_names, labels, root):
    images = tuple(
        CellImage(file=f"{i}.png", label=label, split="val", group="", sha256="")
        for i, label in enumerate(labels)
    )
    return CellManifest(name="toy", root=root, class_names=class_names, images=images)


def test_a_list_adds_the_probabilities_of_the_models_classes():
    match = match_classes(
        ("neutrophil", "blast", "mono"),
        ("band", "monocyte", "segmented"),
        {"neutrophil": ["segmented", "band"], "mono": "monocyte"},
    )
    assert match.class_names == ("neutrophil", "monocyte")
    assert match.data_indices == (0, None, 1)
    probabilities = np.array([[0.3, 0.4, 0.3], [0.1, 0.8, 0.1]])
    merged = match.merge(
        Predictions(("band", "monocyte", "segmented"), ("x", "y"), probabilities, np.array([0, 1]))
    )
    np.testing.assert_allclose(merged.probabilities, [[0.6, 0.4], [0.2, 0.8]])
    # Neither of the two alone was the most probable one
    assert merged.predicted.tolist() == [0, 1]
    assert merged.class_names == match.class_names
    assert merged.labels.tolist() == [0, 1]


def test_classes_of_the_model_that_are_not_mapped_stay_possible_mistakes():
    match = match_classes(("a",), ("other", "a"), {"a": "a"})
    assert match.class_names == ("other", "a")
    assert match.data_indices == (1,)


def test_name_of_joined_classes_is_never_that_of_another_class():
    match = match_classes(("a",), ("a", "b", "c"), {"a": ["b", "c"]})
    assert match.class_names == ("a", "b + c")
    assert match.model_indices == (0, 1, 1)


def test_images_without_a_class_are_left_out_and_counted(tmp_path):
    manifest = make_manifest(("a", "b", "c"), (0, 1, 2, 2, 0), tmp_path)
    match = match_classes(manifest.class_names, ("y", "x"), {"a": "x", "b": "y"})
    kept, left_out = match.select(manifest)
    assert [(image.file, image.label) for image in kept.images] == [
        ("0.png", 1),
        ("1.png", 0),
        ("4.png", 1),
    ]
    assert kept.class_names == ("y", "x")
    assert left_out == {"c": 2}
    with pytest.raises(DataError, match=r"toy: no image has a class .* only c"):
        match.select(make_manifest(manifest.class_names, (2, 2), tmp_path))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"a": ["x", "y"], "b": "y"}, "'a' and 'b' share 'y'"),
        ({"a": []}, "name each class of the model once"),
        ({"a": ["x", "x"]}, "name each class of the model once"),
    ],
)
def test_maps_that_contradict_themselves_are_errors(mapping, message):
    with pytest.raises(DataError, match=message):
        match_classes(("a", "b"), ("x", "y"), mapping)


def test_file_with_lists_and_words_that_yaml_reads_as_something_else(tmp_path):
    (tmp_path / "map.yaml").write_text("no: [1, yes]\n2: null\n")
    assert read_class_map(tmp_path / "map.yaml") == {"no": ["1", "yes"], "2": "null"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: x\nb: y\na: y\n", r"key 'a' (.|\n)*line 3"),
        ("a: {x: y}\n", r"map\.yaml: 'a' must be NAME: NAME"),
        ("b: y\na:\n", r"map\.yaml: 'a' must be NAME: NAME"),
    ],
)
def test_lines_that_are_no_map_are_named(content, message, tmp_path):
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_class_map(tmp_path / "map.yaml")
