"""The settings of a training run: every key with its default, its limits and its meaning.

``wbcnets.train.config_file`` reads them from YAML with overrides, and writes them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BestMetric = Literal["accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "log_loss"]


def _read_number(value: Any) -> Any:
    """Returns a number for a text such as "1e-3", and everything else unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_read_number)]
# Class names may look like numbers in YAML
Name = Annotated[str, BeforeValidator(str)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_assignment=True
    )


class ModelConfig(_Section):
    """The model and its initial weights."""

    name: str = Field("resnet18", description="registered name, of this library or of timm")
    kwargs: dict[Name, Any] = Field({}, description="more keywords, such as {drop_path_rate: 0.1}")
    pretrained: bool = Field(False, description="start from the published weights of this name")
    weights: str = Field(
        "", description="start from this file; a classifier for other classes is left out"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> "ModelConfig":
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
    split_seed: int = Field(0, ge=0, description="seed of that division")
    img_size: int = Field(224, ge=1, description="side of the model's square images in px")
    mean: list[Number] | None = Field(None, description="per channel in [0, 1]; null: the model's")
    std: list[Number] | None = Field(None, description="per channel in [0, 1]; null: the model's")
    augmentation: str = Field("flips", description="preset of wbcnets.data.cells.augmentation")
    transforms: list[dict[Name, Any]] = Field(
        [], description="transforms of albumentations after the preset: name and keywords"
    )
    val_augmentation: str = Field("none", description="preset for evaluation, without randomness")
    sampler: Literal["shuffle", "class_balanced"] = Field(
        "shuffle", description="class_balanced: as many images of each class in an epoch"
    )
    repeats: dict[Name, int] = Field(
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


class OptimizerConfig(_Section):
    """The optimizer, one of timm's."""

    name: str = Field("adamw", description="such as adamw, sgd or lamb")
    lr: Number = Field(1e-3, gt=0, description="learning rate after warm-up")
    weight_decay: Number = Field(
        0.05, ge=0, description="not for biases, norms and what the model excepts"
    )
    momentum: Number = Field(0.9, ge=0, lt=1, description="for SGD and its variants")
    betas: list[Number] | None = Field(None, description="for Adam and its variants; null: timm's")
    layer_decay: Number = Field(
        0.0, ge=0, le=1, description="learning rate factor from a layer to the one below; 0: none"
    )
    kwargs: dict[Name, Any] = Field({}, description="more keywords of the optimizer")


class ScheduleConfig(_Section):
    """The learning rate schedule, one of timm's, updated before every step."""

    name: Literal["constant", "cosine", "multistep", "poly", "step", "tanh"] = "cosine"
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up, part of the total")
    warmup_lr: Number = Field(1e-6, ge=0, description="learning rate at the start of warm-up")
    min_lr: Number = Field(0.0, ge=0, description="final learning rate of cosine, poly and tanh")
    decay_epochs: int = Field(30, ge=1, description="step: epochs between two decays")
    milestones: list[int] = Field([30, 60, 90], description="multistep: epochs of the decays")
    decay_rate: Number = Field(0.1, gt=0, description="decay factor; poly: the power")


class LossConfig(_Section):
    """The loss."""

    name: str | dict[Name, Number] = Field(
        "cross_entropy",
        description="a loss, a paper's combination, or losses and factors such as "
        "{cross_entropy: 1, contrastive: 1}",
    )
    label_smoothing: Number = Field(
        0.0, ge=0, lt=1, description="fraction of a target that is spread over all classes"
    )
    options: dict[Name, dict[Name, Any]] = Field({}, description="keywords, by loss")


class MixupConfig(_Section):
    """timm's mixup and CutMix."""

    mixup_alpha: Number = Field(0.0, ge=0, description="beta distribution of mixup; 0: off")
    cutmix_alpha: Number = Field(0.0, ge=0, description="beta distribution of CutMix; 0: off")
    probability: Number = Field(1.0, ge=0, le=1, description="of mixing a batch")
    switch_probability: Number = Field(0.5, ge=0, le=1, description="of CutMix if both are on")


class TrainingConfig(_Section):
    """Duration, precision, checkpoints."""

    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch_size: int = Field(64, ge=1, description="images per step, over all processes and parts")
    grad_accum_steps: int = Field(1, ge=1, description="parts of a step, which save memory")
    clip_grad: Number = Field(0.0, ge=0, description="maximum norm of the gradients; 0: no limit")
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
    seed: int = Field(0, ge=0, description="start of everything random")
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
        10, ge=1, description="stop after this many steps in a row without finite gradients"
    )
    process_timeout: Number = Field(
        600.0, gt=0, description="seconds that a process waits for the others"
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
    def _check_warmup(self) -> "TrainConfig":
        warmup, epochs = self.schedule.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs={warmup} should be less than training.epochs={epochs}"
            )
        return self
