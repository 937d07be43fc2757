"""Deformable attention for CUDA, in Triton: one program for some queries of one head.

For each query a program reads positions and weights once, gathers 4 * L * P rows of D values, sums
them in registers in float32 and writes one row. It reads 4 L P D values, mostly from the
second-level cache because neighboring queries read neighboring rows, and writes D; nothing of size
Q * L * P * D exists. The backward pass adds to the gradient of the values by float32 atomics, so
its last bits depend on the order of programs; the other two gradients are written once.
"""

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values per program, in the registers of its four warps
_VALUES_PER_PROGRAM = 1024
_LARGEST_BLOCK = 64


@triton.jit
def _pixel(location, size):
    """Returns a fraction of the map in pixels, clamped outside of it; NaN stays."""
    pixel = location * size - 0.5
    pixel = tl.where(pixel < -2.0, -2.0, pixel)
    return tl.where(pixel > size, size, pixel)


@triton.jit
def _locate(queries, heads, dim, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr):
    """Returns the image and head of this program, the rows of its queries, channels and masks."""
    head = tl.program_id(1) % heads
    image = (tl.program_id(1) // heads).to(tl.int64)
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channel = tl.arange(0, BLOCK_D)
    is_query = query < queries
    is_value = is_query[:, None] & (channel < dim)[None, :]
    row = (image * queries + query) * heads + head
    return image, head, row, channel, is_query, is_value


@triton.jit
def _load_point(locations, weights, sample, width, height, is_query):
    """Returns the position of a sampled point in pixels, and its weight."""
    x = tl.load(locations + 2 * sample, mask=is_query, other=0.0)
    y = tl.load(locations + 2 * sample + 1, mask=is_query, other=0.0)
    weight = tl.load(weights + sample, mask=is_query, other=0.0)
    return _pixel(x, width.to(tl.float32)), _pixel(y, height.to(tl.float32)), weight


@triton.jit
def _corner(x, y, width, height, CORNER: tl.constexpr):
    """Returns the pixel at a corner of a point, whether the map has it, and its two factors."""
    left = tl.floor(x)
    top = tl.floor(y)
    column = left + (CORNER % 2)
    line = top + (CORNER // 2)
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    along_x = x - left if CORNER % 2 == 1 else 1.0 - (x - left)
    along_y = y - top if CORNER // 2 == 1 else 1.0 - (y - top)
    pixel = tl.where(inside, line * width + column, 0.0).to(tl.int64)
    return pixel, inside, along_x, along_y


@triton.jit
def _forward_kernel(
    value,
    levels,
    locations,
    weights,
    out,
    tokens,
    queries,
    heads,
    dim,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image, head, row, channel, is_query, is_value = _locate(queries, heads, dim, BLOCK_Q, BLOCK_D)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for level in tl.static_range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x, y, weight = _load_point(locations, weights, sample, width, height, is_query)
            for corner in tl.static_range(4):
                pixel, inside, along_x, along_y = _corner(x, y, width, height, corner)
                offset = ((image * tokens + pixel + start) * heads + head) * dim
                found = tl.load(
                    value + offset[:, None] + channel[None, :],
                    mask=is_value & inside[:, None],
                    other=0.0,
                )
                total += (weight * along_x * along_y)[:, None] * found.to(tl.float32)
    offset = row * dim
    tl.store(out + offset[:, None] + channel[None, :], total, mask=is_value)


@triton.jit
def _backward_kernel(
    grad,
    value,
    levels,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    tokens,
    queries,
    heads,
    dim,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    image, head, row, channel, is_query, is_value = _locate(queries, heads, dim, BLOCK_Q, BLOCK_D)
    out_offset = (row * dim)[:, None] + channel[None, :]
    upstream = tl.load(grad + out_offset, mask=is_value, other=0.0).to(tl.float32)
    for level in tl.static_range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2)
        for point in tl.static_range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x, y, weight = _load_point(locations, weights, sample, width, height, is_query)
            of_weight = tl.zeros((BLOCK_Q,), tl.float32)
            of_x = tl.zeros((BLOCK_Q,), tl.float32)
            of_y = tl.zeros((BLOCK_Q,), tl.float32)
            for corner in tl.static_range(4):
                pixel, inside, along_x, along_y = _corner(x, y, width, height, corner)
                slope_x = 1.0 if corner % 2 == 1 else -1.0
                slope_y = 1.0 if corner // 2 == 1 else -1.0
                offset = ((image * tokens + pixel + start) * heads + head) * dim
                offsets = offset[:, None] + channel[None, :]
                is_inside = is_value & inside[:, None]
                found = tl.load(value + offsets, mask=is_inside, other=0.0).to(tl.float32)
                factor = (weight * along_x * along_y)[:, None]
                tl.atomic_add(grad_value + offsets, factor * upstream, mask=is_inside)
                product = tl.sum(found * upstream, axis=1)
                of_weight += along_x * along_y * product
                of_x += slope_x * along_y * product
                of_y += slope_y * along_x * product
            tl.store(grad_weights + sample, of_weight, mask=is_query)
            tl.store(grad_locations + 2 * sample, weight * width * of_x, mask=is_query)
            tl.store(grad_locations + 2 * sample + 1, weight * height * of_y, mask=is_query)


def triton_forward(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """(B, S, M, D), (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D), in value's type.

    Args:
        value: In float32, float16 or bfloat16; sums are in float32.
        spatial_shapes: Height and width of all levels in one sequence.
        locations: In float32.
        weights: In float32.
    """
    value, locations, weights = (x.contiguous() for x in (value, locations, weights))
    batch, _, heads, dim = value.shape
    out = value.new_empty(batch, locations.shape[1], heads * dim)
    levels = _levels(tuple(spatial_shapes), value.device)
    _launch(_forward_kernel, [value, levels, locations, weights, out], value, locations)
    return out


def triton_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of value, locations and weights, given that of the result."""
    grad, value, locations, weights = (x.contiguous() for x in (grad, value, locations, weights))
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    levels = _levels(tuple(spatial_shapes), value.device)
    tensors = [grad, value, levels, locations, weights, grad_value, grad_locations, grad_weights]
    _launch(_backward_kernel, tensors, value, locations)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(kernel: "triton.JITFunction", tensors: list[Tensor], value: Tensor, locations: Tensor):
    batch, tokens, heads, dim = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    if not batch * queries:
        return
    block_d = max(16, triton.next_power_of_2(dim))
    block_q = min(_LARGEST_BLOCK, max(1, _VALUES_PER_PROGRAM // block_d))
    kernel[(triton.cdiv(queries, block_q), batch * heads)](
        *tensors,
        tokens,
        queries,
        heads,
        dim,
        LEVELS=levels,
        POINTS=points,
        BLOCK_Q=block_q,
        BLOCK_D=block_d,
        num_warps=4,
    )


@functools.lru_cache(maxsize=128)
def _levels(spatial_shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns height, width and first token of every level; cached, as copies to a GPU wait."""
    rows, start = [], 0
    for height, width in zip(spatial_shapes[::2], spatial_shapes[1::2]):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)
