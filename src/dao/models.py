"""DAO-G and DAO-P: one network, its heads and a process, saved and loaded as one folder of safetensors and JSON.

Shapes: B crystals, N atoms (padded), K numbers of the lattice representation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from dao.crystal import CrystalBatch
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError
from dao.model_config import CONFIGS, FORMAT_VERSION, GeneratorConfig, PredictorConfig, PropertyConfig
from dao.networks.build import build_network
from dao.networks.config import NETWORKS, SPACE_GROUPS
from dao.networks.heads import (
    CoordinateHead,
    EnergyHead,
    ErrorHead,
    InvariantLatticeHead,
    MatrixLatticeHead,
    SpaceGroupHead,
)
from dao.networks.symmetry import SymmetryPrior
from dao.potential import EnergyForcesStress, differentiate
from dao.processes.base import Prediction, Process, State
from dao.processes.build import build_process
from dao.processes.representations import ConventionalLogMetricLattice
from dao.processes.symmetric_flow import SymmetricFlow
from dao.processes.symmetry import SymmetryTable
from dao.weight_files import WEIGHTS, load_weights, memory_tensors, write_weights
from dao.weights import CONFIG, resolve

LEAST_DEVIATION = 1e-3
"""Smallest unit of standardised energies, eV/atom: labels that are all alike have no deviation of their own."""

_Model = TypeVar("_Model", bound="CrystalModel")  # typing.Self is not known to beartype's check of single methods


class CrystalModel(nn.Module):
    """What generator and predictor share: trunk, noise heads, process, and how they are kept in files."""

    config: GeneratorConfig | PredictorConfig | PropertyConfig
    kind: ClassVar[str]
    """What a ``config.json`` calls it."""

    def __init__(self, config: GeneratorConfig | PredictorConfig | PropertyConfig) -> None:
        super().__init__()
        self.config = config
        network = config.network
        self.process: Process = build_process(config.process)
        self.network = build_network(network)
        crystal_width = self.network.crystal_width
        self.coordinate_head = CoordinateHead(network.width)
        self.lattice_head: nn.Module
        if config.process.lattice == "matrix":
            self.lattice_head = MatrixLatticeHead(crystal_width)
        else:
            hidden = network.width if network.conditioning == "scale_shift" else None
            self.lattice_head = InvariantLatticeHead(crystal_width, hidden)

    def _features(
        self, atomic_numbers: Tensor, mask: Tensor, state: State, time: Tensor, space_group: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        representation, symmetry = self.process.representation, state.symmetry
        with torch.autocast(state.lattice.device.type, enabled=False):
            lattice = self._lattice(state, atomic_numbers)
        features = representation.features(state.lattice, atomic_numbers)
        known = (space_group, None) if symmetry is None else (symmetry.space_group, symmetry.position)
        nodes, crystal = self.network(atomic_numbers, state.frac_coords, lattice, features, time, mask, *known)
        return nodes, crystal, lattice

    def crystal_features(self, batch: CrystalBatch, time: float) -> Float[Tensor, "b c"]:
        """What the trunk makes of crystals taken as states at ``time``, without added noise."""
        state = self.encode(batch)
        times = torch.full_like(state.lattice[:, 0], time, requires_grad=False)
        return self._features(batch.atomic_numbers, batch.mask, state, times, None)[1]

    def _lattice(self, state: State, atomic_numbers: Tensor) -> Tensor:
        representation = self.process.representation
        if state.symmetry is not None and isinstance(representation, ConventionalLogMetricLattice):
            return representation.decode_primitive(state.lattice, atomic_numbers, state.symmetry.cell)
        return representation.decode(state.lattice, atomic_numbers)

    def encode(self, batch: CrystalBatch) -> State:
        """Clean crystals as a state of the process."""
        return State(batch.frac_coords, self.process.representation.encode(batch.lattice, batch.atomic_numbers))

    def decode(self, state: State, atomic_numbers: Int[Tensor, "b n"], num_atoms: Int[Tensor, " b"]) -> CrystalBatch:
        """Crystals of a state at t = 0."""
        lattice = self._lattice(state, atomic_numbers)
        return CrystalBatch(
            atomic_numbers=atomic_numbers, frac_coords=state.frac_coords, lattice=lattice, num_atoms=num_atoms
        )

    @property
    def parameters_count(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def fingerprint(self) -> str:
        """Short hash of all weights and scalers: two models that share it give the same results."""
        digest = hashlib.sha256()
        for name, value in sorted({**self.state_dict(), **memory_tensors(self._memory())}.items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _memory(self) -> SymmetryMemory | None:
        """What is saved beside the weights; only a generator has any."""
        return None

    def _remember(self, memory: SymmetryMemory | None) -> None:
        del memory

    def copied(self: _Model, training: dict[str, Any]) -> _Model:  # noqa: PYI019
        """A copy with another record of its training."""
        model = type(self)(replace(self.config, training=training))
        model.load_state_dict(self.state_dict())
        model._remember(self._memory())  # noqa: SLF001 -- its own class
        return model

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write ``model.safetensors`` and ``config.json``; parameters as ``dtype``, fitted scalers as they are."""
        parameters = {name for name, _ in self.named_parameters()}
        tensors = {
            name: (value.to(dtype) if name in parameters else value).detach().cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        config = {**asdict(self.config), "parameters": self.parameters_count}
        write_weights(folder, tensors | memory_tensors(self._memory()), config)

    @classmethod
    def load(cls: type[_Model], source: Path | str, *, device: torch.device | str = "cpu") -> _Model:  # noqa: PYI019
        """Load shipped weights by name, a folder, or a Hugging Face Hub repository id; a ``Path`` is always a folder.

        Raises:
            InputError: no such weights, a broken or foreign file, a version this code does not know, or another kind
                of model.

        """
        folder = source if isinstance(source, Path) else local_folder(resolve(source))
        config = read_config(folder)
        if config.model != cls.kind:
            raise InputError(f"{folder}: holds a {config.model}, and a {cls.kind} is needed")
        model = cls(config)
        model._remember(load_weights(folder / WEIGHTS, model))
        return model.to(device).eval()


class Generator(CrystalModel):
    """p(lattice, fractional coordinates | elements): Crysformer, noise heads and a process (paper section 4.1)."""

    config: GeneratorConfig
    kind = "generator"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        network = config.network
        predicts_groups = network.space_groups and not network.wyckoff_positions
        width = self.network.crystal_width
        self.space_group_head = SpaceGroupHead(width, network.width, SPACE_GROUPS) if predicts_groups else None
        self.symmetry_table = SymmetryTable() if isinstance(self.process, SymmetricFlow) else None
        self.symmetry_prior = SymmetryPrior(config.symmetry) if config.symmetry is not None else None
        self.symmetry_memory: SymmetryMemory | None = None
        """Known assignments that the prior looks similar compositions up in."""

    def forward(
        self,
        atomic_numbers: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"],
        state: State,
        time: Float[Tensor, " b"],
        space_group: Int[Tensor, " b"] | None = None,
    ) -> Prediction:
        """Noise, score or velocity (as the process defines it) of a state at ``time``; space group 0 = unknown."""
        nodes, crystal, lattice = self._features(atomic_numbers, mask, state, time, space_group)
        coords = self.coordinate_head(nodes, mask).to(state.frac_coords.dtype)
        logits = None if self.space_group_head is None else self.space_group_head(crystal)
        return Prediction(coords, self.lattice_head(crystal, lattice).to(state.lattice.dtype), logits)

    def encode(self, batch: CrystalBatch) -> State:
        """Clean crystals as a state of the process; a symmetric one needs their ``sites`` and ``space_group``."""
        representation = self.process.representation
        if self.symmetry_table is None or not isinstance(representation, ConventionalLogMetricLattice):
            return super().encode(batch)
        if batch.sites is None:
            raise ValueError("a symmetric process needs symmetrised crystals")
        symmetry = self.symmetry_table.of_batch(batch.sites, batch.labels["space_group"])
        numbers = representation.encode_primitive(batch.lattice, batch.atomic_numbers, symmetry.cell)
        return State(batch.frac_coords, numbers, symmetry)

    def _memory(self) -> SymmetryMemory | None:
        return self.symmetry_memory

    def _remember(self, memory: SymmetryMemory | None) -> None:
        self.symmetry_memory = memory


class Predictor(CrystalModel):
    """Energy above the hull of crystals, clean or noised to time t (paper section 4.4, DESIGN 4.3)."""

    config: PredictorConfig
    kind = "predictor"

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config)
        sizes = self.network.crystal_width, config.network.width
        self.energy_head = EnergyHead(*sizes)
        self.error_head = ErrorHead(*sizes) if config.errors else None
        self.auxiliary_head = EnergyHead(*sizes) if config.auxiliary is not None else None
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_deviation", torch.ones(()))
        if self.auxiliary_head is not None:
            self.register_buffer("auxiliary_mean", torch.zeros(()))
            self.register_buffer("auxiliary_deviation", torch.ones(()))

    auxiliary_mean: Tensor
    auxiliary_deviation: Tensor
    energy_mean: Tensor
    energy_deviation: Tensor

    def fit_energies(self, labels: dict[str, Tensor]) -> None:
        """Take mean and standard deviation of the training set's labels (M,) in eV/atom, NaN = unknown, as scalers.

        Raises:
            InputError: none is known.

        """
        self._fit(labels, self.config.label, self.energy_mean, self.energy_deviation)
        self.fit_auxiliary(labels)

    def fit_auxiliary(self, labels: dict[str, Tensor]) -> None:
        """The same for the second label alone, if there is one.

        Raises:
            InputError: none is known.

        """
        if self.config.auxiliary is not None:
            self._fit(labels, self.config.auxiliary, self.auxiliary_mean, self.auxiliary_deviation)

    @staticmethod
    def _fit(labels: dict[str, Tensor], name: str, mean: Tensor, deviation: Tensor) -> None:
        known = labels[name][labels[name].isfinite()].double()
        if len(known) == 0:
            raise InputError(f"no crystal of the training set has a label {name!r}")
        mean.copy_(known.mean())
        deviation.copy_(known.std(correction=0).clamp_min(LEAST_DEVIATION))

    def forward(
        self,
        atomic_numbers: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"],
        state: State,
        time: Float[Tensor, " b"],
    ) -> Prediction:
        """Noise, score or velocity of a state at ``time``, and its energy f in units of the labels' deviation / beta.

        f is the intermediate energy -log E[exp(-beta E_0) | M_t] of the standardised label E_0: beta E_0 itself at
        t = 0.
        """
        nodes, crystal, lattice = self._features(atomic_numbers, mask, state, time, None)
        coords = self.coordinate_head(nodes, mask).to(state.frac_coords.dtype)
        numbers = self.lattice_head(crystal, lattice).to(state.lattice.dtype)
        return Prediction(
            coords,
            numbers,
            energy=self.energy_head(crystal),
            # of the energy as it is: to be surer of it must not make it worse
            error=None if self.error_head is None else self.error_head(crystal.detach()),
            auxiliary=None if self.auxiliary_head is None else self.auxiliary_head(crystal),
        )

    def energy(self, batch: CrystalBatch, time: float = 0.0) -> Float[Tensor, " b"]:
        """Energy of crystals that are noised to ``time`` (0: clean), eV/atom; no total energy, but E above the hull.

        Cells are taken as they are, though the energy depends on which of its cells a crystal is given in: training
        knows primitive Niggli cells. Differentiable with respect to fractional coordinates and lattice. For t > 0 it is
        the soft minimum over what the noised crystal may have been.
        """
        return self.energy_mean + self._unit * self.energy_head(self.crystal_features(batch, time))

    def energy_and_error(self, batch: CrystalBatch) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
        """Energy of clean crystals, and how far off it is expected to be (mean absolute error), both in eV/atom.

        The error is None of a predictor that was not trained to say it.
        """
        crystal = self.crystal_features(batch, 0.0)
        energy = self.energy_mean + self._unit * self.energy_head(crystal)
        if self.error_head is None:
            return energy, None
        return energy, self.config.error_factor * self._unit * self.error_head(crystal)

    @property
    def _unit(self) -> Tensor:
        """What 1 of the energy head is, eV/atom."""
        return self.energy_deviation / self.config.beta

    def energy_forces_stress(self, batch: CrystalBatch) -> EnergyForcesStress:
        """E above the hull of whole cells (eV), and what it says of forces (eV/A) and stress (eV/A^3); t = 0.

        At fixed composition E above the hull and the total energy differ by a constant, so forces and stress are
        estimates of the true ones, as good as the energy is between the relaxed crystals that were trained on, and
        without the symmetry of the crystal: atoms on special positions have forces too. Computed on the model's device
        and in its precision.
        """
        batch = batch.to(device=self.energy_mean.device, dtype=self.energy_mean.dtype)
        return differentiate(lambda moved: moved.num_atoms * self.energy(moved), batch)


