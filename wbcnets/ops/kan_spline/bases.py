"""B-spline bases in plain tensor operations, by whichever form fits the grid.

Inside this package bases lie before features, `(..., n, I)`: then every basis is one contiguous
block, and a row of blocks times a matrix `(n * I, O)` is the layer.
"""

from torch import Tensor

from wbcnets.ops.kan_spline.cardinal import cardinal_cubic_bases
from wbcnets.ops.kan_spline.cox_de_boor import cox_de_boor_bases


def bspline_bases(x: Tensor, grid: Tensor, order: int = 3, *, uniform: bool = False) -> Tensor:
    """Values of all B-spline bases: `(..., I), (I, K) -> (..., I, K - order - 1)`.

    They sum to 1 between knots `order` and `K - 1 - order`, and are 0 outside the first and the
    last knot. Pieces are half-open, `[t_j, t_j+1)`; of the bases only those of order 0, and those
    that end in a repeated knot, jump and therefore show it.

    Args:
        x: Inputs.
        grid: Knots in ascending order, one row for every input feature.
        order: Degree of the polynomial pieces.
        uniform: Every row of the grid is evenly spaced; order 3 then takes the closed form.
    """
    return stacked_bases(x, grid, order, uniform).transpose(-1, -2)


def stacked_bases(x: Tensor, grid: Tensor, order: int, uniform: bool) -> Tensor:
    """`(..., I), (I, K) -> (..., n, I)`: the closed form where there is one, else the recursion."""
    if uniform and order == 3:
        return cardinal_cubic_bases(x, grid)
    return cox_de_boor_bases(x, grid, order)
