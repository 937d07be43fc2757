"""Every config is valid, differs from its base as its name says, and gives a model with losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from mfds_detr import add_mfds_detr_config
from mfds_detr.config import read_config
from mfds_detr.config_limits import check_config
from wbcnets.data.cards.detection import DETECTION_CARDS
from wbcnets.data.cards.paths import DATASET_NAMES
from wbcnets.errors import ConfigError

PROJECT = Path(__file__).parents[2] / "projects" / "mfds_detr"
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))
ABLATIONS = sorted((PROJECT / "configs" / "ablations").glob("*.yaml"))
MODEL = "MODEL.MFDS_DETR"

# The keys that each row of tables 6 to 10 changes; the rows of the full model change nothing
ROWS: dict[str, dict[str, Any]] = {
    "table6_fpn": {f"{MODEL}.NECK.NAME": "fpn"},
    "table6_bifpn": {f"{MODEL}.NECK.NAME": "bifpn"},
    "table6_pafpn": {f"{MODEL}.NECK.NAME": "pafpn"},
    "table6_fapn": {f"{MODEL}.NECK.NAME": "fapn"},
    "table6_hs_fpn_bilinear": {f"{MODEL}.NECK.NAME": "hs_fpn_bilinear"},
    "table6_hs_fpn": {},
    "table7_encoder_0": {f"{MODEL}.ENCODER_LAYERS": 0},
    "table7_encoder_1": {f"{MODEL}.ENCODER_LAYERS": 1},
    "table7_encoder_3": {f"{MODEL}.ENCODER_LAYERS": 3},
    "table7_encoder_6": {},
    "table8_decoder_1": {f"{MODEL}.DECODER_LAYERS": 1},
    "table8_decoder_3": {f"{MODEL}.DECODER_LAYERS": 3},
    "table8_decoder_6": {},
    "table9_no_spatial": {f"{MODEL}.POSITION_ENCODING": "none"},
    "table9_sine": {},
    "table9_learned": {f"{MODEL}.POSITION_ENCODING": "learned"},
    "table9_no_scale": {f"{MODEL}.LEVEL_EMBED": False},
    "table10_no_giou": {f"{MODEL}.LOSS.GIOU_WEIGHT": 0.0},
    "table10_no_l1": {f"{MODEL}.LOSS.L1_WEIGHT": 0.0},
    "table10_no_auxiliary": {f"{MODEL}.AUX_LOSS": False},
    "table10_all": {},
}
BASELINE = {
    f"{MODEL}.EXTRA_STAGE": False,
    f"{MODEL}.NECK.NAME": "channel_mapper",
    f"{MODEL}.NECK.OPTIONS.num_extra_levels": 1,
}
SCHEDULES = {
    "mfds_detr_r50_bccd": 292,
    "mfds_detr_r50_wbcdd": 540,
    "mfds_detr_r50_lisc": 200,
    "mfds_detr_r50_txl_pbc": 882,
    "mfds_detr_r50_coco": 118_287,
}
SMALL = [
    *("MODEL.DEVICE", "cpu", f"{MODEL}.NUM_CLASSES", "3", f"{MODEL}.NUM_QUERIES", "5"),
    *(f"{MODEL}.HIDDEN_DIM", "64", f"{MODEL}.FEEDFORWARD_DIM", "64"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
]


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key, value in node.items():
        nested = isinstance(value, CfgNode)
        keys |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return keys


def changes(path: Path) -> dict[str, Any]:
    """Returns the keys in which a config differs from its ``_BASE_``, except ``OUTPUT_DIR``."""
    base = flat(read_config(path.parent / yaml.safe_load(path.read_text())["_BASE_"]))
    own = flat(read_config(path))
    assert own.keys() >= base.keys()
    different = {key for key in own if key not in base or own[key] != base[key]}
    return {key: own[key] for key in different - {"OUTPUT_DIR"}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_merges_and_passes_the_check(path: Path) -> None:
    cfg = get_cfg()
    add_mfds_detr_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
    check_config(cfg)
    assert cfg.VERSION == 2
    assert cfg.MODEL.META_ARCHITECTURE == "MFDSDETR"
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_datasets_are_known(path: Path) -> None:
    cfg = read_config(path)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    given = {"smears_train", "smears_val", "coco_2017_train", "coco_2017_val"}
    assert set(names) <= set(DATASET_NAMES) | given
    assert not set(cfg.DATASETS.TRAIN) & set(cfg.DATASETS.TEST)


def test_every_config_writes_into_a_folder_of_its_own() -> None:
    folders = [read_config(path).OUTPUT_DIR for path in CONFIGS]
    assert len(set(folders)) == len(folders)


def test_every_row_of_tables_6_to_10_has_a_config() -> None:
    assert {path.stem for path in ABLATIONS} == ROWS.keys()


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_what_its_row_says(path: Path) -> None:
    assert changes(path) == ROWS[path.stem]


@pytest.mark.parametrize("name", ["bccd", "wbcdd"])
def test_the_baseline_changes_neck_and_extra_stage(name: str) -> None:
    assert changes(PROJECT / "configs" / f"deformable_detr_r50_{name}.yaml") == BASELINE


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_50_epochs_with_a_drop_after_40(name: str) -> None:
    solver = read_config(PROJECT / "configs" / f"{name}.yaml").SOLVER
    epoch = -(-SCHEDULES[name] // solver.IMS_PER_BATCH)
    assert 50 * epoch == solver.MAX_ITER
    assert (40 * epoch,) == solver.STEPS


def test_the_schedules_use_the_cards_numbers_of_images() -> None:
    for name, images in SCHEDULES.items():
        for dataset in read_config(PROJECT / "configs" / f"{name}.yaml").DATASETS.TRAIN:
            card, _, split = dataset.rpartition("_")
            assert card not in DETECTION_CARDS or DETECTION_CARDS[card].splits[split] == images


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_model_builds_at_full_size(path: Path) -> None:
    cfg = read_config(path, [f"{MODEL}.NUM_CLASSES", 3])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    low, high = (3, 6) if "tiny" in path.stem else (35, 70)
    assert low < millions < high
    assert len(model.detector.transformer.encoder.layers) == cfg.MODEL.MFDS_DETR.ENCODER_LAYERS
    assert len(model.detector.transformer.decoder.layers) == cfg.MODEL.MFDS_DETR.DECODER_LAYERS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_small_model_gives_the_losses_that_the_config_asks_for(path: Path) -> None:
    torch.manual_seed(0)
    cfg = read_config(path, SMALL)
    model = build_model(cfg).train()
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    losses = model([{"image": torch.randint(0, 256, (3, 64, 64)), "instances": instances}])
    settings = cfg.MODEL.MFDS_DETR
    parts = {"loss_class"}
    parts |= {"loss_l1"} if settings.LOSS.L1_WEIGHT else set()
    parts |= {"loss_giou"} if settings.LOSS.GIOU_WEIGHT else set()
    earlier = range(settings.DECODER_LAYERS - 1) if settings.AUX_LOSS else ()
    suffixes = ["", *(f"_{layer}" for layer in earlier)]
    suffixes += ["_encoder"] if settings.TWO_STAGE else []
    if settings.DENOISING_QUERIES:
        suffixes += [f"_denoising_{layer}" for layer in range(settings.DECODER_LAYERS)]
    assert losses.keys() == {part + suffix for part in parts for suffix in suffixes}
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    assert total > 0


def test_an_unknown_key_of_the_command_line_is_named() -> None:
    with pytest.raises(ConfigError, match=r"NUM_QUERYS"):
        read_config(CONFIGS[0], [f"{MODEL}.NUM_QUERYS", "5"])


def test_an_unknown_key_of_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("VERSION: 2\nMODEL:\n  MFDS_DETR:\n    NECK_NAME: fpn\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*NECK_NAME"):
        read_config(path)


def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("VERSION: 2\nMODEL:\n  MFDS_DETR:\n    NUM_QUERIES: many\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*NUM_QUERIES"):
        read_config(path)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.BASE_LR", float("inf"), "inf should be a number from 1e-09 to 1,000"),
        ("SOLVER.BASE_LR", float("nan"), "nan should be a number from 1e-09"),
        ("SOLVER.BASE_LR", -1.0, "-1.0 should be a number from 1e-09"),
        ("SOLVER.BACKBONE_LR", float("nan"), "nan should be a number from 0"),
        ("SOLVER.WEIGHT_DECAY", float("inf"), "inf should be"),
        ("SOLVER.CLIP_NORM", -1.0, "should be 0, or a number from 1e-09"),
        ("SOLVER.CLIP_NORM", 1e-300, "should be 0, or a number from 1e-09"),
        ("SOLVER.BASE_LR", 1e-300, "1e-300 should be a number from 1e-09"),
        ("SOLVER.MAX_ITER", 0, "0 should be a whole number from 1"),
        ("SOLVER.IMS_PER_BATCH", 0, "0 should be a whole number from 1 to 10,000"),
        ("SOLVER.IMS_PER_BATCH", 10**9, "should be a whole number from 1 to 10,000"),
        ("SOLVER.STEPS", (100, 50), "should be ascending whole numbers above 0"),
        ("SOLVER.STEPS", (0,), "should be ascending whole numbers above 0"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "should be one of WarmupMultiStepLR"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "should be a whole number from 1"),
        ("SOLVER.EMA.DECAY", 1.5, "should be a number from 0"),
        ("SOLVER.AMP.PRECISION", "float8", "should be one of float16, bfloat16"),
        ("DATALOADER.NUM_WORKERS", 100_000, "at most 64 processes; this machine has"),
        ("DATALOADER.NUM_WORKERS", -1, "should be a whole number from 0"),
        ("DATALOADER.TIMEOUT", float("nan"), "should be a number from 0"),
        ("DATALOADER.SAMPLER_TRAIN", "Other", "should be one of TrainingSampler"),
        ("INPUT.MIN_SIZE_TRAIN", (0,), "should be a list of whole numbers from 8 to 8,192"),
        ("INPUT.MIN_SIZE_TRAIN", (), "should be a list of whole numbers"),
        ("INPUT.MAX_SIZE_TRAIN", 10**6, "should be a whole number from 8 to 8,192"),
        ("INPUT.MIN_SIZE_TEST", 10**6, "should be a whole number from 0 to 8,192"),
        ("INPUT.CROP_FRACTION", (0.0, 1.0), "should be 2 numbers from 0.01 to 1"),
        ("INPUT.FORMAT", "HSV", "should be one of RGB, BGR"),
        ("INPUT.ALBUMENTATIONS.TRANSFORMS", [{"p": float("nan")}], "TRANSFORMS.0.p=nan is out of"),
        ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0], "should be 3 numbers from 0.1"),
        ("MODEL.PIXEL_STD", [1.0, 1.0], "should be 3 numbers"),
        ("MODEL.PIXEL_MEAN", [float("nan"), 0.0, 0.0], "should be 3 numbers from 0"),
        (f"{MODEL}.NUM_QUERIES", 10**7, "should be a whole number from 1 to 10,000"),
        (f"{MODEL}.NUM_CLASSES", -1, "should be a whole number from 0"),
        (f"{MODEL}.ENCODER_LAYERS", 10**6, "should be a whole number from 0 to 100"),
        (f"{MODEL}.HIDDEN_DIM", 10**6, "should be a whole number from 1 to 4,096"),
        (f"{MODEL}.DROPOUT", 1.0, "should be a number from 0 to 0.999"),
        (f"{MODEL}.LOSS.CLASS_WEIGHT", 0.0, "should be a number from 1e-09"),
        (f"{MODEL}.LOSS.L1_WEIGHT", -1.0, "should be a number from 0"),
        (f"{MODEL}.LOSS.FOCAL_ALPHA", [float("nan")], "should be a list of numbers from -1 to 1"),
        (f"{MODEL}.LOSS.FOCAL_GAMMA", float("inf"), "should be a number from 0"),
        (f"{MODEL}.MATCHER.GIOU_COST", float("nan"), "should be a number from 0"),
        ("TEST.SCORE_THRESHOLD", 2.0, "should be a number from 0 to 1"),
        ("TEST.NMS_IOU", float("nan"), "should be a number from 0 to 1"),
        ("TEST.DETECTIONS_PER_IMAGE", 0, "should be a whole number from 1"),
        ("TEST.EVAL_PERIOD", -1, "should be a whole number from 0"),
    ],
)
def test_values_out_of_range_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(CONFIGS[0], [key, value])
    assert key.rpartition(".")[0] in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["MODEL.TIMM.OPTIONS", f"{MODEL}.NECK.OPTIONS"])
def test_free_values_out_of_range_are_named(key: str, tmp_path: Path) -> None:
    settings: Any = {"width": 10**9}
    for part in reversed(key.split(".")):
        settings = {part: settings}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=rf"{key}\.width=1000000000 is out of range"):
        read_config(path)


def test_all_values_out_of_range_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("", ["SOLVER.MAX_ITER", 0, "SEED", -5, "TEST.NMS_IOU", 2.0])
    assert str(caught.value).count("\n  - ") == 3


def test_costs_that_are_all_zero_match_nothing() -> None:
    costs = [f"{MODEL}.MATCHER.{name}_COST" for name in ("CLASS", "L1", "GIOU")]
    with pytest.raises(ConfigError, match="at least one cost should be above 0"):
        read_config("", [part for key in costs for part in (key, 0.0)])
