"""Creation of registered models: timm's builder, with weights whose fit is checked and reported.

``build_model`` creates a model, reads its weights and loads them, in that order. Files are read
without running code from them. timm would skip tensors that do not fit; here they are errors, and
``model.load_report`` lists what became of every tensor.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from timm.models import (
    adapt_input_conv,
    build_model_with_cfg,
    load_state_dict_from_hf,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from wbcnets.errors import CheckpointError
from wbcnets.io.checkpoints import read_state_dict

CheckpointFilter = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]

# Weights that are part of the package
WEIGHTS = Path(__file__).resolve().parent / "weights"
# Weight files of a folder, the preferred ones first
_WEIGHT_FILES = ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.pth", "*.bin")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, grouped by what became of them.

    Attributes:
        taken: Model tensors that hold the checkpoint's values unchanged.
        adapted: Model tensors that hold resampled, merged or cropped values.
        kept: Model tensors without a counterpart, which keep their initialization.
        unused: Checkpoint tensors without a counterpart in the model.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model and of the checkpoint found its counterpart."""
        return not self.kept and not self.unused

    def __str__(self) -> str:
        total = len(self.taken) + len(self.adapted) + len(self.kept)
        lines = [f"{len(self.taken)} of {total} tensors taken unchanged"]
        for label, names in (
            ("adapted", self.adapted),
            ("kept at their initialization", self.kept),
            ("of the checkpoint unused", self.unused),
        ):
            if names:
                lines.append(f"{len(names)} {label}: {_summary(names)}")
        return "; ".join(lines)


def build_model(
    model_class: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    *,
    checkpoint_filter_fn: CheckpointFilter,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Creates a registered model, with weights if ``pretrained``.

    Its ``load_report`` is a ``LoadReport``, or None without weights. The log has it too.

    Args:
        model_class: Makes the model from its keywords.
        variant: The registered name.
        pretrained: Whether to load weights: those of the default configuration, or those of
            ``pretrained_cfg_overlay=dict(file=...)``.
        checkpoint_filter_fn: See ``load_weights``.
        pretrained_cfg: As in ``timm.create_model``.
        pretrained_cfg_overlay: As in ``timm.create_model``.
        cache_dir: As in ``timm.create_model``.
        **kwargs: Keywords of timm's builder and of the model.

    Raises:
        CheckpointError: if the weights cannot be fetched, are damaged, or do not fit.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, dict(pretrained_cfg_overlay or {}))
    reports: list[LoadReport | None] = []

    def create(**model_kwargs: Any) -> nn.Module:
        model = model_class(**model_kwargs)
        report = None
        if pretrained:
            state = read_pretrained(cfg.to_dict(), cache_dir)
            report = load_weights(model, state, checkpoint_filter_fn, cfg.to_dict())
            level = logging.INFO if report.complete else logging.WARNING
            logger.log(level, "%s: %s", type(model).__name__, report)
        model.load_report = report  # type: ignore[assignment]
        reports.append(report)
        return model

    # timm computes the model's keywords and wraps it for features_only; weights are there by then
    built = build_model_with_cfg(
        create,
        variant,
        pretrained=False,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=dict(pretrained_cfg_overlay or {}),
        feature_cfg={"feature_cls": "getter"},
        **kwargs,
    )
    built.load_report = reports[-1]  # type: ignore[assignment]
    return built


