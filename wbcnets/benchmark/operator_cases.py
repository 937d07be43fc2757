"""Layers and operators against their plain implementations."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wbcnets.benchmark.case import BenchmarkOptions, Candidate, Case, Pair, Target, tensor_bytes
from wbcnets.layers.global_local_attention import GlobalLocalAttention
from wbcnets.layers.kan import KANLinear
from wbcnets.layers.necks import create_neck
from wbcnets.layers.scconv import SCConv
from wbcnets.ops.kan_spline import bspline_bases
from wbcnets.ops.ms_deform_attn import BACKENDS, select_backend

KAN_ROWS, KAN_INPUTS, KAN_OUTPUTS = 1576, 768, 64
# The levels of a 480 x 640 image at strides 8, 16, 32 and 64: 6,380 tokens, each of them a query
LEVELS = ((60, 80), (30, 40), (15, 20), (8, 10))
HEADS, HEAD_DIM, POINTS = 8, 32, 4


def operator_cases() -> list[Case]:
    """Returns the cases of the KAN layer, deformable attention, and layers of the papers."""
    return [*_kan_cases(), *_attention_cases(), *_layer_cases()]


def _kan_cases() -> list[Case]:
    size = f"{KAN_INPUTS} -> {KAN_OUTPUTS} on {KAN_ROWS:,} rows"
    about = f"KAN layer {size} over the Cox-de Boor recursion"
    suites = ("operators", "peers")
    return [
        Case("kan/forward", about, partial(_kan, False), suites, Target(time=1 / 5)),
        Case("kan/training", about, partial(_kan, True), suites, Target(time=1 / 5, memory=1 / 4)),
    ]


class RecursiveKAN(nn.Module):
    """A KAN layer as it is usually written: bases by recursion, gradients by autograd.

    Args:
        layer: The layer whose parameters it shares.
    """

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_features) -> (R, out_features)."""
        layer = self.layer
        base = nn.functional.linear(nn.functional.silu(x), layer.base_weight)
        bases = bspline_bases(x, layer.grid, layer.spline_order, uniform=False)
        weight = layer.spline_weight * layer.spline_scaler.unsqueeze(-1)
        return base + nn.functional.linear(bases.flatten(1), weight.flatten(1))


def _kan(training: bool, options: BenchmarkOptions) -> Pair:
    torch.manual_seed(options.seed)
    layer = KANLinear(KAN_INPUTS, KAN_OUTPUTS).to(options.device)
    x = torch.randn(KAN_ROWS, KAN_INPUTS, device=options.device, requires_grad=training)
    bases = layer.grid_size + layer.spline_order
    macs = KAN_ROWS * KAN_INPUTS * KAN_OUTPUTS * (bases + 1)
    moved = tensor_bytes(x, *layer.parameters()) + KAN_ROWS * KAN_OUTPUTS * x.element_size()
    candidate = partial(_candidate, macs=macs, bytes_moved=moved, items=KAN_ROWS, training=training)
    return Pair(
        candidate("KANLinear", layer, [x], list(layer.parameters())),
        candidate("Cox-de Boor", RecursiveKAN(layer), [x], list(layer.parameters())),
        memory=training,
    )


def _candidate(
    name: str,
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    training: bool,
    macs: int,
    bytes_moved: int,
    items: int,
) -> Candidate:
    wanted = [tensor for tensor in (*inputs, *parameters) if tensor.requires_grad]

    def forward() -> Any:
        with torch.inference_mode():
            return function(*inputs)

    def forward_backward() -> Any:
        y = function(*inputs)
        return torch.autograd.grad(y, wanted, torch.ones_like(y))

    passes = 3 if training else 1
    return Candidate(
        name,
        forward_backward if training else forward,
        items=items,
        macs=passes * macs,
        bytes_moved=passes * bytes_moved,
    )


def _attention_cases() -> list[Case]:
    cases = []
    for backend in sorted(set(BACKENDS) - {"grid_sample"}):
        for kind, ratio in (("forward", 1 / 4), ("training", 1 / 2.5)):
            default = backend == select_backend(torch.device("cpu"))
            about = f"deformable attention by {backend}, 6,380 queries, over grid_sample"
            build = partial(_attention, backend, kind == "training")
            suites = ("operators", "peers") if default else ("operators",)
            target = Target(time=ratio) if default else Target()
            cases.append(Case(f"ms_deform_attn_{backend}/{kind}", about, build, suites, target))
    return cases


