"""The settings of a training run, as nested dataclasses with their meaning and ranges.

`wbcnets.train.config_file` reads them from YAML, with overrides, and writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wbcnets.errors import ConfigError

SAMPLERS = ("shuffle", "class_balanced")
SCHEDULES = ("constant", "cosine", "multistep", "poly", "step", "tanh")
AMP_TYPES = ("none", "bfloat16", "float16")
BEST_METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "log_loss")
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class ModelConfig:
    """What is trained.

    Args:
        name: A registered name, of this library or of timm.
        kwargs: Further keywords of the model, such as ``{"drop_path_rate": 0.1}``.
        pretrained: Start from the weights that the name stands for.
        weights: Start from this file instead; a classifier of other classes is left out.
    """

    name: str = "resnet18"
    kwargs: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: str = ""


@dataclass
class DataConfig:
    """What it is trained on.

    Args:
        source: A prepared set's name, a manifest, a folder of class folders or a table.
        train_split: Split to train on; several are joined by "+", such as "fold1+fold2".
        val_split: Split to evaluate on; several are joined by "+".
        split_protocol: How to divide a source that has no splits: "8:2", "7:1:2" or "5 folds".
        split_seed: Of that division.
        image_size: Side of the model's images in px.
        mean: Of the channels, in [0, 1]; the model's own where None.
        std: Of the channels, in [0, 1]; the model's own where None.
        augmentation: Preset for training, see `wbcnets.data.cells.augmentation.PRESETS`.
        transforms: albumentations' transforms that follow the preset's, by name and keywords.
        val_augmentation: Preset for evaluation, without chance.
        sampler: "shuffle", or "class_balanced" for as many images of each class in an epoch.
        repeats: How often a training image of a class is listed, by class name.
        workers: Processes that load images; -1 for as many as there are processors, up to 8.
        worker_timeout: Seconds in which a worker must give a batch; 0 waits for ever.
        cache: Decode all images once and keep them in memory.
        allow_leaks: Go on although images or patients are in training and evaluation.
    """

    source: str = ""
    train_split: str = "train"
    val_split: str = "val"
    split_protocol: str = "8:2"
    split_seed: int = 0
    image_size: int = 224
    mean: list[float] | None = None
    std: list[float] | None = None
    augmentation: str = "flips"
    transforms: list[dict[str, Any]] = field(default_factory=list)
    val_augmentation: str = "none"
    sampler: str = "shuffle"
    repeats: dict[str, int] = field(default_factory=dict)
    workers: int = -1
    worker_timeout: float = 300.0
    cache: bool = False
    allow_leaks: bool = False


@dataclass
class OptimizerConfig:
    """How weights are updated.

    Args:
        name: One of timm's optimizers, such as "adamw", "sgd" or "lamb".
        learning_rate: At the start, after warm-up.
        weight_decay: Not applied to biases, norms and what the model excepts.
        momentum: Of SGD and its kin.
        betas: Of Adam and its kin; timm's default where None.
        layer_decay: Factor of the learning rate from each layer to the one below; 0 for none.
        kwargs: Further keywords of the optimizer.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    betas: list[float] | None = None
    layer_decay: float = 0.0
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """How the learning rate goes; it is set before every step.

    Args:
        name: One of `SCHEDULES`, which are timm's.
        warmup_epochs: Over which the rate rises linearly; they count among the epochs.
        warmup_learning_rate: Where that begins.
        min_learning_rate: Where cosine, poly and tanh end.
        decay_epochs: Every so many epochs "step" decays.
        milestones: After which epochs "multistep" decays.
        decay_rate: Factor of "step" and "multistep"; power of "poly".
    """

    name: str = "cosine"
    warmup_epochs: int = 0
    warmup_learning_rate: float = 1e-6
    min_learning_rate: float = 0.0
    decay_epochs: int = 30
    milestones: list[int] = field(default_factory=lambda: [30, 60, 90])
    decay_rate: float = 0.1


