import pickle

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mfds_detr.config import read_config
from mfds_detr.data.dataset_mapper import SmearMapper, build_augmentations
from mfds_detr.data.datasets import DatasetSource, register_datasets
from wbcnets.data.detection.augmentation import BoxAugmentation
from wbcnets.errors import DataError


@pytest.fixture
def record(tmp_path):
    """A gray image of 80x60 with a red, a green and a blue rectangle, each of them annotated."""
    image = np.full((60, 80, 3), 128, np.uint8)
    boxes = [[10, 5, 20, 15], [40, 30, 30, 20], [60, 0, 20, 10]]
    for index, (x, y, w, h) in enumerate(boxes):
        image[y : y + h, x : x + w] = 0
        image[y : y + h, x : x + w, index] = 255
    path = tmp_path / "cells.png"
    Image.fromarray(image).save(path)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    return {
        "file_name": str(path), "image_id": 1, "height": 60, "width": 80,
        "annotations": annotations,
    }  # fmt: skip


def assert_boxes_lie_on_their_rectangles(result, tolerance=0):
    image = result["image"]
    instances = result["instances"]
    assert len(instances)
    for box, label in zip(instances.gt_boxes.tensor.round().int().tolist(), instances.gt_classes):
        x1, y1, x2, y2 = box
        inside = image[:, y1 + tolerance : y2 - tolerance, x1 + tolerance : x2 - tolerance]
        assert (inside[label] > 200).all()
        assert (inside[(label + 1) % 3] < 60).all()


def test_training_record(record):
    result = SmearMapper([])(record)
    assert result["image"].shape == (3, 60, 80)
    assert result["image"].dtype == torch.uint8
    assert result["instances"].image_size == (60, 80)
    assert result["instances"].gt_classes.tolist() == [0, 1, 2]
    assert result["instances"].gt_boxes.tensor[0].tolist() == [10, 5, 30, 20]
    assert_boxes_lie_on_their_rectangles(result)
    assert "annotations" in record  # the record itself is not changed


def test_inference_record(record):
    result = SmearMapper([T.ResizeShortestEdge(30)], is_train=False)(record)
    assert result["image"].shape == (3, 30, 40)
    assert "instances" not in result
    assert (result["height"], result["width"]) == (60, 80)


def test_channel_order(record):
    red_first = SmearMapper([], image_format="RGB")(record)["image"]
    blue_first = SmearMapper([], image_format="BGR")(record)["image"]
    assert torch.equal(red_first.flip(0), blue_first)
    assert red_first[0, 6, 12] == 255


def test_augmentations_move_boxes_with_their_pixels(record, tiny_config):
    cfg = tiny_config(
        "INPUT.CROP_FRACTION", (0.6, 0.6), "INPUT.CROP_PROBABILITY", 0.7,
        "INPUT.MIN_SIZE_TRAIN", (60, 90), "INPUT.MAX_SIZE_TRAIN", 200, "INPUT.VERTICAL_FLIP", True,
    )  # fmt: skip
    mapper = SmearMapper.from_config(cfg, is_train=True)
    np.random.seed(0)
    shapes = set()
    for _ in range(20):
        result = mapper(record)
        shapes.add(tuple(result["image"].shape))
        if len(result["instances"]):
            assert_boxes_lie_on_their_rectangles(result, tolerance=3)
    assert len(shapes) > 2


def test_albumentations_come_first_and_follow_numpys_seed(record):
    flip = BoxAugmentation([{"name": "HorizontalFlip", "p": 0.5}])
    mapper = SmearMapper([], flip)
    np.random.seed(3)
    first = [mapper(record)["instances"].gt_boxes.tensor[0, 0].item() for _ in range(12)]
    np.random.seed(3)
    again = [mapper(record)["instances"].gt_boxes.tensor[0, 0].item() for _ in range(12)]
    assert first == again
    assert set(first) == {10.0, 50.0}
    assert_boxes_lie_on_their_rectangles(mapper(record))


def test_boxes_that_a_crop_leaves_out_are_dropped(record):
    crop = BoxAugmentation(
        [{"name": "Crop", "x_min": 0, "y_min": 0, "x_max": 36, "y_max": 60, "p": 1.0}]
    )
    result = SmearMapper([], crop)(record)
    assert result["instances"].gt_classes.tolist() == [0]
    assert_boxes_lie_on_their_rectangles(result)


def test_crowds_are_no_objects(record):
    record["annotations"][1]["iscrowd"] = 1
    assert SmearMapper([])(record)["instances"].gt_classes.tolist() == [0, 2]


