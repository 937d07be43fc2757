import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcnets.errors import ConfigError, DataError
from wbcnets.synthetic import smears
from wbcnets.synthetic.cells import ABSORBERS, DIAMETERS, Cell, Texture, draw_cell
from wbcnets.synthetic.layout import CellPosition, position_cells
from wbcnets.synthetic.optics import STAINS, stain_colors, transmit
from wbcnets.synthetic.smears import (
    LEUKOCYTE_CLASSES,
    SMEAR_CLASSES,
    Smear,
    SmearStyle,
    _Film,
    generate_smear,
    smears_to_coco,
    write_smear_dataset,
)

REPOSITORY = Path(__file__).parents[2]
SMALL = SmearStyle(height=240, width=320, magnification=0.5)
STYLES = (
    SMALL,
    SmearStyle(height=120, width=200, magnification=0.3, stain="random", leukocytes=3),
    SmearStyle(height=480, width=640, stain=0.9),
)


def digest(smear: Smear) -> str:
    content = smear.image.tobytes() + smear.boxes.tobytes() + smear.labels.tobytes()
    return hashlib.sha256(content).hexdigest()


def drawn(name: str, seed: int, magnification: float = 0.5) -> tuple[Cell, np.ndarray]:
    """One cell alone on clear film: the cell and its colors, (h, w, 3)."""
    rng = np.random.default_rng(seed)
    texture = Texture(rng, magnification)
    radius = 0.25 * magnification * sum(DIAMETERS[name])
    cell = draw_cell(name, rng, radius, texture)
    light = np.ones(cell.cover.shape, dtype=np.float32)
    return cell, transmit(cell.absorbers, STAINS["wright"], light)


def test_same_seed_gives_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from wbcnets.synthetic.smears import *; "
        "s = generate_smear(7, SmearStyle(height=240, width=320, magnification=0.5)); "
        "c = s.image.tobytes() + s.boxes.tobytes() + s.labels.tobytes(); "
        "print(hashlib.sha256(c).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == digest(generate_smear(7, SMALL))


def test_seed_sequence_is_not_used_up() -> None:
    sequence = np.random.SeedSequence(3)
    assert digest(generate_smear(sequence, SMALL)) == digest(generate_smear(sequence, SMALL))
    assert digest(generate_smear(sequence, SMALL)) == digest(generate_smear(3, SMALL))


def test_other_seed_or_style_gives_another_smear() -> None:
    smears = [generate_smear(1, SMALL), generate_smear(2, SMALL)]
    smears.append(generate_smear(1, dataclasses.replace(SMALL, stain="giemsa")))
    assert len({digest(smear) for smear in smears}) == 3


@pytest.mark.parametrize("style", STYLES, ids=("small", "dense", "blue"))
def test_types_and_boxes_within_the_image(style: SmearStyle) -> None:
    for seed in range(4):
        smear = generate_smear(seed, style)
        assert smear.image.shape == (style.height, style.width, 3)
        assert smear.image.dtype == np.uint8
        assert smear.boxes.dtype == np.float32
        assert smear.labels.dtype == np.int64
        assert smear.boxes.shape == (len(smear.labels), 4)
        x1, y1, x2, y2 = smear.boxes.T
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x2 <= style.width).all()
        assert (y2 <= style.height).all()
        assert (x2 > x1).all()
        assert (y2 > y1).all()


@pytest.mark.parametrize("name", SMEAR_CLASSES)
@pytest.mark.parametrize("spot", [(80, 60), (5, 60), (80, 115), (159, 1)])
def test_boxes_are_tight_around_what_is_drawn(name: str, spot: tuple[int, int]) -> None:
    cell, _ = drawn(name, seed=11, magnification=0.4)
    film = _Film(120, 160)
    box = film.add(cell, CellPosition(name, *spot, radius=1.0))
    rows, columns = np.nonzero(film.absorbers.sum(axis=0) > 0.0)
    whole = np.count_nonzero(cell.cover > 0.5)
    if box is None:
        assert len(rows) < 0.35 * whole
        return
    extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(box, extent, atol=2.0)


def test_boxes_match_the_darkened_pixels_of_an_image() -> None:
    style = SmearStyle(
        red_cells=3, platelets=0, leukocytes=0, vary=False, noise=0, unevenness=0, blur=0.5
    )
    compared = 0
    for seed in range(14):
        smear = generate_smear(seed, style)
        green = smear.image[..., 1].astype(np.float32)
        dark = (green < np.percentile(green, 95) - 14).astype(np.uint8)
        for x1, y1, x2, y2 in smear.boxes.astype(int).tolist():
            others = smear.boxes[(smear.boxes != (x1, y1, x2, y2)).any(axis=1)]
            apart = (
                (others[:, 0] > x2 + 8)
                | (others[:, 2] < x1 - 8)
                | (others[:, 1] > y2 + 8)
                | (others[:, 3] < y1 - 8)
            )
            if not apart.all() or min(x1, y1) < 8 or x2 > 632 or y2 > 472:
                continue
            rows, columns = np.nonzero(dark[y1 - 6 : y2 + 6, x1 - 6 : x2 + 6])
            seen = (columns.min() - 6, rows.min() - 6, columns.max() - 5, rows.max() - 5)
            np.testing.assert_allclose(np.add(seen, (x1, y1, x1, y1)), (x1, y1, x2, y2), atol=3)
            compared += 1
    assert compared >= 4


