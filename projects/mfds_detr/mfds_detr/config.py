"""The configuration keys that MFDS-DETR adds to Detectron2's."""

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from mfds_detr.config_limits import check_config
from mfds_detr.project_files import project_files
from wbcnets.errors import ConfigError
from wbcnets.io.strict_yaml import MAX_BYTES, parse_yaml, read_yaml

MAX_BASES = 16


def add_mfds_detr_config(cfg: CfgNode) -> None:
    """Adds the project's keys to a Detectron2 config, with the paper's values as defaults."""
    _add_model_keys(cfg)
    _add_training_keys(cfg)


def read_config(config_file: str | os.PathLike[str], overrides: Sequence[Any] = ()) -> CfgNode:
    """Returns a config read from a file, with keys overridden; runs no code from the file.

    Args:
        config_file: A YAML file, the name of a config that comes with the project, or "" for the
            defaults.
        overrides: Keys and values in turn, such as ``["SOLVER.MAX_ITER", 100]``.

    Raises:
        ConfigError: if the file cannot be read, a key is unknown, or a value is out of range.
    """

    def merge_file(cfg: CfgNode) -> None:
        path = find_config(source)
        _check_files(path)
        cfg.merge_from_file(str(path), allow_unsafe=False)

    source = os.fspath(config_file)
    return _build_config(source, merge_file if source else lambda cfg: None, overrides)


