"""Networks that ``benchmarks/ideas.py`` measures. A class that wins moves to ``src/dao`` as it is.

Shapes: B crystals, N atoms (padded), D width, H heads, R radial functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dao.geometry.torus import remove_mean
from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.networks.config import LATTICE_FEATURES
from dao.networks.crysformer import Crysformer, CrysformerBlock, GatedResidual
from dao.processes.base import Prediction, State

if TYPE_CHECKING:
    from dao.networks.edges import EdgeGeometry


class Plus(nn.Module):
    """A layer, plus a linear map (zero at first) of a signal that the model sets before each evaluation."""

    def __init__(self, layer: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.map = nn.Linear(features, width, bias=False)
        nn.init.zeros_(self.map.weight)
        self.signal: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if self.signal is None else y + self.map(self.signal)


# --- conditioning ----------------------------------------------------------------------------------------------------


class WithoutLatticeAndTime(nn.Module):
    """The conditioning vector sees the number of atoms (and the space group, added later) only."""

    def __init__(self, layer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.layer = layer
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([torch.zeros_like(x[:, : self.hidden]), x[:, self.hidden :]], dim=-1))
        return y


def plain_conditioning(config: GeneratorConfig) -> Generator:
    model = Generator(config)
    network = model.network
    assert isinstance(network, Crysformer)
    assert network.condition is not None
    network.condition = WithoutLatticeAndTime(network.condition, network.config.time_features + LATTICE_FEATURES)
    return model


LARGEST_UNITS = 20


class UnitsConditioned(Generator):
    """Conditioned on the number of formula units in the cell, one vector each."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        assert isinstance(self.network, Crysformer)
        assert self.network.condition is not None
        self.units = Plus(self.network.condition, LARGEST_UNITS + 1, config.network.width)
        self.network.condition = self.units

    def forward(
        self, atomic_numbers: Tensor, mask: Tensor, state: State, time: Tensor, space_group: Tensor | None = None
    ) -> Prediction:
        counts = (atomic_numbers[:, :, None] == atomic_numbers[:, None]).sum(-1) * mask
        units = counts[:, 0]
        for i in range(1, counts.shape[1]):
            units = torch.gcd(units, counts[:, i])
        self.units.signal = functional.one_hot(units.clamp_max(LARGEST_UNITS), LARGEST_UNITS + 1).to(time.dtype)
        return super().forward(atomic_numbers, mask, state, time, space_group)


class SelfConditioned(Generator):
    """The estimate of the clean crystal from the step before is an input; half of the training steps have one."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        width = config.network.width
        assert isinstance(self.network, Crysformer)
        assert self.network.condition is not None
        self.atoms = Plus(self.network.atom_and_time, 3, width)
        self.cell = Plus(self.network.condition, self.process.representation.dimension, width)
        self.network.atom_and_time = self.atoms  # type: ignore[assignment]
        self.network.condition = self.cell
        self._before: tuple[Tensor, Tensor] | None = None

    def forward(
        self, atomic_numbers: Tensor, mask: Tensor, state: State, time: Tensor, space_group: Tensor | None = None
    ) -> Prediction:
        estimate = None
        if self.training:
            if float(torch.rand(())) < 0.5:
                self.atoms.signal = self.cell.signal = None
                with torch.no_grad():
                    first = super().forward(atomic_numbers, mask, state, time, space_group)
                estimate = self._estimate(first, mask, state, time)
        elif self._before is not None and bool((time == time[0]).all()) and float(time[0]) < 1.0:
            # within a walk: all crystals at one time, and not its start
            estimate = self._before if self._before[0].shape == state.frac_coords.shape else None
        self.atoms.signal, self.cell.signal = estimate or (None, None)
        prediction = super().forward(atomic_numbers, mask, state, time, space_group)
        if not self.training:
            self._before = self._estimate(prediction, mask, state, time)
        return prediction

    @staticmethod
    def _estimate(prediction: Prediction, mask: Tensor, state: State, time: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement of each atom from where the data are thought to be, and the clean lattice's numbers."""
        velocity = remove_mean(prediction.frac_coords, mask.to(prediction.frac_coords.dtype))
        return time[:, None, None] * velocity, state.lattice - time[:, None] * prediction.lattice