def test_red_cell_below_a_leukocyte_is_not_annotated() -> None:
    leukocyte, _ = drawn("monocyte", seed=1)
    red_cell, _ = drawn("RBC", seed=2)
    film = _Film(200, 200)
    assert film.add(leukocyte, CellPosition("monocyte", 100, 100, 1.0)) is not None
    assert film.add(red_cell, CellPosition("RBC", 100, 100, 1.0)) is None
    assert film.add(red_cell, CellPosition("RBC", 30, 30, 1.0)) is not None


def test_optical_densities_of_overlapping_cells_add_up() -> None:
    light = np.ones((1, 1), dtype=np.float32)
    stain = stain_colors("wright")

    def density(amount: float) -> np.ndarray:
        absorbers = np.zeros((len(ABSORBERS), 1, 1), dtype=np.float32)
        absorbers[0] = amount
        glare = 0.1
        passed = (transmit(absorbers, stain, light) / stain.background - glare) / (1 - glare)
        return -np.log(passed[0, 0])

    np.testing.assert_allclose(density(1.0), stain.absorption[0], rtol=1e-4)
    np.testing.assert_allclose(density(0.4) + density(0.7), density(1.1), rtol=1e-4)


def test_every_class_occurs_with_its_relative_size() -> None:
    style = dataclasses.replace(SMALL, leukocytes=4, vary=False, height=320, width=400)
    sizes: dict[str, list[float]] = {name: [] for name in SMEAR_CLASSES}
    for seed in range(40):
        smear = generate_smear(seed, style)
        for (x1, y1, x2, y2), label in zip(smear.boxes.tolist(), smear.labels.tolist()):
            if x1 > 0 and y1 > 0 and x2 < style.width and y2 < style.height:
                sizes[SMEAR_CLASSES[label]].append(((x2 - x1) * (y2 - y1)) ** 0.5)
    assert all(len(found) >= 3 for found in sizes.values())
    median = {name: float(np.median(found)) for name, found in sizes.items()}
    order = ("platelet", "RBC", "lymphocyte", "basophil", "neutrophil", "monocyte")
    assert [median[name] for name in order] == sorted(median[name] for name in order)
    assert 44 <= median["RBC"] <= 60


def test_magnification_scales_the_boxes() -> None:
    medians = []
    for magnification in (0.3, 0.6):
        style = SmearStyle(
            height=400,
            width=400,
            magnification=magnification,
            leukocytes=0,
            platelets=0,
            vary=False,
        )
        boxes = np.concatenate([generate_smear(seed, style).boxes for seed in range(5)])
        inside = boxes[(boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < 400).all(axis=1)]
        medians.append(float(np.median(inside[:, 2] - inside[:, 0])))
    assert medians[1] / medians[0] == pytest.approx(2.0, rel=0.08)


def test_leukocyte_classes_differ_in_color() -> None:
    """Red share of the cytoplasm's absorption tells eosinophils; density tells the others."""

    def mean_color(name: str) -> np.ndarray:
        colors = []
        for seed in range(12):
            cell, pixels = drawn(name, seed)
            colors.append(pixels[cell.cover > 0.5].mean(axis=0))
        return np.mean(colors, axis=0)

    color = {name: mean_color(name) for name in LEUKOCYTE_CLASSES}
    redness = {name: float(rgb[0] - rgb[2]) for name, rgb in color.items()}
    others = [redness[name] for name in LEUKOCYTE_CLASSES if name != "eosinophil"]
    assert redness["eosinophil"] > max(others) + 20
    assert color["basophil"].sum() < color["neutrophil"].sum() - 60
    assert color["lymphocyte"].sum() < color["monocyte"].sum() - 40


def test_stain_balance_goes_from_pink_to_blue() -> None:
    pink, blue = (
        generate_smear(5, dataclasses.replace(SMALL, stain=balance, vary=False)).image.mean((0, 1))
        for balance in (0.0, 1.0)
    )
    assert pink[0] - pink[2] > blue[0] - blue[2] + 5


def test_color_statistics_are_those_of_bccd() -> None:
    images = [generate_smear(seed).image.reshape(-1, 3).astype(np.float32) for seed in range(12)]
    mean = np.mean([image.mean(axis=0) for image in images], axis=0)
    # The mean color of every fourth BCCD image, counted once.
    np.testing.assert_allclose(mean, (188.1, 177.6, 182.5), atol=10)


