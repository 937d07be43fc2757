"""The settings of a training run: every key with its default, its limits and its meaning.

``wbcnets.train.config_file`` reads them from YAML with overrides, and writes them.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from wbcnets.data.cells.augmentation import check_val_preset
from wbcnets.engine.loader import check_workers
from wbcnets.errors import ConfigError
from wbcnets.io.schema import MAX_LIMIT, MAX_NUMBER, MIN_POSITIVE, Mean, Side, Std, check_plain

BestMetric = Literal["accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "log_loss"]


def _read_number(value: Any) -> Any:
    """Returns a number for a text such as "1e-3", and everything else unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _plain(max_number: int) -> AfterValidator:
    """Returns a validator of free values, see ``check_plain``."""

    def check(value: Any) -> Any:
        try:
            check_plain(value, "", max_number)
        except ConfigError as error:
            text = str(error).lstrip(".=: ").replace("{", "{{").replace("}", "}}")
            raise PydanticCustomError("plain_value", f"is refused: {text}") from error
        return value

    return AfterValidator(check)


def _check_limit(value: float) -> float:
    if value and not MIN_POSITIVE <= value <= MAX_LIMIT:
        raise PydanticCustomError(
            "limit", f"should be 0, or from {MIN_POSITIVE:g} to {MAX_LIMIT:,}"
        )
    return value


_reads_text = BeforeValidator(_read_number)
Number = Annotated[float, _reads_text]
Beta = Annotated[float, Field(ge=0, lt=1), _reads_text]
Rate = Annotated[float, Field(ge=0, le=1000), _reads_text]
Factor = Annotated[float, Field(ge=MIN_POSITIVE, le=1000), _reads_text]
# A limit, or 0 for none
Limit = Annotated[float, AfterValidator(_check_limit), _reads_text]
Channels = Field(min_length=3, max_length=3)
# Class names may look like numbers in YAML
Name = Annotated[str, BeforeValidator(str)]
Free = Annotated[Any, _plain(MAX_NUMBER)]
# Sides of images, angles and the like, which take memory
FreeOfTransform = Annotated[Any, _plain(10_000)]
MAX_EPOCHS = 100_000


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_assignment=True
    )


class ModelConfig(_Section):
    """The model and its initial weights."""

    name: str = Field("resnet18", description="registered name, of this library or of timm")
    kwargs: dict[Name, Free] = Field({}, description="more keywords, such as {drop_path_rate: 0.1}")
    pretrained: bool = Field(False, description="start from the published weights of this name")
    weights: str = Field(
        "", description="start from this file; a classifier for other classes is left out"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.pretrained and self.weights:
            raise ValueError("model.pretrained and model.weights are both set: choose one")
        return self


class DataConfig(_Section):
    """The images."""

    source: str = Field(
        "", description="a prepared set's name, a manifest, a folder of class folders or a table"
    )
    train_split: str = Field("train", description='split to train on; "fold1+fold2" joins two')
    val_split: str = Field("val", description='split to evaluate on; "fold1+fold2" joins two')
    split_protocol: str = Field(
        "8:2", description='division of a source without splits: "8:2", "7:1:2" or "5 folds"'
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of that division")
    img_size: Side = Field(224, description="side of the model's square images in px")
    mean: Annotated[list[Annotated[Mean, _reads_text]], Channels] | None = Field(
        None, description="per channel in [0, 1]; null: the model's"
    )
    std: Annotated[list[Annotated[Std, _reads_text]], Channels] | None = Field(
        None, description="per channel in [0, 1]; null: the model's"
    )
    augmentation: str = Field("flips", description="preset of wbcnets.data.cells.augmentation")
    transforms: list[dict[Name, FreeOfTransform]] = Field(
        [], description="transforms of albumentations after the preset: name and keywords"
    )
    val_augmentation: str = Field("none", description="preset for evaluation, without randomness")
    sampler: Literal["shuffle", "class_balanced"] = Field(
        "shuffle", description="class_balanced: as many images of each class in an epoch"
    )
    repeats: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        {}, description="how often an epoch lists a training image, by class name"
    )
    workers: int = Field(-1, ge=-1, description="loader processes; -1: one per CPU, at most 8")
    worker_timeout: Number = Field(
        300.0, ge=0, description="seconds a worker may take for a batch; 0: no limit"
    )
    cache: bool = Field(False, description="decode all images once and keep them in memory")
    allow_leaks: bool = Field(
        False, description="train although images or patients are in both splits"
    )

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: int) -> int:
        return check_workers(workers, "data.workers")

    @field_validator("val_augmentation")
    @classmethod
    def _check_preset(cls, preset: str) -> str:
        return check_val_preset(preset, "data.val_augmentation")


