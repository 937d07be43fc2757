"""The ranges of the config's values, checked in one place before any work."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from mfds_detr.modeling.position_encoding import POSITION_ENCODINGS
from wbcnets.engine.loader import check_workers
from wbcnets.errors import ConfigError
from wbcnets.io.schema import MAX_LIMIT, MAX_NUMBER, MIN_POSITIVE, check_plain
from wbcnets.losses.focal import ALPHA_RULES


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``.

    Args:
        low: The lowest number.
        high: The highest number.
        or_zero: Whether 0 is in range, too.
        whole: Whether the numbers are whole.
        length: The number of values in a list of numbers; None for one number, 0 for any length.
        empty: Whether a list of any length may be empty.
    """

    low: float
    high: float
    or_zero: bool = False
    whole: bool = False
    length: int | None = None
    empty: bool = False

    def __str__(self) -> str:
        numbers = "whole numbers" if self.whole else "numbers"
        kind = {None: f"a {numbers[:-1]}", 0: f"a list of {numbers}"}.get(self.length)
        zero = "0, or " if self.or_zero else ""
        return f"{zero}{kind or f'{self.length} {numbers}'} from {self.low:,} to {self.high:,}"

    def holds(self, value: Any) -> bool:
        """Returns whether a value lies in the range."""
        if self.length is None:
            return self._holds_number(value)
        if not isinstance(value, (list, tuple)) or not (value or self.empty):
            return False
        return self.length in (0, len(value)) and all(map(self._holds_number, value))

    def _holds_number(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.whole and not isinstance(value, int):
            return False
        return self.low <= value <= self.high or (self.or_zero and value == 0)


def _whole(low: int, high: int, length: int | None = None) -> Range:
    return Range(low, high, whole=True, length=length)


_MODEL = "MODEL.MFDS_DETR"
_LAYERS, _COUNT, _STEPS, _SIDE = _whole(1, 100), _whole(1, 10_000), 10**8, 8192
_FRACTION, _FACTOR = Range(0, 1), Range(0, 1000)
_POSITIVE = Range(MIN_POSITIVE, 1000)
_RANGES: dict[str, Range] = {
    f"{_MODEL}.NUM_CLASSES": _whole(0, 10_000),
    f"{_MODEL}.NUM_QUERIES": _COUNT,
    f"{_MODEL}.HIDDEN_DIM": _whole(1, 4096),
    f"{_MODEL}.NUM_HEADS": _whole(1, 256),
    f"{_MODEL}.NUM_POINTS": _whole(1, 64),
    f"{_MODEL}.FEEDFORWARD_DIM": _whole(1, MAX_NUMBER),
    f"{_MODEL}.ENCODER_LAYERS": _whole(0, 100),
    f"{_MODEL}.ENCODER_LEVELS": _whole(0, 16),
    f"{_MODEL}.DECODER_LAYERS": _LAYERS,
    f"{_MODEL}.DENOISING_QUERIES": _whole(0, 10_000),
    f"{_MODEL}.DROPOUT": Range(0, 0.999),
    f"{_MODEL}.MATCHER.CLASS_COST": _FACTOR,
    f"{_MODEL}.MATCHER.L1_COST": _FACTOR,
    f"{_MODEL}.MATCHER.GIOU_COST": _FACTOR,
    f"{_MODEL}.LOSS.CLASS_WEIGHT": _POSITIVE,
    f"{_MODEL}.LOSS.L1_WEIGHT": _FACTOR,
    f"{_MODEL}.LOSS.GIOU_WEIGHT": _FACTOR,
    # A negative number weighs objects and background the same
    f"{_MODEL}.LOSS.FOCAL_ALPHA": Range(-1, 1, length=0),
    f"{_MODEL}.LOSS.FOCAL_GAMMA": Range(0, 100),
    "MODEL.PIXEL_MEAN": Range(0, 255, length=3),
    "MODEL.PIXEL_STD": Range(0.1, 255, length=3),
    "MODEL.TIMM.OUT_INDICES": _whole(0, 100, 0),
    "SOLVER.BASE_LR": _POSITIVE,
    "SOLVER.BACKBONE_LR": _FACTOR,
    "SOLVER.NECK_LR": _FACTOR,
    "SOLVER.SAMPLING_LR_FACTOR": _FACTOR,
    "SOLVER.WEIGHT_DECAY": _FACTOR,
    "SOLVER.GAMMA": _POSITIVE,
    "SOLVER.CLIP_NORM": Range(MIN_POSITIVE, MAX_LIMIT, or_zero=True),
    "SOLVER.EMA.DECAY": Range(0, 0.999999),
    "SOLVER.MAX_ITER": _whole(1, _STEPS),
    "SOLVER.IMS_PER_BATCH": _COUNT,
    "SOLVER.WARMUP_ITERS": _whole(0, _STEPS),
    "SOLVER.WARMUP_FACTOR": _FRACTION,
    "SOLVER.CHECKPOINT_PERIOD": _whole(1, _STEPS),
    "SOLVER.CHECKPOINTS_KEPT": _COUNT,
    "SOLVER.MAX_BAD_STEPS": _COUNT,
    "DATALOADER.TIMEOUT": Range(0, 1e6),
    "DATALOADER.NUM_WORKERS": _whole(0, 10**9),
    "INPUT.MIN_SIZE_TRAIN": _whole(8, _SIDE, 0),
    "INPUT.MAX_SIZE_TRAIN": _whole(8, _SIDE),
    # Detectron2's 0 keeps the image as it is
    "INPUT.MIN_SIZE_TEST": _whole(0, _SIDE),
    "INPUT.MAX_SIZE_TEST": _whole(8, _SIDE),
    "INPUT.CELL_PASTE": _FRACTION,
    "INPUT.CANVAS": _whole(0, _SIDE, 2),
    "INPUT.CANVAS_SCALE": Range(0.05, 20, length=2),
    "INPUT.CROP_FRACTION": Range(0.01, 1, length=2),
    "INPUT.CROP_PROBABILITY": _FRACTION,
    "DATASETS.HELD_OUT": Range(0, 0.9),
    "TEST.CALIBRATION.SLOPES": Range(1e-3, 100, length=0, empty=True),
    "TEST.CALIBRATION.OFFSETS": Range(-100, 100, length=0, empty=True),
    "TEST.CALIBRATION.THRESHOLDS": Range(0, 1, length=0, empty=True),
    "TEST.SCORE_THRESHOLD": _FRACTION,
    "TEST.NMS_IOU": _FRACTION,
    "TEST.DETECTIONS_PER_IMAGE": _COUNT,
    "TEST.EVAL_PERIOD": _whole(0, _STEPS),
    "TEST.SAMPLE_PICTURES": _whole(0, 1000),
    "SEED": _whole(-1, 2**32 - 1),
}
_CHOICES: dict[str, Sequence[str]] = {
    f"{_MODEL}.POSITION_ENCODING": tuple(POSITION_ENCODINGS),
    f"{_MODEL}.LOSS.FOCAL_ALPHA_RULE": ("constant", *ALPHA_RULES),
    "SOLVER.AMP.PRECISION": ("float16", "bfloat16"),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
}
# Keys whose values are free, and the largest number in them
_FREE = {
    f"{_MODEL}.NECK.OPTIONS": MAX_NUMBER,
    "MODEL.TIMM.OPTIONS": MAX_NUMBER,
    "INPUT.ALBUMENTATIONS.TRANSFORMS": 10_000,
}


def check_config(cfg: CfgNode) -> None:
    """Finds values that would fail, or train nothing, deep inside.

    Raises:
        ConfigError: if a value is out of range; the message lists all of them by key.
    """
    problems = [*_find_values(cfg)] or [*_find_contradictions(cfg)]
    for key, largest in _FREE.items():
        check_plain(_value(cfg, key), key, largest)
    if problems:
        raise ConfigError("\n".join(["wrong values in the config:", *problems]))
    check_workers(cfg.DATALOADER.NUM_WORKERS, "DATALOADER.NUM_WORKERS")


def _find_values(cfg: CfgNode) -> Iterator[str]:
    for key, allowed in _RANGES.items():
        if not allowed.holds(_value(cfg, key)):
            yield f"  - {key}={_value(cfg, key)!r} should be {allowed}"
    for key, names in _CHOICES.items():
        if _value(cfg, key) not in names:
            yield f"  - {key}={_value(cfg, key)!r} should be one of {', '.join(names)}"


def _find_contradictions(cfg: CfgNode) -> Iterator[str]:
    """Yields a line for each contradiction between values that are in range."""
    model, steps = cfg.MODEL.MFDS_DETR, cfg.SOLVER.STEPS
    if model.HIDDEN_DIM % model.NUM_HEADS:
        yield (
            f"  - {_MODEL}.HIDDEN_DIM={model.HIDDEN_DIM} must be divisible by "
            f"NUM_HEADS={model.NUM_HEADS}"
        )
    for key, values in cfg.TEST.CALIBRATION.items():
        if len(values) not in (0, model.NUM_CLASSES or len(values)):
            yield (
                f"  - TEST.CALIBRATION.{key} has {len(values)} numbers: give none, or one for each "
                f"of the {model.NUM_CLASSES} classes"
            )
    if not 0 < cfg.INPUT.CANVAS_SCALE[0] <= cfg.INPUT.CANVAS_SCALE[1]:
        yield f"  - INPUT.CANVAS_SCALE={cfg.INPUT.CANVAS_SCALE!r} should be ascending"
    if any(cfg.INPUT.CANVAS) and min(cfg.INPUT.CANVAS) < 32:
        yield f"  - INPUT.CANVAS={cfg.INPUT.CANVAS!r} should be (0, 0) or at least (32, 32)"
    if model.DENOISING_QUERIES and not model.TWO_STAGE:
        yield f"  - {_MODEL}.DENOISING_QUERIES need TWO_STAGE True"
    if any(model.FIRST_STAGE.values()) and not model.TWO_STAGE:
        yield f"  - {_MODEL}.FIRST_STAGE needs TWO_STAGE True"
    if model.FIRST_STAGE.DENSE and not model.FIRST_STAGE.CLASSES:
        yield f"  - {_MODEL}.FIRST_STAGE.DENSE needs FIRST_STAGE.CLASSES True"
    alpha = model.LOSS.FOCAL_ALPHA
    if len(alpha) not in (1, model.NUM_CLASSES or len(alpha)):
        yield (
            f"  - {_MODEL}.LOSS.FOCAL_ALPHA has {len(alpha)} numbers: give one, or one for each of "
            f"the {model.NUM_CLASSES} classes"
        )
    if not any(model.MATCHER.values()):
        yield f"  - {_MODEL}.MATCHER: at least one cost should be above 0"
    if not all(isinstance(step, int) and step > 0 for step in steps) or any(
        first >= second for first, second in pairwise(steps)
    ):
        yield f"  - SOLVER.STEPS={steps!r} should be ascending whole numbers above 0"


def _value(cfg: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
