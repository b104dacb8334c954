"""From a configuration to a network."""

from __future__ import annotations

from dao.networks.config import CrysformerConfig, CSPNetConfig
from dao.networks.crysformer import Crysformer
from dao.networks.cspnet import CSPNet


def build_network(config: CrysformerConfig | CSPNetConfig) -> Crysformer | CSPNet:
    """The network of that configuration, untrained. All take and give the same."""
    return CSPNet(config) if isinstance(config, CSPNetConfig) else Crysformer(config)