@dataclass
class LossConfig:
    """What is minimized.

    Args:
        name: A loss or a paper's combination, see `wbcnets.losses.loss_names`, or losses with their
            factors, such as ``{"cross_entropy": 1.0, "contrastive": 1.0}``.
        label_smoothing: Share of each target that is spread over all classes.
        options: Keywords of the losses by their names.
    """

    name: str | dict[str, float] = "cross_entropy"
    label_smoothing: float = 0.0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class MixupConfig:
    """timm's mixup and CutMix.

    Args:
        mixup_alpha: Of the beta distribution; 0 for no mixup.
        cutmix_alpha: Of the beta distribution; 0 for no CutMix.
        probability: That a batch is mixed at all.
        switch_probability: That it is by CutMix where both are on.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5


@dataclass
class TrainingConfig:
    """How long, and with which numbers.

    Args:
        epochs: Passes over the training images.
        batch_size: Images of one step, over all processes and all parts of an accumulated step.
        grad_accum_steps: Parts in which a step is computed, to save memory.
        clip_grad: Largest norm of the gradients; 0 for no limit.
        amp: Type of automatic mixed precision.
        channels_last: Memory layout that speeds convolutions up.
        compile: Whether `torch.compile` is used.
        grad_checkpointing: Compute activations again in the backward pass, to save memory.
        ema_decay: Of the moving average of the weights, which is then what is judged; 0 for none.
        sync_batchnorm: With several GPUs, take batch norm's statistics over all of them.
        seed: Start of everything random.
        best_metric: What decides which epoch is the best.
        early_stopping: Epochs without a better one until training stops; 0 for never.
        max_minutes: Training stops after that time, counted over restarts; 0 for no limit.
        checkpoint_minutes: At most so long until `last.pth` is written again.
        checkpoint_epochs: `last.pth` is written every so many epochs.
        max_bad_steps: Steps in a row without finite loss and gradients until training stops.
        process_timeout: Seconds that one of several processes waits for the others.
    """

    epochs: int = 30
    batch_size: int = 64
    grad_accum_steps: int = 1
    clip_grad: float = 0.0
    amp: str = "none"
    channels_last: bool = True
    compile: bool = False
    grad_checkpointing: bool = False
    ema_decay: float = 0.0
    sync_batchnorm: bool = True
    seed: int = 0
    best_metric: str = "accuracy"
    early_stopping: int = 0
    max_minutes: float = 0.0
    checkpoint_minutes: float = 5.0
    checkpoint_epochs: int = 1
    max_bad_steps: int = 10
    process_timeout: float = 600.0


@dataclass
class TrainConfig:
    """All settings of a run.

    Args:
        model: What is trained.
        data: What it is trained on.
        optimizer: How weights are updated.
        schedule: How the learning rate goes.
        loss: What is minimized.
        mixup: timm's mixup and CutMix.
        training: How long, and with which numbers.
        device: "auto" takes a GPU where there is one.
        output: Folder of the run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "auto"
    output: str = ""


_CHOICES: dict[str, tuple[str, ...]] = {
    "data.sampler": SAMPLERS,
    "schedule.name": SCHEDULES,
    "training.amp": AMP_TYPES,
    "training.best_metric": BEST_METRICS,
    "device": DEVICES,
}
_RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: value >= 0,
    "above 0": lambda value: value > 0,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 up to, without, 1": lambda value: 0 <= value < 1,
}
_LIMITS: dict[str, str] = {
    "data.image_size": "at least 1",
    "data.split_seed": "at least 0",
    "optimizer.learning_rate": "above 0",
    "optimizer.weight_decay": "at least 0",
    "optimizer.momentum": "from 0 up to, without, 1",
    "optimizer.layer_decay": "from 0 to 1",
    "schedule.warmup_epochs": "at least 0",
    "schedule.warmup_learning_rate": "at least 0",
    "schedule.min_learning_rate": "at least 0",
    "schedule.decay_epochs": "at least 1",
    "schedule.decay_rate": "above 0",
    "loss.label_smoothing": "from 0 up to, without, 1",
    "mixup.mixup_alpha": "at least 0",
    "mixup.cutmix_alpha": "at least 0",
    "mixup.probability": "from 0 to 1",
    "mixup.switch_probability": "from 0 to 1",
    "training.epochs": "at least 1",
    "training.batch_size": "at least 1",
    "training.grad_accum_steps": "at least 1",
    "training.clip_grad": "at least 0",
    "training.ema_decay": "from 0 up to, without, 1",
    "training.seed": "at least 0",
    "training.early_stopping": "at least 0",
    "training.max_minutes": "at least 0",
    "training.checkpoint_minutes": "at least 0",
    "training.checkpoint_epochs": "at least 1",
    "training.max_bad_steps": "at least 1",
    "training.process_timeout": "above 0",
    "data.worker_timeout": "at least 0",
}


def check_values(config: TrainConfig) -> None:
    """Checks names and numbers that can be checked without the data and the model.

    Raises:
        ConfigError: Values are out of range; all are listed.
    """
    problems = []
    for key, choices in _CHOICES.items():
        if read_value(config, key) not in choices:
            problems.append(f"{key}={read_value(config, key)}: use one of {', '.join(choices)}")
    for key, limit in _LIMITS.items():
        allows = _RANGES[limit]
        if not allows(read_value(config, key)):  # a NaN is in no range
            problems.append(f"{key}={read_value(config, key)}: must be {limit}")
    if config.data.workers < -1:
        problems.append(f"data.workers={config.data.workers}: must be -1, or at least 0")
    if config.schedule.warmup_epochs >= config.training.epochs:
        problems.append(
            f"schedule.warmup_epochs={config.schedule.warmup_epochs}: must be less than "
            f"training.epochs={config.training.epochs}"
        )
    if config.model.pretrained and config.model.weights:
        problems.append("model.pretrained and model.weights are both given: choose one")
    if problems:
        raise ConfigError("settings are out of range:\n" + "\n".join(f"  - {p}" for p in problems))


def read_value(config: TrainConfig, key: str) -> Any:
    """The value of a dotted key such as "optimizer.learning_rate"."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
