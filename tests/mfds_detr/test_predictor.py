"""Prediction on files: boxes are the model's own, counts are those of the JSON, nothing is lost."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import predict
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from export_weights import export
from torch import nn

from mfds_detr import add_mfds_detr_config
from mfds_detr.checkpoint.checkpointer import AtomicCheckpointer
from mfds_detr.data.dataset_mapper import SmearMapper
from mfds_detr.predictor import LeukocytePredictor, find_images, one_per_cell
from wbcnets.errors import CheckpointError, ConfigError, DataError
from wbcnets.io.images import read_image

CONFIGS = Path(__file__).parents[2] / "projects" / "mfds_detr" / "configs"
NAMES = ("neutrophil", "lymphocyte", "monocyte")


def small_config() -> CfgNode:
    cfg = get_cfg()
    add_mfds_detr_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "mfds_detr_tiny_base.yaml"))
    model = cfg.MODEL.MFDS_DETR
    model.HIDDEN_DIM, model.FEEDFORWARD_DIM, model.NUM_QUERIES = 64, 64, 12
    cfg.MODEL.TIMM.OPTIONS.channels = [8, 16, 24, 32]
    cfg.MODEL.TIMM.OPTIONS.stem_width = 8
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    return cfg


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, CfgNode]:
    """A checkpoint beside its config as train_net.py leaves them, with spread-out scores."""
    folder = tmp_path_factory.mktemp("training")
    cfg = small_config()
    (folder / "config.yaml").write_text(cfg.dump())
    cfg.MODEL.MFDS_DETR.NUM_CLASSES = len(NAMES)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for head in model.detector.class_embed:
        nn.init.normal_(head.weight, std=0.3)
        nn.init.zeros_(head.bias)
    for head in model.detector.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.1)
    AtomicCheckpointer(model, str(folder), class_names=NAMES).save("model_best", iteration=1)
    return folder / "model_best.pth", model, cfg


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two good images, one of them upright only by its EXIF data, a damaged one, and a text."""
    folder = tmp_path / "images"
    (folder / "slide_1").mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels[:40]).save(folder / "slide_1" / "b.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("not an image")
    return folder


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def run(*arguments: object) -> int:
    return predict.main([str(argument) for argument in arguments])


def test_a_folder_with_a_damaged_image(trained, images, tmp_path, capsys):
    output = tmp_path / "out"
    threshold = 0.55
    code = run(
        *("--weights", trained[0], "--input", images, "--output", output),
        *("--threshold", threshold, "--device", "cpu"),
    )
    assert code == 1
    assert "could not read 1 of 3 images" in capsys.readouterr().err

    coco = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "slide_1/b.jpg"]
    assert [(i["width"], i["height"]) for i in coco["images"]] == [(80, 60), (40, 80)]
    assert [category["name"] for category in coco["categories"]] == list(NAMES)
    annotations = coco["annotations"]
    assert annotations, "the threshold leaves nothing to compare"
    assert min(annotation["score"] for annotation in annotations) >= threshold
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))

    header, *counts = rows(output / "counts.csv")
    assert header == ["image", *NAMES, "total"]
    assert [row[0] for row in counts] == ["a.png", "slide_1/b.jpg", "total"]
    for image, row in zip(coco["images"], counts):
        of_image = [a["category_id"] for a in annotations if a["image_id"] == image["id"]]
        expected = [of_image.count(category) for category in (1, 2, 3)]
        assert [int(cell) for cell in row[1:]] == [*expected, len(of_image)]
    sums = np.array([row[1:] for row in counts], int)
    assert sums[2].tolist() == (sums[0] + sums[1]).tolist()

    (_, unreadable) = rows(output / "unreadable.csv")
    assert unreadable[0] == "broken.png"
    assert "broken.png" in unreadable[1]
    assert "0.55" in (output / "README.txt").read_text()
    for name, size in {"a.png": (80, 60), "slide_1/b.png": (40, 80)}.items():
        with Image.open(output / "overlays" / name) as overlay:
            assert overlay.size == size
    original = read_image(images / "a.png")
    assert (read_image(output / "overlays" / "a.png") != original).any()


def test_the_boxes_are_those_of_the_model(trained, images):
    weights, model, cfg = trained
    predictor = LeukocytePredictor(weights, device="cpu", threshold=0.5)
    for path in (images / "a.png", images / "slide_1" / "b.jpg"):
        image = read_image(path)
        record = {"file_name": str(path), "height": image.shape[0], "width": image.shape[1]}
        with torch.no_grad():
            found = model([SmearMapper.from_config(cfg, is_train=False)(record)])[0]["instances"]
        expected = one_per_cell(found[found.scores >= 0.5])
        given = predictor(image)
        assert len(given) == len(expected) > 0
        torch.testing.assert_close(given.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(given.scores, expected.scores)
        assert given.pred_classes.tolist() == expected.pred_classes.tolist()


def test_the_json_holds_the_predictors_boxes(trained, images, tmp_path):
    run("--weights", trained[0], "--input", images / "a.png", "--output", tmp_path / "out")
    found = LeukocytePredictor(trained[0])(read_image(images / "a.png"))
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    boxes = np.array([annotation["bbox"] for annotation in annotations])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    np.testing.assert_allclose(corners, found.pred_boxes.tensor.numpy(), atol=0.011)
    assert [a["category_id"] - 1 for a in annotations] == found.pred_classes.tolist()


def test_a_higher_threshold_keeps_fewer(trained, images):
    predictor = LeukocytePredictor(trained[0], threshold=0.0)
    image = read_image(images / "a.png")
    everything = predictor(image)
    predictor.threshold = float(everything.scores.median())
    assert 0 < len(predictor(image)) < len(everything)


def test_a_box_has_one_class_its_best() -> None:
    found = Instances((10, 10))
    one, other = [1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 9.0, 9.0]
    found.pred_boxes = Boxes(torch.tensor([one, other, one, other, one]))
    found.scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    found.pred_classes = torch.tensor([2, 0, 1, 2, 0])
    kept = one_per_cell(found)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8])
    assert kept.pred_classes.tolist() == [2, 0]
    assert len(one_per_cell(found[:0])) == 0