# --- geometry --------------------------------------------------------------------------------------------------------

RADIAL = 16
RADIAL_RANGE = 2.4
"""Of the radial functions, in units of (V / N)^(1/3)."""


@torch.no_grad()
def radial_features(frac_coords: Tensor, lattice: Tensor, mask: Tensor) -> Tensor:
    """Gaussians of the shortest distance of each pair over 27 cells, (B, N, N, R); to an atom's own image for i = j.

    Distances are in units of (V / N)^(1/3), and all in float32.
    """
    cells = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], device=lattice.device)] * 3)
    metric = lattice @ lattice.mT
    offset = frac_coords[:, None] - frac_coords[:, :, None]
    offset = offset - offset.round()
    # |(f + n) L|^2 = f G f + 2 f G n + n G n: no (B, N, N, 27, 3)
    turned = offset @ metric[:, None]
    squares = (turned * offset).sum(-1, keepdim=True) + 2.0 * turned @ cells.T
    squares = squares + ((cells @ metric) * cells).sum(-1)[:, None, None]
    own = torch.eye(offset.shape[1], dtype=torch.bool, device=offset.device)
    home = (cells == 0).all(-1)
    squares = squares.masked_fill(own[:, :, None] & home, torch.inf)
    unit = (torch.linalg.det(lattice).abs() / mask.sum(1)).clamp_min(1e-3) ** (1.0 / 3.0)
    distance = squares.amin(-1).clamp_min(0.0).sqrt() / unit[:, None, None]
    centres = torch.linspace(0.0, RADIAL_RANGE, RADIAL, device=distance.device)
    return torch.exp(-0.5 * ((distance[..., None] - centres) / (centres[1] - centres[0])).square())


@dataclass
class Shared:
    """What the blocks of one evaluation share."""

    radial: Tensor


class BiasedBlock(nn.Module):
    """A block whose attention logits have a bias for each head, linear in the radial functions of each pair."""

    def __init__(self, block: CrysformerBlock, heads: int, shared: Shared) -> None:
        super().__init__()
        self.block = block
        self.map = nn.Linear(RADIAL, heads, bias=False)
        nn.init.zeros_(self.map.weight)
        self.shared = shared

    def compile(self, *args: Any, **options: Any) -> None:
        self.block.compile(*args, **options)

    def forward(
        self, nodes: Tensor, edges: EdgeGeometry, edge_norm: nn.LayerNorm, key_bias: Tensor, condition: Tensor | None
    ) -> Tensor:
        bias = self.map(self.shared.radial).transpose(2, 3)  # (B, N, H, N)
        out: Tensor = self.block(nodes, edges, edge_norm, (key_bias + bias).contiguous(), condition)
        return out


class DistanceBiased(Generator):
    """Attention sees the shortest periodic distances."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        assert isinstance(self.network, Crysformer)
        self.shared = Shared(torch.empty(0))
        heads = self.network.config.heads
        blocks = [block for block in self.network.blocks if isinstance(block, CrysformerBlock)]
        self.network.blocks = nn.ModuleList(BiasedBlock(block, heads, self.shared) for block in blocks)

    def _features(
        self, atomic_numbers: Tensor, mask: Tensor, state: State, time: Tensor, space_group: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(time.device.type, enabled=False):
            lattice = self.process.representation.decode(state.lattice, atomic_numbers)
            self.shared.radial = radial_features(state.frac_coords, lattice, mask)
        return super()._features(atomic_numbers, mask, state, time, space_group)


# --- arithmetic ---


class FloatResidual(GatedResidual):
    """The residual stream stays in float32 under autocast."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x.float(), y.float())


class ToFloat(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


def float_residual(config: GeneratorConfig) -> Generator:
    model = Generator(config)
    assert isinstance(model.network, Crysformer)
    for module in model.modules():
        if isinstance(module, GatedResidual):
            module.__class__ = FloatResidual
    model.network.atom_and_time.__class__ = ToFloat
    return model
