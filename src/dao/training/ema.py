"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """Average of a model's parameters, with a warm-up: after n updates the decay is at most (1 + n) / (10 + n)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's own parameters."""
        self.decay = decay
        self.updates = 0
        self.shadow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model by one step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.shadow.values()), [parameters[name] for name in self.shadow], 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's parameters with the average."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters."""
        return dict(self.shadow)

    def load_state_dict(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Go back to a saved average."""
        self.updates = updates
        for name, value in self.shadow.items():
            value.copy_(tensors[name])
