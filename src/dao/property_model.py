"""DAO-P under another head: one property of a crystal, whatever it is (paper section 2.4, appendix 2.8).

Shapes: B crystals, M crystals of a training set.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dao.crystal import CrystalBatch
from dao.errors import InputError
from dao.model_config import PropertyConfig
from dao.models import CrystalModel
from dao.networks.heads import EnergyHead

HEAD = "property_head."
"""Beginning of the names of the parameters that are of the property alone."""

OWN_STATE = (HEAD, "label_mean", "label_deviation")
"""Names, or their beginnings, of what no other model has."""


class PropertyPredictor(CrystalModel):
    """The trunk of DAO-P, which sees the clean crystal (t = 0), and a two-layer perceptron on its pooled features.

    The noise heads come along as they were pretrained and are not used.
    """

    config: PropertyConfig
    kind = "property"

    def __init__(self, config: PropertyConfig) -> None:
        super().__init__(config)
        self.property_head = EnergyHead(self.network.crystal_width, config.network.width)
        self.register_buffer("label_mean", torch.zeros(()))
        self.register_buffer("label_deviation", torch.ones(()))
        for head in (self.coordinate_head, self.lattice_head):
            head.requires_grad_(requires_grad=False)

    label_mean: Tensor
    label_deviation: Tensor

    def fit_labels(self, labels: Float[Tensor, " m"]) -> None:
        """Take mean and standard deviation of labels, on the property's scale, as scaler.

        Raises:
            InputError: none is known, or one is not positive where logarithms are taken.

        """
        known = labels[labels.isfinite()].double()
        if len(known) == 0:
            raise InputError(f"no crystal of the training set has a label {self.config.label!r}")
        scaled = self.scaled(known)
        if not bool(scaled.isfinite().all()):
            raise InputError(f"label {self.config.label!r}: {float(known.min()):g} has no logarithm")
        deviation = scaled.std(correction=0)
        self.label_mean.copy_(scaled.mean())
        # labels that are all alike have no deviation of their own
        self.label_deviation.copy_(deviation if deviation > 0 else torch.ones_like(deviation))

    def scaled(self, labels: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Labels on the scale on which they are learned."""
        return labels.log10() if self.config.scale == "log10" else labels

    def standardised(self, labels: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Labels as the head is trained to say them."""
        return (self.scaled(labels) - self.label_mean) / self.label_deviation

    def forward(self, batch: CrystalBatch) -> Float[Tensor, " b"]:
        """Standardised property of clean crystals."""
        return self.property_head(self.crystal_features(batch, 0.0))

    def predict(self, batch: CrystalBatch) -> Float[Tensor, " b"]:
        """Property of clean crystals in its unit; as energies do, it depends on the cell that a crystal is given in."""
        scaled = self.label_mean + self.label_deviation * self(batch)
        return 10.0**scaled if self.config.scale == "log10" else scaled
