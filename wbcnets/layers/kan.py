"""Kolmogorov-Arnold layers (KAN): a learned function on every edge, sums on the nodes.

Liu et al., "KAN: Kolmogorov-Arnold Networks", 2024, section 2.2. In Chen et al., "SCKansformer:
Fine-Grained Classification of Bone Marrow Cells via Kansformer Backbone and Hierarchical Attention
Mechanisms", equations 2 to 4, they replace the transformer's MLP.

    y_o = sum_i w_oi b(x_i) + sum_i s_oi sum_j c_oij B_j(x_i)

with b = SiLU, and B_j the B-splines on the knots of input i. The parameters have the names and
shapes of SCKansformer's released code: ``base_weight`` w, ``spline_scaler`` s, ``spline_weight`` c,
and ``grid``.

Differences from the paper:

- One base weight and one scaler per edge, both Kaiming-uniform, as in SCKansformer's code. Liu et
  al. have both too, but start the scaler at 1.

Differences from the released code:

- Coefficients are drawn directly, not fitted to drawn values, so construction needs no ``lstsq``.
- Inputs are clamped to the outer knots before powers are taken, and bases are found in float32.
- ``update_grid`` preserves the function; the code's refit applies the scaler twice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from wbcnets.errors import ConfigError, DataError
from wbcnets.ops.autocast import autocast_off, is_autocast_on, product_dtype
from wbcnets.ops.kan_spline import kan_spline
from wbcnets.ops.kan_spline.knots import (
    adaptive_knots,
    are_uniform,
    refitted_weight,
    uniform_knots,
)


class KANLinear(nn.Module):
    """One KAN layer, with a learned function per edge: (..., in_features) -> (..., out_features).

    Bases are 0 outside the grid's outer knots (beyond +-2.2 by default). Only the base branch
    responds there, so put a norm before the layer. Under autocast and in half layers, positions on
    the grid are found in float32 and matrix products run in the half type, if the hardware has
    them. Under autocast to float16 the output is float32, because the base branch is unbounded.

    After an in-place change of ``grid`` from outside, for instance by an exponential moving average
    of all buffers, call ``refresh_grid``. With several processes, call ``update_grid`` in all of
    them with the same data.

    Args:
        in_features: Input width I.
        out_features: Output width O.
        grid_size: Intervals inside the grid's range.
        spline_order: Degree of the splines' pieces.
        grid_range: Begin and end of the intervals; ``spline_order`` more follow on either side.
        base_activation: Makes the activation of the base branch.
        scale_noise: Coefficients start uniformly in ``+-scale_noise / (2 * grid_size)``.
        device: Device of the parameters.
        dtype: Type of the parameters. Knots stay in float32 or wider; rounded ones may coincide.

    Raises:
        ConfigError: if a size is below 1, or the range is empty or not finite.
    """

    grid: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        scale_noise: float = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(in_features, out_features, grid_size, spline_order)
        _check_range(grid_range, scale_noise)
        self.in_features, self.out_features = in_features, out_features
        self.grid_size, self.spline_order = grid_size, spline_order
        self.grid_range = (float(grid_range[0]), float(grid_range[1]))
        self.scale_noise = scale_noise
        bases = grid_size + spline_order

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.base_weight = parameter(out_features, in_features)
        self.spline_weight = parameter(out_features, in_features, bases)
        self.spline_scaler = parameter(out_features, in_features)
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        knots = torch.empty(in_features, bases + spline_order + 1, device=device, dtype=wide)
        self.register_buffer("grid", knots)
        self.base_activation = base_activation()
        # A Python flag: reading the grid inside forward would stop compilers
        self.uniform_grid = True
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights and restores the evenly spaced grid."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        limit = self.scale_noise / (2 * self.grid_size)
        nn.init.uniform_(self.spline_weight, -limit, limit)
        knots = uniform_knots(
            self.grid_size,
            self.spline_order,
            self.grid_range,
            device=self.grid.device,
            dtype=self.grid.dtype,
        )
        self.grid.copy_(knots.expand_as(self.grid))
        self.uniform_grid = True

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        dtype = product_dtype(x, self.base_weight)
        with autocast_off(x):
            wide = x.to(torch.promote_types(dtype, torch.float32))
            silu = type(self.base_activation) is nn.SiLU
            y = kan_spline(
                wide,
                self.grid,
                self.spline_weight,
                self.spline_scaler,
                self.spline_order,
                uniform=self.uniform_grid,
                linear=(wide if silu else self.base_activation(wide), self.base_weight),
                dtype=dtype,
                silu=silu,
            )
        return y if is_autocast_on(x) else y.to(x.dtype)

    def regularization_loss(
        self, activation_weight: float = 1.0, entropy_weight: float = 1.0
    ) -> Tensor:
        """Returns L1 norm plus entropy of the layer, a scalar, which favors few edges.

        ``|e| = mean_j |c_oij|``, ``L1 = sum |e|``, ``S = -sum (|e| / L1) log(|e| / L1)`` (Liu et
        al., section 2.5.1), on coefficients in place of activations: that needs no pass over data.

        Args:
            activation_weight: Factor of L1.
            entropy_weight: Factor of S.
        """
        wide = torch.promote_types(self.spline_weight.dtype, torch.float32)
        edges = self.spline_weight.to(wide).abs().mean(dim=-1)
        total = edges.sum()
        smallest = torch.finfo(wide).eps ** 2
        fractions = edges / total.clamp(min=smallest)
        # 0 log 0 counts as 0, in the gradient too
        entropy = -(fractions * fractions.clamp(min=smallest).log()).sum()
        return activation_weight * total + entropy_weight * entropy

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02) -> None:
        """Moves each feature's knots to the range of its inputs and preserves the function there.

        Coefficients are refitted by least squares on the inputs. Unless ``grid_eps`` is 1, the grid
        is uneven afterwards, and splines use the slower recursion.

        Args:
            x: Inputs of this layer, (..., in_features), at least as many rows as bases.
            margin: Distance of an even grid's ends from the smallest and the largest input.
            grid_eps: Fraction of the even grid, in [0, 1]; the rest are quantiles of the inputs.

        Raises:
            ConfigError: if an argument is out of range, or the layer or ``x`` has no values (meta).
            DataError: if rows are too few, values are not finite, or knots would coincide.
        """
        self._check_update(x, margin, grid_eps)
        rows = x.detach().reshape(-1, self.in_features)
        bases = self.grid_size + self.spline_order
        if len(rows) < bases:
            raise DataError(
                f"update_grid: {len(rows)} rows cannot determine {bases} bases; give at least "
                f"{bases} rows, or use a smaller grid_size"
            )
        not_finite = int((~rows.isfinite()).sum())
        if not_finite:
            raise DataError(
                f"update_grid: {not_finite} of {rows.numel()} inputs are not finite; "
                "remove them, or find their origin"
            )
        knots = adaptive_knots(rows, self.grid_size, self.spline_order, margin, grid_eps)
        knots = knots.to(self.grid)
        self._check_distinct(knots)
        weight = refitted_weight(rows, self.grid, knots, self.spline_order, self.spline_weight)
        self.spline_weight.copy_(weight)
        self.grid.copy_(knots)
        self.refresh_grid()

    def refresh_grid(self) -> None:
        """Checks again whether the grid is evenly spaced, after a change of its values."""
        self.uniform_grid = are_uniform(self.grid, self.grid.dtype)

    def _check_update(self, x: Tensor, margin: float, grid_eps: float) -> None:
        if x.is_meta or self.grid.is_meta:
            raise ConfigError(
                "update_grid: the layer and its inputs need values, but are on the meta device; "
                "move the model with to_empty and load or reset its weights first"
            )
        if x.shape[-1] != self.in_features:
            raise ConfigError(
                f"update_grid: x has {x.shape[-1]} features, the layer takes {self.in_features}"
            )
        if not 0 <= margin < math.inf or not 0 <= grid_eps <= 1:
            raise ConfigError(
                "update_grid: margin must be finite and not negative, grid_eps in [0, 1], "
                f"got margin={margin}, grid_eps={grid_eps}"
            )

    def _check_distinct(self, knots: Tensor) -> None:
        coincide = (knots.diff(dim=1) <= 0).any(dim=1).nonzero().flatten().tolist()
        if coincide:
            raise DataError(
                f"update_grid: knots of {len(coincide)} features coincide, because many of their "
                f"inputs are equal; use a larger grid_eps or margin. Features: {coincide[:10]}"
            )

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        *further: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *further)
        error_msgs: list[str] = further[-1]
        loaded = state_dict.get(f"{prefix}grid")
        if not isinstance(loaded, Tensor) or loaded.is_meta or self.grid.is_meta:
            return
        if loaded.shape != self.grid.shape:
            return  # torch has already added this to error_msgs
        self.grid = self.grid.to(torch.promote_types(self.grid.dtype, torch.float32))
        if not bool(self.grid.isfinite().all() and (self.grid.diff(dim=1) >= 0).all()):
            error_msgs.append(
                f"{prefix}grid: knots must be finite and ascending; load an undamaged checkpoint"
            )
            return
        self.uniform_grid = are_uniform(self.grid, loaded.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KANLinear":
        grid = self.grid
        super()._apply(fn, recurse)
        if self.grid.dtype.itemsize < 4:  # knots may coincide in half types
            self.grid = grid.to(self.grid.device)
        return self

    def extra_repr(self) -> str:
        """Returns the arguments that ``print`` shows."""
        return (
            f"{self.in_features}, {self.out_features}, grid_size={self.grid_size}, "
            f"spline_order={self.spline_order}, uniform_grid={self.uniform_grid}"
        )


class KAN(nn.Module):
    """KAN layers one after another: (..., layers[0]) -> (..., layers[-1]).

    Args:
        layers: Widths, for instance ``[dim, 64, dim]`` for two layers.
        dropout: Dropout of the values between layers.
        **options: Further keywords of ``KANLinear``.

    Raises:
        ConfigError: if there are fewer than two widths, or an argument is out of range.
    """

    def __init__(self, layers: Sequence[int], dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        widths = list(layers)
        if len(widths) < 2:
            raise ConfigError(
                f"KAN: layers must name at least two widths, got {widths}; use for instance "
                "layers=[768, 64, 768]"
            )
        if not 0 <= dropout <= 1:
            raise ConfigError(f"KAN: dropout must be between 0 and 1, got {dropout}")
        self.layers = nn.ModuleList(
            KANLinear(in_features, out_features, **options)
            for in_features, out_features in pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., layers[0]) -> (..., layers[-1])."""
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else self.dropout(x))
        return x

    def regularization_loss(
        self, activation_weight: float = 1.0, entropy_weight: float = 1.0
    ) -> Tensor:
        """Returns the sum of the layers' ``KANLinear.regularization_loss``, a scalar."""
        losses = [
            layer.regularization_loss(activation_weight, entropy_weight)
            for layer in self._kan_layers()
        ]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02) -> None:
        """Updates the grid of each layer with the outputs of the updated layers before it.

        Args:
            x: Inputs (..., layers[0]).
            margin: See ``KANLinear.update_grid``.
            grid_eps: See ``KANLinear.update_grid``.

        Raises:
            ConfigError: if ``KANLinear.update_grid`` refuses an argument.
            DataError: if ``KANLinear.update_grid`` refuses the inputs.
        """
        for layer in self._kan_layers():
            layer.update_grid(x, margin, grid_eps)
            x = layer(x)

    def _kan_layers(self) -> list[KANLinear]:
        return [layer for layer in self.layers if isinstance(layer, KANLinear)]


def _check_sizes(in_features: int, out_features: int, grid_size: int, spline_order: int) -> None:
    sizes = {
        "in_features": in_features,
        "out_features": out_features,
        "grid_size": grid_size,
        "spline_order": spline_order,
    }
    wrong = {name: size for name, size in sizes.items() if size < 1}
    if wrong:
        raise ConfigError(f"KANLinear: sizes must be at least 1, got {wrong}")


def _check_range(grid_range: tuple[float, float], scale_noise: float) -> None:
    if len(grid_range) != 2 or not -math.inf < grid_range[0] < grid_range[1] < math.inf:
        raise ConfigError(
            f"KANLinear: grid_range must be two finite numbers, the smaller first, "
            f"got {grid_range}; use for instance grid_range=(-1.0, 1.0)"
        )
    if not 0 <= scale_noise < math.inf:
        raise ConfigError(
            f"KANLinear: scale_noise must be finite and not negative, got {scale_noise}"
        )