def _attention(backend: str, training: bool, options: BenchmarkOptions) -> Pair:
    torch.manual_seed(options.seed)
    tokens = sum(height * width for height, width in LEVELS)
    shape = (1, tokens, HEADS, len(LEVELS), POINTS)
    device = options.device
    value = torch.randn(1, tokens, HEADS, HEAD_DIM, device=device)
    # Around every token's own position, as in the encoder
    spread = 0.05 * torch.randn(*shape, 2, device=device)
    locations = _centers(device)[None, :, None, None, None] + spread
    weights = torch.rand(shape, device=device).flatten(3).softmax(dim=-1).view(shape)
    inputs = [tensor.requires_grad_(training) for tensor in (value, locations, weights)]
    macs = 4 * tokens * HEADS * len(LEVELS) * POINTS * HEAD_DIM
    moved = tensor_bytes(*inputs) + tensor_bytes(value)
    candidate = partial(_candidate, training=training, macs=macs, bytes_moved=moved, items=tokens)

    def attention(name: str) -> Candidate:
        attend = BACKENDS[name]
        return candidate(name, lambda v, *rest: attend(v, LEVELS, *rest), inputs, [])

    return Pair(attention(backend), attention("grid_sample"), memory=training)


def _centers(device: torch.device) -> Tensor:
    """Returns every token's center (x, y) in fractions of its map, (tokens, 2)."""
    centers = []
    for height, width in LEVELS:
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        centers.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(centers)


def _layer_cases() -> list[Case]:
    layers = (
        ("scconv", "SCConv over a 3x3 convolution, 768 channels, 14x14, batch 8", _scconv),
        ("global_local", "global-local attention over a ViT block, 768, batch 8", _global_local),
        ("hs_fpn", "HS-FPN over FPN, ResNet-50's maps of a 480x640 image", _neck),
    )
    return [
        Case(
            f"{name}/{kind}",
            f"{about}: {kind}",
            partial(build, kind == "training"),
            ("operators",),
        )
        for name, about, build in layers
        for kind in ("forward", "training")
    ]


def _scconv(training: bool, options: BenchmarkOptions) -> Pair:
    torch.manual_seed(options.seed)
    x = torch.randn(8, 768, 14, 14)
    peer = nn.Conv2d(768, 768, 3, padding=1)
    return _modules(training, options, [x], ("SCConv", SCConv(768)), ("Conv2d 3x3", peer))


def _global_local(training: bool, options: BenchmarkOptions) -> Pair:
    from timm.models.vision_transformer import Block

    torch.manual_seed(options.seed)
    tokens = torch.randn(8, 197, 768)
    ours = _OnGrid(GlobalLocalAttention(768, 12))
    return _modules(
        training, options, [tokens], ("GlobalLocalAttention", ours), ("ViT block", Block(768, 12))
    )


class _OnGrid(nn.Module):
    """A block on 14 x 14 patches."""

    def __init__(self, block: GlobalLocalAttention) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens, (14, 14))


def _neck(training: bool, options: BenchmarkOptions) -> Pair:
    torch.manual_seed(options.seed)
    channels = [512, 1024, 2048, 4096]
    maps = [torch.randn(1, c, h, w) for c, (h, w) in zip(channels, LEVELS)]
    ours, peer = (_Joined(create_neck(name, channels, 256)) for name in ("hs_fpn", "fpn"))
    return _modules(training, options, maps, ("HS-FPN", ours), ("FPN", peer))


class _Joined(nn.Module):
    """A neck that returns its maps as one vector."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat([level.flatten() for level in self.neck(list(maps))])


def _modules(
    training: bool,
    options: BenchmarkOptions,
    inputs: Sequence[Tensor],
    *named: tuple[str, nn.Module],
) -> Pair:
    inputs = [x.to(options.device, options.dtype).requires_grad_(training) for x in inputs]

    def candidate(name: str, module: nn.Module) -> Candidate:
        module = module.to(options.device, options.dtype).train(training)
        parameters = list(module.parameters())
        return _candidate(
            name,
            module,
            inputs,
            parameters,
            training=training,
            macs=_count_macs(module, inputs),
            bytes_moved=tensor_bytes(*inputs, *parameters),
            items=len(inputs[0]),
        )

    ours, peer = (candidate(name, module) for name, module in named)
    return Pair(ours, peer, memory=training)


def _count_macs(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2