def local_folder(source: Path | str) -> Path:
    """What :func:`dao.weights.resolve` found as a folder; weights on the Hub are fetched.

    Raises:
        InputError: the Hub has none, or cannot be asked.

    """
    if isinstance(source, Path):
        return source
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=[WEIGHTS, CONFIG, "README.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(f"weights {source!r}: not a folder, and the Hub says: {str(error).splitlines()[0]}") from None


def read_config(folder: Path) -> GeneratorConfig | PredictorConfig | PropertyConfig:
    """The checked ``config.json`` of a folder of weights.

    Raises:
        InputError: missing, not JSON, another version, or a field that does not fit.

    """
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(raw, dict) or str(raw.get("model")) not in CONFIGS:
        raise InputError(f"{path}: 'model' must be one of {', '.join(CONFIGS)}")
    if raw.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: format version {raw.get('format_version')}, this code reads {FORMAT_VERSION}")
    try:
        return TypeAdapter(CONFIGS[raw["model"]]).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        # of ("network", "crysformer", "width"), the kind is pydantic's
        where = ".".join(str(part) for part in first["loc"] if part not in NETWORKS)
        raise InputError(f"{path}: {where}: {first['msg']}") from None


MODELS: dict[str, type[CrystalModel]] = {"generator": Generator, "predictor": Predictor}
"""What ships: a generator, and a predictor for relaxation, ranking and guidance."""