def test_negatives(record):
    record["annotations"] = []
    mapper = SmearMapper([T.ResizeShortestEdge(30)], BoxAugmentation([{"name": "HorizontalFlip"}]))
    instances = mapper(record)["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64


def test_a_corrupt_image_is_named(record, tmp_path):
    path = tmp_path / "cells.png"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"cells\.png: the image cannot be read"):
        SmearMapper([])(record)


def test_the_list_follows_the_config(tiny_config):
    def names(*overrides, is_train=True):
        return [type(a).__name__ for a in build_augmentations(tiny_config(*overrides), is_train)]

    crop = ("INPUT.CROP_FRACTION", (0.7, 0.7))
    flips = ["RandomFlip", "RandomFlip"]
    assert names() == [*flips, "ResizeShortestEdge"]
    assert names(*crop) == ["RandomApply", *flips, "ResizeShortestEdge"]
    plain = ("INPUT.RANDOM_FLIP", "none", "INPUT.VERTICAL_FLIP", False)
    assert names(*plain) == ["ResizeShortestEdge"]
    assert names(*crop, is_train=False) == ["ResizeShortestEdge"]


def test_the_active_list_is_logged(tiny_config, caplog):
    caplog.set_level("INFO")
    cfg = tiny_config("INPUT.ALBUMENTATIONS.PRESET", "stain")
    SmearMapper.from_config(cfg, is_train=True)
    assert "HueSaturationValue" in caplog.text
    assert "ResizeShortestEdge" in caplog.text


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000), (3, 40_000)])
@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("name", ["mfds_detr_tiny_base", "mfds_detr_plus_tiny"])
def test_an_image_of_any_shape_keeps_a_pixel(size, is_train, name, tmp_path):
    path = tmp_path / "thin.png"
    Image.new("RGB", size).save(path)
    cfg = read_config(name, ["INPUT.CELL_PASTE", 0.0])
    mapper = SmearMapper.from_config(cfg, is_train)
    box = {"bbox": [0, 0, *size], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    item = mapper({"file_name": str(path), "annotations": [box]})
    assert min(item["image"].shape) >= 1
    assert max(item["image"].shape) <= cfg.INPUT.MAX_SIZE_TEST


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.7, 1.6), (2.0, 2.0)])
def test_a_canvas_has_one_size_and_boxes_on_their_pixels(record, tiny_config, scale):
    canvas = ("INPUT.CANVAS", (96, 128), "INPUT.CANVAS_SCALE", scale)
    mapper = SmearMapper.from_config(tiny_config(*canvas), is_train=True)
    np.random.seed(0)
    gray = []
    for _ in range(10):
        result = mapper(record)
        assert result["image"].shape == (3, 96, 128)
        assert result["image"].dtype == torch.uint8
        if len(result["instances"]):
            assert_boxes_lie_on_their_rectangles(result, tolerance=3)
        gray.append((result["image"] == 128).all(dim=0).float().mean().item())
    if scale == (0.5, 0.5):  # a fourth of the canvas is image
        assert min(gray) > 0.75


def test_a_canvas_is_for_training_only(tiny_config):
    canvas = ("INPUT.CANVAS", (96, 128))
    names = [type(a).__name__ for a in build_augmentations(tiny_config(*canvas), is_train=True)]
    assert names == ["RandomFlip", "RandomFlip", "ResizeScale", "FixedSizeCrop"]
    (resize,) = build_augmentations(tiny_config(*canvas), is_train=False)
    assert type(resize).__name__ == "ResizeShortestEdge"


def test_cells_are_pasted_from_the_training_sets(smears, tiny_config, tmp_path):
    source = DatasetSource("donors", smears.json_file, smears.images)
    register_datasets(["donors"], [], [source], tmp_path)
    keys = ("DATASETS.TRAIN", ("donors",), "INPUT.CELL_PASTE", 1.0)
    mapper = SmearMapper.from_config(tiny_config(*keys), is_train=True)
    assert mapper.cell_paste.probability == 1
    mapper = pickle.loads(pickle.dumps(mapper))  # for worker processes
    records = DatasetCatalog.get("donors")
    np.random.seed(0)
    before = sum(len(record["annotations"]) for record in records)
    after = sum(len(mapper(record)["instances"]) for record in records)
    assert after > before
    assert sum(len(record["annotations"]) for record in records) == before
    assert SmearMapper.from_config(tiny_config(*keys), is_train=False).cell_paste is None
    assert SmearMapper.from_config(tiny_config(*keys[:2]), is_train=True).cell_paste is None
