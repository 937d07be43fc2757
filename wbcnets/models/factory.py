"""How a registered model is made: timm's builder, with weights that are accounted for.

timm finds and fetches the weights. Files named by the caller are read here, without running code
from them; the fit to the model is checked and reported here, where timm would pass over it.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from timm.models import adapt_input_conv, build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from wbcnets.errors import CheckpointError, WbcnetsError
from wbcnets.io.checkpoints import read_state_dict
from wbcnets.models.load_report import LoadReport

CheckpointFilter = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]

logger = logging.getLogger(__name__)


def build_model(
    model_class: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    *,
    checkpoint_filter_fn: CheckpointFilter,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Makes a registered model, with weights where `pretrained`.

    The model has a `load_report` (`LoadReport`) of what became of the weights, None without them;
    the log has it too.

    Args:
        model_class: Makes the model from its keywords.
        variant: The registered name.
        pretrained: Whether to load weights: those of the default configuration, or those that
            ``pretrained_cfg_overlay=dict(file=...)`` names.
        checkpoint_filter_fn: Translates a checkpoint's names into the model's. It keeps names that
            it does not know, and returns a tensor as the same object where it is only renamed.
        pretrained_cfg_overlay: As in `timm.create_model`.
        **kwargs: Keywords of timm's builder and of the model.

    Raises:
        CheckpointError: The weights cannot be had, are damaged, or do not fit.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    reports: list[LoadReport] = []
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay).to_dict()
        if cfg.get("file") and cfg.get("source") != "local-dir" and "state_dict" not in overlay:
            overlay["state_dict"] = read_state_dict(Path(cfg["file"]))
    try:
        model = build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_cfg_overlay=overlay,
            pretrained_strict=False,
            pretrained_filter_fn=partial(_load, checkpoint_filter_fn, reports),
            feature_cfg={"feature_cls": "getter"},
            **kwargs,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if not pretrained or isinstance(error, WbcnetsError):
            raise
        raise CheckpointError(_how_to_fetch(variant, error)) from error
    _attach(model, reports)
    return model


def load_weights(
    model: nn.Module, state: dict[str, Tensor], checkpoint_filter_fn: CheckpointFilter
) -> LoadReport:
    """Loads a checkpoint's weights into a model and says what became of each tensor.

    A classifier of other classes is left out; a first convolution for another number of input
    channels is adapted as timm does it.

    Raises:
        CheckpointError: A tensor has another shape than the model's, or none fits.
    """
    return _fit(model, state, checkpoint_filter_fn(dict(state), model))


def _fit(
    model: nn.Module, state: Mapping[str, Tensor], translated: Mapping[str, Tensor]
) -> LoadReport:
    as_they_were = {id(tensor) for tensor in state.values()}
    target = model.state_dict()
    fitted, adapted, misfits = {}, [], []
    unused = [name for name in translated if name not in target]
    classifier = _classifier_of_other_size(model, translated, target)
    for name, tensor in translated.items():
        if name not in target:
            continue
        if name in classifier:
            unused.append(name)
            continue
        fit = tensor if tensor.shape == target[name].shape else _adapt(model, name, tensor)
        if fit is None or fit.shape != target[name].shape:
            misfits.append(f"{name}: {tuple(tensor.shape)} for {tuple(target[name].shape)}")
            continue
        fitted[name] = fit
        if fit is not tensor or id(tensor) not in as_they_were:
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


def _load(
    checkpoint_filter_fn: CheckpointFilter,
    reports: list[LoadReport],
    state: dict[str, Tensor],
    model: nn.Module,
) -> dict[str, Tensor]:
    """Stands where timm calls a filter: loads, and leaves timm what it can load once more."""
    translated = checkpoint_filter_fn(dict(state), model)
    report = _fit(model, state, translated)
    level = logging.INFO if report.complete else logging.WARNING
    logger.log(level, "%s: %s", type(model).__name__, report)
    reports.append(report)
    # timm adapts the first convolution itself and wants it as it came
    first = [f"{name}.weight" for name in _names(model, "first_conv")]
    as_it_came = {name: translated[name] for name in first if name in translated}
    return {**model.state_dict(), **as_it_came}


def _names(model: nn.Module, key: str) -> tuple[str, ...]:
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _classifier_of_other_size(
    model: nn.Module, state: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> set[str]:
    """The tensors of classifiers of which at least one has another shape than the model's."""
    left_out = set()
    for classifier in _names(model, "classifier"):
        names = {name for name in state if name.startswith(f"{classifier}.") and name in target}
        if any(state[name].shape != target[name].shape for name in names):
            left_out |= names
    return left_out


def _adapt(model: nn.Module, name: str, tensor: Tensor) -> Tensor | None:
    """The first convolution for the model's input channels; None where it is something else."""
    if name.removesuffix(".weight") not in _names(model, "first_conv") or tensor.ndim != 4:
        return None
    try:
        return adapt_input_conv(model.state_dict()[name].shape[1], tensor)
    except NotImplementedError:
        return None


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


def _how_to_fetch(variant: str, error: Exception) -> str:
    cfg = resolve_pretrained_cfg(variant).to_dict()
    source = cfg.get("hf_hub_id") or cfg.get("url") or "its source"
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"The weights of {variant} could not be fetched from {source} ({first_line}). Without a "
        f"network, fetch them elsewhere and name the file: timm.create_model('{variant}', "
        "pretrained=True, pretrained_cfg_overlay=dict(file='model.safetensors'))"
    )


def _attach(model: nn.Module, reports: list[LoadReport]) -> None:
    """Leaves the report on the model, and no copy of the weights in its configuration."""
    inner = getattr(model, "model", None)
    for module in (model, inner) if isinstance(inner, nn.Module) else (model,):
        module.load_report = reports[-1] if reports else None  # type: ignore[assignment]
        cfg = getattr(module, "pretrained_cfg", None)
        if isinstance(cfg, dict):
            cfg.pop("state_dict", None)
