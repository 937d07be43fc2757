"""The description of a classifier beside its weights: architecture, classes and preprocessing.

Checkpoints of training runs and saved folders come from others, so every value is checked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from wbcnets.data.cells.augmentation import check_val_preset
from wbcnets.errors import CheckpointError, DataError, list_problems
from wbcnets.io.checkpoints import check_class_names, read_checkpoint
from wbcnets.io.schema import Mean, Side, Std, describe_violations
from wbcnets.io.strict_json import read_json
from wbcnets.models.factory import find_weight_file

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


class Architecture(_Section):
    """The registered model and its keywords."""

    name: str
    kwargs: dict[str, Any] = {}


class Preprocessing(_Section):
    """The model's images."""

    input_size: Annotated[Sequence[Literal[3] | Side], Field(min_length=3, max_length=3)]
    mean: Annotated[Sequence[Mean], Field(min_length=3, max_length=3)]
    std: Annotated[Sequence[Std], Field(min_length=3, max_length=3)]
    augmentation: str = "none"

    @field_validator("input_size")
    @classmethod
    def _check_square(cls, size: Sequence[int]) -> Sequence[int]:
        if size[0] != 3 or size[1] != size[2]:
            raise ValueError(f"data_config.input_size={list(size)} should be [3, side, side]")
        return size

    @field_validator("augmentation")
    @classmethod
    def _check_preset(cls, preset: str) -> str:
        return check_val_preset(preset, "data_config.augmentation")


class Calibration(_Section):
    """The scale of the logits, and the probability below which a person should look at a cell."""

    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    review_below: float = Field(0.0, ge=0, le=1)


class ClassifierMetadata(_Section):
    """All that prediction needs beside the weights."""

    architecture: Architecture
    class_names: Sequence[str]
    data_config: Preprocessing
    calibration: Calibration = Calibration()

    @field_validator("class_names", mode="before")
    @classmethod
    def _check_names(cls, names: Any) -> tuple[str, ...]:
        return check_class_names(names)


def read_run_metadata(path: Path) -> ClassifierMetadata:
    """Returns the metadata of a training run's checkpoint, or of its export to one file.

    Raises:
        CheckpointError: if the file is damaged, or a value is missing or wrong; lists all of them.
    """
    checkpoint = read_checkpoint(path)
    described = (checkpoint.get(key) for key in ("architecture", "class_names"))
    if any(value in (None, "", (), [], {}) for value in described):
        raise CheckpointError(
            f"{path}: holds weights, but names neither their model nor their classes; use a "
            "checkpoint of a training run, such as best.pth"
        )
    return _validate(path, {key: value for key, value in checkpoint.items() if key != "model"})


def read_folder(folder: Path) -> tuple[ClassifierMetadata, Path]:
    """Returns the metadata and the weight file of a folder as timm writes it.

    Raises:
        CheckpointError: if a file is missing or damaged, or a value is missing or wrong.
    """
    path = folder / "config.json"
    try:
        config = read_json(path, max_bytes=1 << 20)
    except DataError as error:
        raise CheckpointError(
            f"{error}. A folder of weights needs it; for a training run, name its best.pth"
        ) from error
    data = config.get("pretrained_cfg", config)
    data = data if isinstance(data, dict) else {}
    names = config.get("label_names") or data.get("label_names")
    if not names:
        raise no_class_names(str(folder))
    arguments = config.get("model_args") or {}
    if isinstance(arguments, dict):
        arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    metadata = _validate(
        path,
        {
            "architecture": {"name": config.get("architecture"), "kwargs": arguments},
            "class_names": names,
            "data_config": {**data, "augmentation": config.get("augmentation", "none")},
            "calibration": config.get("calibration", {}),
        },
    )
    return metadata, find_weight_file(folder)


def no_class_names(source: str) -> CheckpointError:
    """Returns the error for a model whose outputs have no meaning."""
    return CheckpointError(
        f"{source}: its configuration has no label_names, so its outputs have no meaning; train it "
        "on cells first"
    )


def _validate(path: Path, values: Mapping[str, Any]) -> ClassifierMetadata:
    try:
        return ClassifierMetadata.model_validate(values)
    except ValidationError as error:
        violations = describe_violations(error, values)
        lines = [f"{path}: does not describe a classifier:"]
        lines += list_problems(violations, error.error_count())
        raise CheckpointError("\n".join(lines)) from error