def test_numbers_of_cells_follow_the_style() -> None:
    style = SmearStyle(leukocytes=2.0, red_cells=10, vary=False)
    counts = {"leukocytes": 0, "empty": 0, "red": 0}
    for seed in range(300):
        names = [cell.name for cell in position_cells(np.random.default_rng(seed), style)]
        leukocytes = sum(name in LEUKOCYTE_CLASSES for name in names)
        counts["leukocytes"] += leukocytes
        counts["empty"] += leukocytes == 0
        counts["red"] += names.count("RBC")
    assert counts["leukocytes"] / 300 == pytest.approx(2.0, abs=0.35)
    assert 3 <= counts["empty"] <= 45
    assert counts["red"] / 300 == pytest.approx(10, abs=1.5)
    nothing = dataclasses.replace(SMALL, red_cells=0, platelets=0, leukocytes=0)
    empty = generate_smear(0, nothing)
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.shape == (0,)


def test_dataset_loads_in_pycocotools_and_fits_its_files(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    path = write_smear_dataset(tmp_path / "set", 4, seed=3, style=SMALL)
    coco = coco_module.COCO(str(path))
    assert coco.dataset["info"]["seed"] == 3
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SMEAR_CLASSES)
    assert coco.getAnnIds() == list(range(1, len(coco.dataset["annotations"]) + 1))
    for index, image in enumerate(coco.loadImgs(coco.getImgIds())):
        pixels = cv2.imread(str(tmp_path / "set" / "images" / image["file_name"]))
        assert pixels is not None
        assert pixels.shape == (image["height"], image["width"], 3)
        smear = generate_smear(np.random.SeedSequence(3, spawn_key=(index,)), SMALL)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(boxes, smear.boxes)
        assert [a["category_id"] - 1 for a in annotations] == smear.labels.tolist()
        assert all(a["iscrowd"] == 0 for a in annotations)
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in annotations)
        assert np.abs(pixels[..., ::-1].astype(int) - smear.image).mean() < 4


def test_threads_change_nothing_and_a_longer_set_begins_with_the_shorter(tmp_path: Path) -> None:
    write_smear_dataset(tmp_path / "a", 4, style=SMALL, suffix=".png")
    write_smear_dataset(tmp_path / "b", 6, style=SMALL, suffix=".png", workers=3)
    for index in range(4):
        name = f"smear_{index:06d}.png"
        first, second = (tmp_path / folder / "images" / name for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
    write_smear_dataset(tmp_path / "b", 4, style=SMALL, suffix=".png", workers=2)
    a, b = ((tmp_path / folder / "annotations.json").read_text() for folder in "ab")
    assert a == b
    assert len(list((tmp_path / "b" / "images").iterdir())) == 4


def test_classes_restrict_the_annotations_but_not_the_picture(tmp_path: Path) -> None:
    style = dataclasses.replace(SMALL, leukocytes=3)
    write_smear_dataset(tmp_path / "all", 3, style=style)
    path = write_smear_dataset(tmp_path / "few", 3, style=style, classes=LEUKOCYTE_CLASSES)
    coco = json.loads(path.read_text())
    assert [c["name"] for c in coco["categories"]] == list(LEUKOCYTE_CLASSES)
    everything = json.loads((tmp_path / "all" / "annotations.json").read_text())["annotations"]
    expected = [a["bbox"] for a in everything if a["category_id"] > 2]
    assert [a["bbox"] for a in coco["annotations"]] == expected
    assert 0 < len(expected) < len(everything)
    images = [tmp_path / folder / "images" / "smear_000000.jpg" for folder in ("all", "few")]
    assert images[0].read_bytes() == images[1].read_bytes()


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="did not write"):
        write_smear_dataset(tmp_path, 1, style=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="is a file"):
        write_smear_dataset(tmp_path / "thesis.txt", 1, style=SMALL)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stain.*wright.*'ink'"):
        SmearStyle(stain="ink")
    with pytest.raises(ConfigError, match=r"height.*magnification"):
        SmearStyle(height=3, magnification=float("nan"))
    with pytest.raises(DataError, match="WBC"):
        write_smear_dataset(tmp_path / "x", 1, classes=("WBC",))
    with pytest.raises(DataError, match="num_images"):
        write_smear_dataset(tmp_path / "x", 0)
    with pytest.raises(DataError, match="1 smears, but 2"):
        smears_to_coco([generate_smear(0, SMALL)], ["a.jpg", "b.jpg"])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arguments", [{"num_images": 10**9}, {"num_images": 1, "workers": 10**9}])
def test_numbers_that_no_machine_bears_are_refused(
    tmp_path: Path, arguments: dict[str, int]
) -> None:
    with pytest.raises(DataError, match=r"num_images must be from 1 to 1,000,000, workers .* 64"):
        write_smear_dataset(tmp_path / "x", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_gets_one_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smears, "_BLOCK", 2)
    path = write_smear_dataset(tmp_path / "x", 5, style=SMALL, workers=2)
    names = [image["file_name"] for image in json.loads(path.read_text())["images"]]
    assert names == [f"smear_{index:06d}.jpg" for index in range(5)]
