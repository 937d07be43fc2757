"""Convolutions with the constant batch norm behind them folded into their weights.

A frozen batch norm, or any batch norm of a model that only predicts, is ``y = scale * x + shift``
with constants per channel. Scaling the weights instead of the map gives the same result: weights
are fewer than the map's values, and the map is written once instead of three times.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class FoldedConv2d(nn.Conv2d):
    """Convolution, frozen batch norm and activation in one: (B, C, H, W) -> (B, C', H', W').

    It shares the parameters of the modules that it replaces, so the weights still train, and their
    names in the state dict (``weight``, ``norm.weight``, ...) stay the same.

    Args:
        convolution: A convolution without bias.
        norm: The frozen batch norm behind it, with ``weight``, ``bias``, ``running_mean``,
            ``running_var`` and ``eps``.
        activation: Function of the result, or None.
    """

    norm: Any

    def __init__(self, convolution: Any, norm: nn.Module, activation: Any = None) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
            bias=False,
            device="meta",
        )
        self.weight = convolution.weight
        self.norm = norm
        self.activation = activation
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolved, normalized and activated map."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.weight * scale.view(-1, 1, 1, 1)
        shift = norm.bias - norm.running_mean * scale
        x = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


# Functions that read no values
_METADATA = frozenset({"__get__", "dim", "size", "numel", "is_contiguous", "stride"})


class _UseCounter(TorchFunctionMode):
    """Counts how many functions read each tensor, by its ``id``."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.kept: list[Tensor] = []  # an id stands for one tensor only while that tensor lives

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in _METADATA:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self.uses[id(leaf)] += 1
                    self.kept.append(leaf)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def fold_batch_norms(model: nn.Module, example: Any) -> int:
    """Folds batch norms into the convolutions before them, in place, for a model that predicts.

    A pass over the example finds the pairs, whatever the model's code is: a norm is folded if its
    input is the output of a convolution that is called once, and nothing else reads that output.
    Norms in training mode stay.

    Args:
        model: A model in evaluation mode; it must not be trained afterward.
        example: The argument of the model.

    Returns:
        The number of norms that were folded.

    Raises:
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("batch norms can be folded in evaluation mode only; call model.eval()")
    pairs = _find_pairs(model, example)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    folded = {norm for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in folded:
                setattr(parent, name, _behind_norm(child))
    return len(pairs)


def _find_pairs(
    model: nn.Module, example: Any
) -> list[tuple[nn.Conv2d, nn.modules.batchnorm._BatchNorm]]:
    """Returns the convolutions and the norms behind them that can be folded."""
    outputs: dict[int, nn.Conv2d] = {}
    calls: Counter[nn.Module] = Counter()
    found: list[tuple[int, nn.modules.batchnorm._BatchNorm]] = []

    def after_convolution(module: nn.Module, args: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outputs[id(output)] = module
        counter.kept.append(output)
        calls[module] += 1

    def before_norm(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        found.append((id(args[0]), module))
        calls[module] += 1

    handles = [
        module.register_forward_hook(after_convolution)
        for module in model.modules()
        if type(module) is nn.Conv2d
    ]
    handles += [
        module.register_forward_pre_hook(before_norm)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.track_running_stats
        and not module.training
    ]
    counter = _UseCounter()
    try:
        with counter:
            result = model(example)
    finally:
        for handle in handles:
            handle.remove()
    counter.uses.update(id(leaf) for leaf in tree_leaves(result))
    return [
        (outputs[source], norm)
        for source, norm in found
        if source in outputs
        and counter.uses[source] == 1
        and calls[norm] == calls[outputs[source]] == 1
    ]


def _fold(convolution: nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Scales and shifts a convolution by the constants of a norm; computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = (
            scale * norm.weight.double(),
            shift * norm.weight.double() + norm.bias.double(),
        )
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    folded = weight.double() * scale.view(-1, 1, 1, 1)
    layout = (
        torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else None
    )
    folded = folded.to(weight.dtype)
    if layout is not None:
        folded = folded.contiguous(memory_format=layout)
    convolution.weight = nn.Parameter(folded, requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _behind_norm(norm: nn.Module) -> nn.Module:
    """Returns what a norm does beside normalizing: timm's norms may hold an activation."""
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    kept = [part for part in parts if isinstance(part, nn.Module)]
    return nn.Sequential(*kept) if kept else nn.Identity()
