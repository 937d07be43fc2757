"""The spline branch of a KAN layer for CUDA, in Triton: uniform cubic grids, float32.

Bases live only in registers: a program computes those of a tile of inputs, one basis at a time, and
immediately multiplies them by the matching rows of the weight matrix (n * I, O). Memory traffic is
the inputs, the matrix and the result; with 8 bases that is a ninth of the plain form's. Each tile
of outputs recomputes its bases, at some 10 operations each against 2 * BLOCK_OUT for the product.

The gradient of the matrix is a sum over rows. Several programs share it, each writes its part, and
the parts are added in a fixed order, so the same inputs give the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_ROWS = 64
_BLOCK_IN = 32
_BLOCK_OUT = 64
# Programs that share the sum over rows; a layer's few tiles alone would not fill a large device
_ROW_PARTS = 16


@triton.jit
def _positions(x, first, last, INTERVALS: tl.constexpr):
    """Returns positions in knot spacings from the grid's middle, clamped to it; NaN stays."""
    position = (x - (first + last) / 2) * (INTERVALS / (last - first))
    position = tl.where(position < -INTERVALS / 2, -INTERVALS / 2, position)
    return tl.where(position > INTERVALS / 2, INTERVALS / 2, position)


@triton.jit
def _basis(position, index, INTERVALS: tl.constexpr):
    """Returns six times a cubic basis: ``(2 - |u|)_+^3 - 4 (1 - |u|)_+^3``."""
    distance = tl.abs(position - (index + 2 - INTERVALS / 2))
    outer = 2.0 - distance
    outer = tl.where(outer < 0, 0.0, outer)
    inner = outer - 1.0
    inner = tl.where(inner < 0, 0.0, inner)
    return outer * outer * outer - 4.0 * inner * inner * inner


@triton.jit
def _slope(position, index, INTERVALS: tl.constexpr):
    """Returns six times the derivative of a cubic basis, per knot spacing."""
    u = position - (index + 2 - INTERVALS / 2)
    outer = 2.0 - tl.abs(u)
    outer = tl.where(outer < 0, 0.0, outer)
    inner = outer - 1.0
    inner = tl.where(inner < 0, 0.0, inner)
    size = 3.0 * (outer * outer - 4.0 * inner * inner)
    return tl.where(u < 0, size, -size)


