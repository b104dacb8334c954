"""The ideas that ``benchmarks/ideas.py`` measures, by name: one change each of the recipe ``mp20-flow-nano``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from ideas_flows import (
    DataLossFlow,
    DataPrediction,
    LengthsAndAngles,
    MeanKeptFlow,
    TimedFlow,
    WithoutVolume,
    logit_normal,
    near_data,
    near_noise,
)
from ideas_networks import DistanceBiased, SelfConditioned, UnitsConditioned, float_residual, plain_conditioning
from torch import Tensor

from dao.model_config import GeneratorConfig
from dao.models import Generator
from dao.processes.flow import Flow
from dao.processes.representations import LatticeRepresentation

if TYPE_CHECKING:
    from dao.recipes.schema import OptimizerRecipe


def muon(model: Generator, recipe: OptimizerRecipe, *, edge_maps: bool = True) -> list[torch.optim.Optimizer]:
    """Muon (update scaled to AdamW's size) for the matrices of the blocks, AdamW for the rest."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        hidden = name.startswith("network.blocks") and parameter.ndim == 2 and min(parameter.shape) > 1
        hidden = hidden and (edge_maps or "attention.edge" not in name)
        (matrices if hidden else rest).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            rest, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        ),
    ]


def muon_without_edges(model: Generator, recipe: OptimizerRecipe) -> list[torch.optim.Optimizer]:
    """The maps of the edge features, whose inputs are waves of very different use, are AdamW's too."""
    return muon(model, recipe, edge_maps=False)


def adamw(model: Generator, recipe: OptimizerRecipe) -> list[torch.optim.Optimizer]:
    """The recipe's own."""
    return [
        torch.optim.AdamW(
            model.parameters(),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    ]


@dataclass(frozen=True)
class Idea:
    """One change of the baseline."""

    says: str
    recipe: dict[str, str] = field(default_factory=dict)
    """Overrides of the recipe, as on the command line."""
    build: Callable[[GeneratorConfig], Generator] = Generator
    optimizers: Callable[[Generator, OptimizerRecipe], list[torch.optim.Optimizer]] = adamw
    averages: Iterable[float] = ()
    """Other decays of the averaged weights, kept and sampled beside the recipe's."""


def with_process(process: type[Flow], **attributes: Any) -> Callable[[GeneratorConfig], Generator]:
    """A generator whose flow is of another class."""

    def build(config: GeneratorConfig) -> Generator:
        model = Generator(config)
        model.process.__class__ = process
        for name, value in attributes.items():
            setattr(model.process, name, value)
        return model

    return build


def with_representation(
    representation: Callable[[], LatticeRepresentation],
) -> Callable[[GeneratorConfig], Generator]:
    """A generator that sees the lattice otherwise."""

    def build(config: GeneratorConfig) -> Generator:
        model = Generator(config)
        model.process.representation = representation()
        return model

    return build


def data_loss(config: GeneratorConfig) -> Generator:
    model = DataPrediction(config)
    model.process.__class__ = DataLossFlow
    return model


IDEAS = {
    "baseline": Idea("recipe mp20-flow-nano"),
    "averages": Idea("baseline; weights not averaged", averages=(0.0,)),
    "no_space_group": Idea("no space groups: neither predicted nor given", {"network.space_groups": "false"}),
    "no_assignment": Idea("noise paired at random", {"process.assignment": "none"}),
    "plain_conditioning": Idea("scale and shift see neither lattice nor time", build=plain_conditioning),
    "mean_kept": Idea("velocity with its common translation", build=with_process(MeanKeptFlow)),
    "raw_gram": Idea("L L^T in A^2 in the edge features", {"network.gram": "raw"}),
    "coordinate_weight_1": Idea("coordinate loss weighs 1 instead of 3", {"process.coordinate_weight": "1.0"}),
    "coordinate_weight_10": Idea("coordinate loss weighs 10 instead of 3", {"process.coordinate_weight": "10.0"}),
    "time_logit_normal": Idea("training times logit-normal", build=with_process(TimedFlow, quantile=logit_normal)),
    "time_near_data": Idea("training times u^1.5", build=with_process(TimedFlow, quantile=near_data)),
    "time_near_noise": Idea("training times 1 - (1 - u)^1.5", build=with_process(TimedFlow, quantile=near_noise)),
    "distance_bias": Idea("attention bias from shortest periodic distances", build=DistanceBiased),
    "self_conditioning": Idea("last estimate of the clean crystal as an input", build=SelfConditioned),
    "x_prediction": Idea("heads predict the data, loss of velocities", build=DataPrediction),
    "x_prediction_x_loss": Idea("heads predict the data, loss of the data", build=data_loss),
    "muon": Idea("Muon for the blocks' matrices", optimizers=muon),
    "muon_not_edges": Idea("Muon, but AdamW for the edge maps", optimizers=muon_without_edges),
    "muon_2e-3": Idea("Muon, rate 2e-3", {"optimizer.learning_rate": "2e-3"}, optimizers=muon),
    "batch_1024": Idea("batch 1024, rate 2e-3", {"batch_size": "1024", "optimizer.learning_rate": "2e-3"}),
    "batch_128": Idea("batch 128, rate 7e-4", {"batch_size": "128", "optimizer.learning_rate": "7e-4"}),
    "batch_64": Idea("batch 64, rate 5e-4", {"batch_size": "64", "optimizer.learning_rate": "5e-4"}),
    "lattice_matrix": Idea(
        "3x3 lattice in A, its loss weighs 0.05", {"process.lattice": "matrix", "process.lattice_weight": "0.05"}
    ),
    "lattice_no_volume": Idea("log_metric, composition's volume unused", build=with_representation(WithoutVolume)),
    "lattice_parameters": Idea("lengths and angles", build=with_representation(LengthsAndAngles)),
    "frequencies_6": Idea("6 Fourier frequencies", {"network.frequencies": "6"}),
    "frequencies_32": Idea("32 Fourier frequencies", {"network.frequencies": "32"}),
    "formula_units": Idea("conditioned on the number of formula units", build=UnitsConditioned),
    "rate_5e-4": Idea("learning rate 5e-4", {"optimizer.learning_rate": "5e-4"}),
    "rate_2e-3": Idea("learning rate 2e-3", {"optimizer.learning_rate": "2e-3"}),
    "rate_4e-3": Idea("learning rate 4e-3", {"optimizer.learning_rate": "4e-3"}),
    "float_residual": Idea("residual stream in float32", build=float_residual),
    "float32": Idea("float32 throughout", {"precision": "float32"}),
    "heads_8": Idea("8 heads", {"network.heads": "8"}),
    "shallow": Idea("width 256, 4 blocks", {"network.width": "256", "network.blocks": "4"}),
    "deep": Idea("width 160, 9 blocks", {"network.width": "160", "network.blocks": "9"}),
}
"""By name, ``baseline`` first; docs/experiments.md has the order of the issue."""