class OptimizerConfig(_Section):
    """The optimizer, one of timm's."""

    name: str = Field("adamw", description="such as adamw, sgd or lamb")
    lr: Factor = Field(1e-3, description="learning rate after warm-up")
    weight_decay: Rate = Field(0.05, description="not for biases, norms and what the model excepts")
    momentum: Number = Field(0.9, ge=0, lt=1, description="for SGD and its variants")
    betas: list[Beta] | None = Field(None, description="for Adam and its variants; null: timm's")
    layer_decay: Number = Field(
        0.0, ge=0, le=1, description="learning rate factor from a layer to the one below; 0: none"
    )
    kwargs: dict[Name, Free] = Field({}, description="more keywords of the optimizer")


class ScheduleConfig(_Section):
    """The learning rate schedule, one of timm's, updated before every step."""

    name: Literal["constant", "cosine", "multistep", "poly", "step", "tanh"] = "cosine"
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up, part of the total")
    warmup_lr: Rate = Field(1e-6, description="learning rate at the start of warm-up")
    min_lr: Rate = Field(0.0, description="final learning rate of cosine, poly and tanh")
    decay_epochs: int = Field(30, ge=1, description="step: epochs between two decays")
    milestones: list[Annotated[int, Field(ge=1)]] = Field(
        [30, 60, 90], min_length=1, description="multistep: epochs of the decays, ascending"
    )
    decay_rate: Factor = Field(0.1, description="decay factor; poly: the power")

    @field_validator("milestones")
    @classmethod
    def _check_order(cls, milestones: list[int]) -> list[int]:
        if any(first >= second for first, second in pairwise(milestones)):
            raise ValueError(f"schedule.milestones={milestones} should ascend")
        return milestones


class LossConfig(_Section):
    """The loss."""

    name: str | Annotated[dict[Name, Factor], Field(min_length=1)] = Field(
        "cross_entropy",
        description="a loss, a paper's combination, or losses and factors such as "
        "{cross_entropy: 1, contrastive: 1}",
    )
    label_smoothing: Number = Field(
        0.0, ge=0, lt=1, description="fraction of a target that is spread over all classes"
    )
    options: dict[Name, dict[Name, Free]] = Field({}, description="keywords, by loss")


class MixupConfig(_Section):
    """timm's mixup and CutMix."""

    mixup_alpha: Rate = Field(0.0, description="beta distribution of mixup; 0: off")
    cutmix_alpha: Rate = Field(0.0, description="beta distribution of CutMix; 0: off")
    probability: Number = Field(1.0, ge=0, le=1, description="of mixing a batch")
    switch_probability: Number = Field(0.5, ge=0, le=1, description="of CutMix if both are on")


class TrainingConfig(_Section):
    """Duration, precision, checkpoints."""

    epochs: int = Field(30, ge=1, le=MAX_EPOCHS, description="passes over the training images")
    batch_size: int = Field(64, ge=1, description="images per step, over all processes and parts")
    grad_accum_steps: int = Field(1, ge=1, description="parts of a step, which save memory")
    clip_grad: Limit = Field(0.0, description="maximum norm of the gradients; 0: no limit")
    amp: Literal["none", "bfloat16", "float16"] = Field(
        "none", description="type of automatic mixed precision"
    )
    channels_last: bool = Field(True, description="memory layout that is faster for convolutions")
    compile: bool = Field(False, description="use torch.compile")
    grad_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass to save memory"
    )
    ema_decay: Number = Field(
        0.0, ge=0, lt=1, description="moving average of the weights, used to evaluate; 0: none"
    )
    sync_batchnorm: bool = Field(True, description="batch norm statistics over all GPUs")
    seed: int = Field(0, ge=0, lt=2**32, description="start of everything random")
    best_metric: BestMetric = Field("accuracy", description="what best.pth is best in")
    early_stopping: int = Field(
        0, ge=0, description="stop after this many epochs without a better one; 0: never"
    )
    max_minutes: Number = Field(0.0, ge=0, description="stop and save after this time; 0: never")
    checkpoint_minutes: Number = Field(
        5.0, ge=0, description="minutes between checkpoints within an epoch"
    )
    checkpoint_epochs: int = Field(1, ge=1, description="epochs between checkpoints")
    max_bad_steps: int = Field(
        10,
        ge=1,
        le=10_000,
        description="stop after this many steps in a row without finite gradients",
    )
    process_timeout: Number = Field(
        600.0, ge=1, description="seconds that a process waits for the others"
    )


class TrainConfig(_Section):
    """All settings of a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    mixup: MixupConfig = MixupConfig()
    training: TrainingConfig = TrainingConfig()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if present")
    output: str = Field("", description="folder of the run")

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        schedule, lr = self.schedule, self.optimizer.lr
        limits = {"warmup_lr": schedule.warmup_epochs > 0}
        limits["min_lr"] = schedule.name in ("cosine", "poly", "tanh")
        for name, counts in limits.items():
            rate = getattr(schedule, name)
            if counts and rate > lr:
                raise ValueError(f"schedule.{name}={rate} should be at most optimizer.lr={lr}")
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        warmup, epochs = self.schedule.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs={warmup} should be less than training.epochs={epochs}"
            )
        return self
