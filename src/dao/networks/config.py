"""Configuration of the networks: plain data, without torch, so that recipes are read and checked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from dao.errors import InputError

SPACE_GROUPS = 230
LATTICE_FEATURES = 6
"""Rotation-free numbers of the lattice that condition the blocks (``conditioning="scale_shift"``)."""

COUNT_FEATURES = 32
"""Sinusoidal features of the number of atoms, conditioning likewise."""


Gate = Literal["raw", "normalized", "bypassed", "none"]


@dataclass(frozen=True, kw_only=True)
class CrysformerConfig:
    """Size and variants of the network. The defaults are the paper's (``base``, 25.2 M parameters)."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 -- read by pydantic where recipes and weights are parsed

    kind: Literal["crysformer"] = "crysformer"
    width: int = 384
    blocks: int = 12
    heads: int = 8
    frequencies: int = 128
    time_features: int = 256
    gram: Literal["raw", "normalized"] = "raw"
    """Lattice part of the edge features: L L^T in A^2 (paper), or divided by V^(2/3) so that it is of order one."""
    conditioning: Literal["none", "scale_shift"] = "none"
    """``scale_shift``: time, lattice and atom count also scale and shift the input of every sublayer."""
    element_embedding: bool = False
    """Add a learned vector per element to the map of the frozen features, which La/Ce, Sm/Gd, Ho/Er and Th/Np share."""
    space_groups: bool = False
    """Condition on the space group where it is given, and predict it where it is not (needs ``scale_shift``)."""
    wyckoff_positions: bool = False
    """Add a learned vector for each atom's Wyckoff position; the space group is then always given, never predicted."""
    gate: Gate = "raw"
    """Of the residuals (:class:`~dao.networks.crysformer.GatedResidual`): the paper's, one that reads x and y at unit
    variance (worse, for the record), the paper's with a learned way past it, or none (docs/experiments.md)."""
    final_norm: bool = False
    """Normalise the nodes once more before the heads read them, as transformers with plain residuals do."""
    contacts: int = 0
    """Radial functions of the distances to periodic neighbours, by which atoms also exchange messages; 0: none."""

    def __post_init__(self) -> None:
        """Check sizes that would otherwise fail deep inside."""
        _check_sizes(self.time_features, self.width, self.blocks, self.heads, self.frequencies)
        if self.width % self.heads:
            raise InputError(f"network width {self.width} is not a multiple of its {self.heads} heads")
        if self.contacts < 0 or (self.contacts and self.width % self.contacts):
            raise InputError(f"network width {self.width} is not a multiple of its {self.contacts} contacts")
        if self.space_groups and self.conditioning != "scale_shift":
            raise InputError("network space_groups needs conditioning 'scale_shift'")
        if self.wyckoff_positions and not self.space_groups:
            raise InputError("network wyckoff_positions needs space_groups")


@dataclass(frozen=True, kw_only=True)
class CSPNetConfig:
    """Size and variants of DiffCSP's network. The defaults are its own (12.3 M parameters)."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["cspnet"] = "cspnet"
    width: int = 512
    blocks: int = 6
    frequencies: int = 128
    time_features: int = 256
    edge_lattice: Literal["gram", "numbers"] = "gram"
    """What a message sees of the lattice: L L^T in A^2 (DiffCSP), or the process's standardised numbers (FlowMM)."""
    atom_count: bool = False
    """Messages also see the number of atoms (FlowMM)."""

    conditioning: ClassVar[str] = "none"
    space_groups: ClassVar[bool] = False
    wyckoff_positions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check sizes that would otherwise fail deep inside."""
        _check_sizes(self.time_features, self.width, self.blocks, self.frequencies)


def _check_sizes(time_features: int, *sizes: int) -> None:
    if min(sizes) < 1:
        raise InputError("network width, blocks, heads and frequencies must be positive")
    if time_features < 4 or time_features % 2:
        raise InputError(f"network time_features must be even and at least 4, got {time_features}")


def _kind(value: Any) -> Any:  # noqa: ANN401 -- whatever a file says, or a configuration
    return value.get("kind", "crysformer") if isinstance(value, dict) else getattr(value, "kind", None)


NETWORKS = ("crysformer", "cspnet")

NetworkConfig = Annotated[
    Annotated[CrysformerConfig, Tag("crysformer")] | Annotated[CSPNetConfig, Tag("cspnet")],
    Discriminator(
        _kind, custom_error_type="network_kind", custom_error_message=f"kind must be one of {', '.join(NETWORKS)}"
    ),
]
"""Configuration of any network, told apart by ``kind`` (default ``crysformer``) where files are parsed."""
