"""Configuration of the symmetry prior: plain data, without torch, like :mod:`dao.networks.config`."""

from __future__ import annotations

from dataclasses import dataclass

from dao.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SymmetryPriorConfig:
    """Size and regularisation of the network that predicts space group and Wyckoff positions from a composition."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 -- read by pydantic where recipes and weights are parsed

    width: int = 192
    encoder_blocks: int = 4
    """Blocks over the elements of the composition."""
    decoder_blocks: int = 2
    """Blocks over the orbits chosen so far."""
    heads: int = 6
    dropout: float = 0.1
    element_dropout: float = 0.1
    """How often training hides an element's learned vector, so that its tabulated properties must do."""
    neighbour_dropout: float = 0.0
    """How often training hides all similar compositions, so that the network learns to do without."""
    unaided_share: float = 0.0
    """Share of a proposal's probability that comes from the network without similar compositions: a mixture of both,
    so that what no known crystal does is proposed, too."""

    def __post_init__(self) -> None:
        """Check sizes that would otherwise fail deep inside."""
        if min(self.width, self.encoder_blocks, self.decoder_blocks, self.heads) < 1:
            raise InputError("symmetry prior: width, encoder_blocks, decoder_blocks and heads must be positive")
        if self.width % self.heads:
            raise InputError(f"symmetry prior: width {self.width} is not a multiple of its {self.heads} heads")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"symmetry prior: dropout must be in [0, 1), got {self.dropout}")
        for name in ("element_dropout", "neighbour_dropout", "unaided_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"symmetry prior: {name} must be in [0, 1], got {getattr(self, name)}")