@triton.jit
def _forward_kernel(
    x,
    first,
    last,
    matrix,
    y,
    rows,
    inputs,
    outputs,
    BASES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row64 = row.to(tl.int64)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    for start in range(0, inputs, BLOCK_IN):
        feature = start + tl.arange(0, BLOCK_IN)
        is_feature = feature < inputs
        tile = tl.load(
            x + row64[:, None] * inputs + feature[None, :],
            mask=(row < rows)[:, None] & is_feature[None, :],
            other=0.0,
        )
        low = tl.load(first + feature, mask=is_feature, other=-1.0)
        high = tl.load(last + feature, mask=is_feature, other=1.0)
        position = _positions(tile, low[None, :], high[None, :], BASES + 3)
        for index in tl.static_range(BASES):
            weight = tl.load(
                matrix + (index * inputs + feature)[:, None] * outputs + column[None, :],
                mask=is_feature[:, None] & (column < outputs)[None, :],
                other=0.0,
            )
            bases = _basis(position, index, BASES + 3)
            total = tl.dot(bases, weight, total, input_precision=PRECISION)
    tl.store(
        y + row64[:, None] * outputs + column[None, :],
        total,
        mask=(row < rows)[:, None] & (column < outputs)[None, :],
    )


@triton.jit
def _input_gradient_kernel(
    grad,
    x,
    first,
    last,
    matrix,
    grad_x,
    rows,
    inputs,
    outputs,
    BASES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    feature = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    row64 = row.to(tl.int64)
    is_feature = feature < inputs
    is_input = (row < rows)[:, None] & is_feature[None, :]
    offsets = row64[:, None] * inputs + feature[None, :]
    low = tl.load(first + feature, mask=is_feature, other=-1.0)
    high = tl.load(last + feature, mask=is_feature, other=1.0)
    tile = tl.load(x + offsets, mask=is_input, other=0.0)
    position = _positions(tile, low[None, :], high[None, :], BASES + 3)
    total = tl.zeros((BLOCK_ROWS, BLOCK_IN), tl.float32)
    for index in tl.static_range(BASES):
        of_basis = tl.zeros((BLOCK_ROWS, BLOCK_IN), tl.float32)
        for start in range(0, outputs, BLOCK_OUT):
            column = start + tl.arange(0, BLOCK_OUT)
            upstream = tl.load(
                grad + row64[:, None] * outputs + column[None, :],
                mask=(row < rows)[:, None] & (column < outputs)[None, :],
                other=0.0,
            )
            weight = tl.load(
                matrix + (index * inputs + feature)[None, :] * outputs + column[:, None],
                mask=is_feature[None, :] & (column < outputs)[:, None],
                other=0.0,
            )
            of_basis = tl.dot(upstream, weight, of_basis, input_precision=PRECISION)
        total += _slope(position, index, BASES + 3) * of_basis
    total *= (BASES + 3) / (high - low)[None, :]
    tl.store(grad_x + offsets, total, mask=is_input)


@triton.jit
def _matrix_gradient_kernel(
    grad,
    x,
    first,
    last,
    parts,
    rows,
    inputs,
    outputs,
    rows_per_part,
    BASES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    blocks_out = tl.cdiv(outputs, BLOCK_OUT)
    feature = (tl.program_id(0) // blocks_out) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = (tl.program_id(0) % blocks_out) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    index = tl.program_id(1)
    part = tl.program_id(2)
    is_feature = feature < inputs
    low = tl.load(first + feature, mask=is_feature, other=-1.0)
    high = tl.load(last + feature, mask=is_feature, other=1.0)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), tl.float32)
    begin = part * rows_per_part
    for start in range(0, rows_per_part, BLOCK_ROWS):
        row = begin + start + tl.arange(0, BLOCK_ROWS)
        is_row = (row < rows) & (row < begin + rows_per_part)
        row64 = row.to(tl.int64)
        tile = tl.load(
            x + row64[None, :] * inputs + feature[:, None],
            mask=is_row[None, :] & is_feature[:, None],
            other=0.0,
        )
        upstream = tl.load(
            grad + row64[:, None] * outputs + column[None, :],
            mask=is_row[:, None] & (column < outputs)[None, :],
            other=0.0,
        )
        position = _positions(tile, low[:, None], high[:, None], BASES + 3)
        bases = _basis(position, index, BASES + 3)
        total = tl.dot(bases, upstream, total, input_precision=PRECISION)
    offset = ((part * BASES + index).to(tl.int64) * inputs + feature)[:, None] * outputs
    tl.store(
        parts + offset + column[None, :],
        total,
        mask=is_feature[:, None] & (column < outputs)[None, :],
    )


def triton_forward(x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor) -> Tensor:
    """(R, I), (I, K), (O, I, K - 4), (O, I) -> (R, O), all in float32; the grid is uniform."""
    x, matrix = x.contiguous(), _weight_matrix(spline_weight, spline_scaler)
    (rows, inputs), outputs = x.shape, matrix.shape[1]
    y = x.new_empty(rows, outputs)
    if rows:
        programs = (triton.cdiv(rows, _BLOCK_ROWS), triton.cdiv(outputs, _BLOCK_OUT))
        first, last = grid[:, 0].contiguous(), grid[:, -1].contiguous()
        _forward_kernel[programs](
            x, first, last, matrix, y, rows, inputs, outputs, **_constants(grid)
        )
    return y


def triton_backward(
    grad: Tensor, x: Tensor, grid: Tensor, spline_weight: Tensor, spline_scaler: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and scaler, given that of the result (R, O)."""
    grad, x = grad.contiguous(), x.contiguous()
    matrix = _weight_matrix(spline_weight, spline_scaler)
    (rows, inputs), outputs, bases = x.shape, matrix.shape[1], grid.shape[1] - 4
    first, last = grid[:, 0].contiguous(), grid[:, -1].contiguous()
    constants = _constants(grid)
    grad_x = torch.empty_like(x)
    parts = min(_ROW_PARTS, max(1, triton.cdiv(rows, _BLOCK_ROWS)))
    sums = x.new_zeros(parts, bases, inputs, outputs)
    if rows:
        blocks_in = triton.cdiv(inputs, _BLOCK_IN)
        _input_gradient_kernel[(triton.cdiv(rows, _BLOCK_ROWS), blocks_in)](
            grad, x, first, last, matrix, grad_x, rows, inputs, outputs, **constants
        )
        tiles = blocks_in * triton.cdiv(outputs, _BLOCK_OUT)
        rows_per_part = triton.cdiv(rows, parts)
        _matrix_gradient_kernel[(tiles, bases, parts)](
            grad, x, first, last, sums, rows, inputs, outputs, rows_per_part, **constants
        )
    scaled_grad = sums.sum(dim=0).permute(2, 1, 0) / 6  # (O, I, n)
    weight_grad = (scaled_grad * spline_scaler.unsqueeze(-1)).contiguous()
    return grad_x, weight_grad, (scaled_grad * spline_weight).sum(dim=-1)


def _weight_matrix(spline_weight: Tensor, spline_scaler: Tensor) -> Tensor:
    """(O, I, n), (O, I) -> (n * I, O), divided by six because the bases are six times as large."""
    scaled = spline_weight * (spline_scaler / 6).unsqueeze(-1)
    return scaled.permute(2, 1, 0).reshape(-1, len(spline_weight))


def _constants(grid: Tensor) -> dict[str, object]:
    exact = not torch.backends.cuda.matmul.allow_tf32
    return {
        "BASES": grid.shape[1] - 4,
        "PRECISION": "ieee" if exact else "tf32",
        "BLOCK_ROWS": _BLOCK_ROWS,
        "BLOCK_IN": _BLOCK_IN,
        "BLOCK_OUT": _BLOCK_OUT,
    }