def test_no_overlays_and_success(trained, images, tmp_path, capsys):
    output = tmp_path / "out"
    code = run(
        *("--weights", trained[0], "--input", images / "a.png", images / "slide_1"),
        *("--output", output, "--no-overlays"),
    )
    assert code == 0
    assert "2 of 2 images" in capsys.readouterr().out
    assert not (output / "overlays").exists()
    assert rows(output / "unreadable.csv") == [["image", "reason"]]


def test_safetensors_with_class_names(trained, images, tmp_path):
    weights, model, _ = trained
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file(state, path, {"class_names": json.dumps(NAMES)})
    image = read_image(images / "a.png")
    config = weights.parent / "config.yaml"
    given = LeukocytePredictor(path, config, threshold=0.5)(image)
    expected = LeukocytePredictor(weights, threshold=0.5)(image)
    assert torch.equal(given.pred_boxes.tensor, expected.pred_boxes.tensor)
    with pytest.raises(ConfigError, match=r"config\.yaml.*beside.*--config-file"):
        LeukocytePredictor(path)


def test_an_exported_file_predicts_the_same(trained, images, tmp_path):
    weights = trained[0]
    export(weights, tmp_path / "small.safetensors", torch.float32)
    image = read_image(images / "a.png")
    predictor = LeukocytePredictor(tmp_path / "small.safetensors", weights.parent / "config.yaml")
    expected = LeukocytePredictor(weights)
    assert predictor.class_names == expected.class_names == NAMES
    assert torch.equal(predictor(image).scores, expected(image).scores)
    assert len(expected(image))


def test_the_moving_average_is_preferred(trained, images, tmp_path):
    weights, model, _ = trained
    (tmp_path / "config.yaml").write_text((weights.parent / "config.yaml").read_text())
    averaged = model.state_dict()
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    torch.save({"model": raw, "ema": averaged, "class_names": NAMES}, tmp_path / "model.pth")
    image = read_image(images / "a.png")
    given = LeukocytePredictor(tmp_path / "model.pth", threshold=0.5)(image)
    assert torch.equal(given.scores, LeukocytePredictor(weights, threshold=0.5)(image).scores)


def test_find_images(images):
    def names(*inputs: Path) -> list[str]:
        return [file.name for file in find_images([str(path) for path in inputs])]

    assert names(images) == ["a.png", "broken.png", "slide_1/b.jpg"]
    assert names(images / "*.png") == ["a.png", "broken.png"]
    assert names(images / "**" / "*.jpg", images / "a.png") == ["a.png", "slide_1/b.jpg"]
    assert names(images / "a.png", images / "a.png") == ["a.png"]
    (images / "x[1].png").write_bytes((images / "a.png").read_bytes())
    assert names(images / "x[1].png") == ["x[1].png"]
    (images / ".cache").mkdir()
    (images / ".cache" / "c.png").write_bytes(b"")
    assert ".cache/c.png" not in names(images)
    left = find_images([str(images)], leave_out=images / "slide_1")
    assert [file.name for file in left] == ["a.png", "broken.png", "x[1].png"]


def test_images_of_one_stem_get_overlays_of_their_own(trained, images, tmp_path):
    Image.open(images / "a.png").save(images / "a.bmp")
    run("--weights", trained[0], "--input", images / "a.*", "--output", tmp_path / "out")
    overlays = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert overlays == {"a.bmp.png", "a.png.png"}


def test_inputs_without_images_are_all_named(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    inputs = (tmp_path / "empty", tmp_path / "*.tif")
    with pytest.raises(DataError) as caught:
        find_images([str(text) for text in inputs])
    assert "empty" in str(caught.value)
    assert "*.tif" in str(caught.value)
    output = tmp_path / "out"
    assert run("--weights", trained[0], "--input", *inputs, "--output", output) == 2
    assert "*.tif" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ({}, "holds no weights"),
        ({"model": {"detector.x": torch.zeros(1)}}, "no class names"),
        ({"model": {"layer1.weight": torch.ones(1)}, "class_names": NAMES}, "no trained MFDS-DETR"),
    ],
)
def test_unusable_weights(trained, tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        LeukocytePredictor(path, trained[0].parent / "config.yaml")
    assert "weights.pth" in str(caught.value)


def test_heads_of_another_number_of_classes_are_refused(trained, tmp_path):
    weights, model, _ = trained
    torch.save({"model": model.state_dict(), "class_names": NAMES[:2]}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"3 rows, but 2 classes"):
        LeukocytePredictor(tmp_path / "weights.pth", weights.parent / "config.yaml")


def test_impossible_settings(trained, tmp_path):
    with pytest.raises(ConfigError, match="threshold"):
        LeukocytePredictor(trained[0], threshold=40)
    with pytest.raises(ConfigError, match="toaster"):
        LeukocytePredictor(trained[0], device="toaster")
    (tmp_path / "bad.yaml").write_text("MODEL: [unclosed")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        LeukocytePredictor(trained[0], tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=["gray", "float", "empty"],
)
def test_an_array_that_is_no_image_is_refused(trained, image):
    with pytest.raises(DataError, match="expected uint8"):
        LeukocytePredictor(trained[0])(image)