def parse_config(text: str, name: str, overrides: Sequence[Any] = ()) -> CfgNode:
    """Returns a config from a text, which must not have a base; see ``read_config``.

    Args:
        text: YAML, such as ``CfgNode.dump`` returns.
        name: Names the text in messages.
        overrides: Keys and values in turn.

    Raises:
        ConfigError: if the text is no such YAML, or a key or a value is unknown.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: is longer than {MAX_BYTES:,} characters")
    settings = parse_yaml(text, name)
    if not isinstance(settings, dict) or "_BASE_" in settings:
        raise ConfigError(f"{name}: should be sections of keys, without a _BASE_")
    return _build_config(name, lambda cfg: cfg.merge_from_other_cfg(CfgNode(settings)), overrides)


def _build_config(
    source: str, merge: Callable[[CfgNode], None], overrides: Sequence[Any]
) -> CfgNode:
    cfg = get_cfg()
    add_mfds_detr_config(cfg)
    try:
        merge(cfg)
        source = "the overridden keys"
        cfg.merge_from_list(list(overrides))
    except ConfigError:
        raise
    except (KeyError, ValueError, TypeError, AssertionError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: {error}; see mfds_detr/config.py for the keys") from error
    check_config(cfg)
    return cfg


def find_config(name: str) -> Path:
    """Returns the file of a config, given by path or by the name of a shipped one.

    Raises:
        ConfigError: if the name is neither.
    """
    path = Path(name)
    if path.suffix or os.path.isfile(path):
        return path
    shipped = project_files("configs")
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=5, cutoff=0.4) or list(shipped)
        raise ConfigError(
            f"{name}: no such file, and no config of this name; did you mean {', '.join(near)}?",
            setting="config_file",
        )
    return shipped[name]


def _check_files(path: Path, depth: int = 0) -> None:
    """Refuses what Detectron2 fails on without a clear message, in a file and in its bases."""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: not a .yaml file; Python configs are refused, they run code")
    if depth > MAX_BASES:
        raise ConfigError(f"{path}: has more than {MAX_BASES} bases, perhaps itself among them")
    settings = read_yaml(path)
    if not isinstance(settings, (dict, type(None))):
        raise ConfigError(f"{path}: holds a {type(settings).__name__}, expected sections of keys")
    base = (settings or {}).get("_BASE_")
    if isinstance(base, str) and "://" not in base:
        _check_files(path.parent / Path(base).expanduser(), depth + 1)
    elif base is not None:
        raise ConfigError(f"{path}: _BASE_ {base!r} is not the path of a local file")


def _add_model_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MFDS_DETR = model = CfgNode()
    # 0 takes the number from the first training set, or from the checkpoint's class names
    model.NUM_CLASSES = 0
    model.NUM_QUERIES = 100
    model.HIDDEN_DIM = 256
    model.NUM_HEADS = 8
    model.NUM_POINTS = 4
    model.FEEDFORWARD_DIM = 1024
    model.ENCODER_LAYERS = 6
    model.DECODER_LAYERS = 6
    model.ENCODER_LEVELS = 0  # the coarsest levels that the encoder refines; 0 for all
    model.DENOISING_QUERIES = 0  # in training, about so many per image (DINO)
    model.FIRST_STAGE = CfgNode()
    model.FIRST_STAGE.CLASSES = False  # proposals have classes
    model.FIRST_STAGE.TOKEN_CONTENT = False  # queries start with the content of their tokens
    model.FIRST_STAGE.DENSE = False  # several tokens learn each object (TOOD)
    model.DROPOUT = 0.1
    model.POSITION_ENCODING = "sine"  # sine, learned or none (table 9)
    model.LEVEL_EMBED = True  # the paper's scale encoding (table 9)
    model.BOX_REFINEMENT = False
    model.TWO_STAGE = False
    model.AUX_LOSS = True  # table 10

    # The paper's block after the last stage of the backbone; it adds a map of stride 64
    model.EXTRA_STAGE = True
    model.NECK = CfgNode()
    model.NECK.NAME = "hs_fpn"  # table 6; wbcnets.layers.neck_names() lists all
    model.NECK.OPTIONS = CfgNode(new_allowed=True)

    model.MATCHER = CfgNode({"CLASS_COST": 2.0, "L1_COST": 5.0, "GIOU_COST": 2.0})
    model.LOSS = CfgNode({"CLASS_WEIGHT": 2.0, "L1_WEIGHT": 5.0, "GIOU_WEIGHT": 2.0})
    model.LOSS.FOCAL_ALPHA = [0.25]  # one for all classes, or one per class
    # "constant" takes FOCAL_ALPHA; "fraction" and "inverse_fraction" compute it from the
    # class fractions of the training set (equation 9)
    model.LOSS.FOCAL_ALPHA_RULE = "constant"
    model.LOSS.FOCAL_GAMMA = 2.0
    model.LOSS.QUALITY = False  # scores learn the IoU of their box (DEIM)

    # For MODEL.BACKBONE.NAME "build_timm_backbone"
    cfg.MODEL.TIMM = timm = CfgNode()
    timm.NAME = "resnet50"
    timm.OUT_INDICES = (2, 3, 4)  # strides 8, 16 and 32 of a ResNet
    timm.OPTIONS = CfgNode(new_allowed=True)  # keywords of timm.create_model
    timm.FREEZE = ()  # children by name, such as ("conv1", "bn1", "layer1")
    timm.FROZEN_BN = False

    # True loads the tensors of MODEL.WEIGHTS that fit and lists the others; False refuses misfits
    cfg.MODEL.WEIGHTS_PARTIAL = False


def _add_training_keys(cfg: CfgNode) -> None:
    cfg.SOLVER.BACKBONE_LR = 2e-5
    cfg.SOLVER.NECK_LR = 3e-4
    # For the layers that predict sampling offsets and reference points
    cfg.SOLVER.SAMPLING_LR_FACTOR = 0.1
    cfg.SOLVER.AMP.PRECISION = "float16"  # or bfloat16
    cfg.SOLVER.CLIP_NORM = 0.1  # of all gradients together, 0 for none
    cfg.SOLVER.EMA = CfgNode({"ENABLED": False, "DECAY": 0.9998})
    cfg.SOLVER.CHECKPOINTS_KEPT = 3
    cfg.SOLVER.MAX_BAD_STEPS = 10  # consecutive non-finite steps that stop the training
    # True trains although images are in a training set and in a test set
    cfg.DATASETS.ALLOW_LEAKS = False
    cfg.DATALOADER.TIMEOUT = 300.0  # seconds a worker may take for a batch, 0 for no limit

    cfg.INPUT.VERTICAL_FLIP = False  # smears have no upright orientation
    # Smallest height and width of a random crop as fractions of the image, (1.0, 1.0) for no crop
    cfg.INPUT.CROP_FRACTION = (1.0, 1.0)
    cfg.INPUT.CROP_PROBABILITY = 0.5
    cfg.INPUT.CELL_PASTE = 0.0  # probability that cells of another image are pasted into an image
    # Height and width of the canvas that training images are scaled to and cropped or filled up to;
    # (0, 0) leaves the size to MIN_SIZE_TRAIN
    cfg.INPUT.CANVAS = (0, 0)
    # The longer side of an image in canvases, lowest and highest
    cfg.INPUT.CANVAS_SCALE = (1.0, 1.0)
    cfg.INPUT.ALBUMENTATIONS = CfgNode()
    # A name in wbcnets.data.detection.augmentation.PRESETS
    cfg.INPUT.ALBUMENTATIONS.PRESET = "none"
    cfg.INPUT.ALBUMENTATIONS.TRANSFORMS = []  # or a list such as [{"name": "Blur", "p": 0.1}]

    # The fraction of the training images that are not trained on: they choose the best checkpoint,
    # calibrate its scores and choose its thresholds. 0 leaves the first to DATASETS.TEST
    cfg.DATASETS.HELD_OUT = 0.0
    # A number per class, or none: slope and offset of the logits, and the lowest score to report,
    # which predictions use and evaluations do not
    cfg.TEST.CALIBRATION = CfgNode({"SLOPES": [], "OFFSETS": [], "THRESHOLDS": []})
    cfg.TEST.SCORE_THRESHOLD = 0.0
    # Of two boxes of a class with a higher IoU the weaker is dropped; 0 keeps all, as DETR does
    cfg.TEST.NMS_IOU = 0.0
    cfg.TEST.SAMPLE_PICTURES = 9  # images drawn with predictions after each evaluation