def read_pretrained(
    cfg: Mapping[str, Any], cache_dir: str | Path | None = None
) -> dict[str, Tensor]:
    """Returns the weights that a timm configuration names, by name.

    The first of these that it has: a state dict, a file, a ``local-dir:`` folder, a model on the
    Hugging Face hub, a URL.

    Args:
        cfg: The configuration as a dictionary.
        cache_dir: Folder for downloads; None for the default.

    Raises:
        CheckpointError: if it names no weights, or they cannot be fetched or are damaged.
    """
    file, hub_id = cfg.get("file"), cfg.get("hf_hub_id")
    if cfg.get("state_dict"):
        return dict(cfg["state_dict"])
    if file and cfg.get("source") == "local-dir":
        return read_state_dict(find_weight_file(Path(file)))
    if file and cfg.get("source") != "hf-hub":
        return read_state_dict(Path(file))
    try:
        if hub_id:
            named = {"filename": cfg["hf_hub_filename"]} if cfg.get("hf_hub_filename") else {}
            return load_state_dict_from_hf(hub_id, **named, cache_dir=cache_dir)
        if cfg.get("url"):
            return torch.hub.load_state_dict_from_url(
                cfg["url"], str(cache_dir) if cache_dir else None, "cpu", weights_only=True
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(_how_to_fetch(cfg, error)) from error
    raise CheckpointError(f"There are no pretrained weights of {cfg.get('architecture')}.")


def find_weight_file(folder: Path) -> Path:
    """Returns the weight file of a folder as timm writes it.

    Raises:
        CheckpointError: if there is none.
    """
    for pattern in _WEIGHT_FILES:
        for path in sorted(folder.glob(pattern)):
            return path
    raise CheckpointError(f"{folder}: there is no weight file, such as model.safetensors")


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    checkpoint_filter_fn: CheckpointFilter,
    cfg: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Loads a checkpoint's weights into a model and reports what became of each tensor.

    A classifier of other classes is left out. A first convolution for another number of input
    channels is adapted as timm does it.

    Args:
        model: The model.
        state: The checkpoint's tensors by name.
        checkpoint_filter_fn: Translates a checkpoint's names into the model's. It keeps names that
            it does not know, and returns the same tensor object if it only renames it.
        cfg: timm's configuration with the names of classifier and first convolution; None for the
            model's own.

    Raises:
        CheckpointError: if a tensor's shape differs from the model's, or no tensor fits.
    """
    cfg = (getattr(model, "pretrained_cfg", None) or {}) if cfg is None else cfg
    unchanged = {id(tensor) for tensor in state.values()}
    translated = checkpoint_filter_fn(dict(state), model)
    target = model.state_dict()
    fitted, adapted, misfits = {}, [], []
    unused = [name for name in translated if name not in target]
    classifier = _classifier_of_other_size(_names(cfg, "classifier"), translated, target)
    first_convs = {f"{name}.weight" for name in _names(cfg, "first_conv")}
    for name, tensor in translated.items():
        if name not in target:
            continue
        if name in classifier:
            unused.append(name)
            continue
        fit = tensor
        if tensor.shape != target[name].shape and name in first_convs and tensor.ndim == 4:
            fit = _adapt_input_channels(tensor, target[name].shape[1])
        if fit.shape != target[name].shape:
            misfits.append(f"{name}: {tuple(tensor.shape)} for {tuple(target[name].shape)}")
            continue
        fitted[name] = fit
        if fit is not tensor or id(tensor) not in unchanged:
            adapted.append(name)
    if misfits or not fitted:
        raise CheckpointError(_describe_misfit(type(model).__name__, misfits, unused))
    model.load_state_dict(fitted, strict=False)
    return LoadReport(
        taken=tuple(name for name in fitted if name not in adapted),
        adapted=tuple(adapted),
        kept=tuple(name for name in target if name not in fitted),
        unused=tuple(unused),
    )


def shipped_weights(name: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the part of a timm configuration that names a file in ``WEIGHTS``.

    Args:
        name: The file's name without its suffix, such as "resnext_cc_26.pbc".
        class_names: In the order of the logits.
    """
    return {
        "file": str(WEIGHTS / f"{name}.safetensors"),
        "hf_hub_id": None,
        "num_classes": len(class_names),
        "label_names": class_names,
        "license": "apache-2.0",
    }


def _names(cfg: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = cfg.get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _classifier_of_other_size(
    classifiers: Iterable[str], state: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> set[str]:
    """Returns the tensors of the classifiers that have another shape than the model's."""
    left_out = set()
    for classifier in classifiers:
        names = {name for name in state if name.startswith(f"{classifier}.") and name in target}
        if any(state[name].shape != target[name].shape for name in names):
            left_out |= names
    return left_out


def _adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    try:
        return adapt_input_conv(in_chans, weight)
    except NotImplementedError:
        return weight


def _describe_misfit(model_name: str, misfits: list[str], unused: list[str]) -> str:
    if not misfits:
        return (
            f"No tensor of the checkpoint fits {model_name}: it has names such as {unused[:3]}. "
            "Is it a checkpoint of another model?"
        )
    shown = "\n".join(f"  - {line}" for line in misfits[:20])
    more = f"\n  ... and {len(misfits) - 20} more" if len(misfits) > 20 else ""
    return (
        f"The checkpoint does not fit {model_name}; create the model with the options that the "
        f"checkpoint was made with. Shapes in the checkpoint, and in the model:\n{shown}{more}"
    )


def _how_to_fetch(cfg: Mapping[str, Any], error: Exception) -> str:
    name = cfg.get("architecture")
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"The weights of {name} could not be fetched from {cfg.get('hf_hub_id') or cfg.get('url')} "
        f"({first_line}). Without a network, fetch them elsewhere and name the file: "
        f"timm.create_model('{name}', pretrained=True, "
        "pretrained_cfg_overlay=dict(file='model.safetensors'))"
    )


def _summary(names: Iterable[str], most: int = 6) -> str:
    """Names with numbers folded into ``*``: ``blocks.*.mlp.fc1.weight (12)``."""
    folded = Counter(
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    shown = [
        f"{name} ({count})" if count > 1 else name for name, count in list(folded.items())[:most]
    ]
    more = len(folded) - len(shown)
    return ", ".join(shown) + (f" and {more} more kinds" if more else "")
