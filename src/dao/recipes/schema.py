"""What a recipe may say, with types, units and defaults: TOML in, checked data out. Importing it loads no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dao.errors import InputError
from dao.model_config import Scale
from dao.networks.config import NetworkConfig
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.processes.config import ProcessConfig, SamplerSettings, check_sampler

ENERGIES = ("e_above_hull", "formation_energy")
"""Labels in eV/atom that rise with an elastic energy."""

_Name = Annotated[str | None, BeforeValidator(lambda given: None if given in {"", "none"} else given)]
"""Of a file or column; TOML has no null, so that an empty text or ``none`` stands for it."""

_NoLimit = BeforeValidator(lambda given: None if given == "none" else given)
"""Likewise of a number."""

_Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataRecipe(_Section):
    """Which crystals to train and validate on."""

    file: str = "mp20.parquet"
    """File under ``$DAO_DATA`` (or the folder given by ``--data``)."""
    train_split: str = "train"
    validation_split: str = "val"
    validation_file: _Name = None
    """File that holds the validation split, looked for beside the training data; None (``none``): the training data's
    own split."""
    max_atoms: int = Field(default=20, ge=1)
    free_share: float = Field(default=0.0, ge=0, lt=1)
    """For a symmetric process: share of the training crystals that are shown without their symmetry, every atom free in
    space group 1, so that samples of that group can be crystals whose symmetry is not known beforehand."""
    subgroup_share: float = Field(default=0.0, ge=0, lt=1)
    """Likewise, share of those that are shown with part of their symmetry, in subgroups of two to four operations. A
    symmetry prior learns their positions, given the group, from that share of its batches."""
    subgroup_draws: int = Field(default=3, ge=1)
    """Subgroups drawn for each crystal before training (4 ms each, kept in the run's folder)."""

    @property
    def subgroups_shown(self) -> int:
        """Descriptions of each crystal in subgroups that a training shows."""
        return self.subgroup_draws if self.subgroup_share else 0

    @property
    def other_shares(self) -> tuple[float, ...]:
        """Share of each description of the crystals but the first, which has all their symmetry."""
        free = (self.free_share,) if self.free_share else ()
        return (*free, *(self.subgroup_share / self.subgroup_draws,) * self.subgroups_shown)


class OptimizerRecipe(_Section):
    """How the weights move."""

    kind: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient (``norm``) or of each of its entries (``value``)."""
    gradient_clip_kind: Literal["norm", "value"] = "norm"
    warmup_steps: int = Field(default=500, ge=0)
    schedule: Literal["cosine", "constant_then_linear", "constant"] = "cosine"
    """After the warm-up: cosine to ``final_rate``, or constant and then linear to it over the last ``decay_share``."""
    decay_share: float = Field(default=0.25, gt=0, le=1)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    """Last learning rate, as a share of the first."""
    ema_decay: _Decay = 0.999
    """Share of the average kept at each step; 0 switches averaging off."""


class ValidationRecipe(_Section):
    """Match rate (of a predictor: mean absolute error of energies) on a fixed subset, which picks the best weights."""

    crystals: int = Field(default=200, ge=0)
    """Size of the subset; 0 switches validation off."""
    every: int = Field(default=500_000, ge=1)
    """Training crystals between validations."""
    patience: int = Field(default=0, ge=0)
    """Validations in a row without an improvement after which training stops; 0: it goes on to its end."""
    seed: int = 0


class RecordRecipe(_Section):
    """How often state and figures are written."""

    checkpoint_seconds: float = Field(default=180.0, ge=0)
    log_steps: int = Field(default=50, ge=1)
    tensorboard: bool = False
    snapshot_crystals: int = Field(default=0, ge=0)
    """Keep the averaged weights every so many training crystals, in ``snapshots/CRYSTALS``; 0 keeps none."""


class _CrystalRecipe(_Section):
    """What generator and predictor are trained by alike."""

    task: str
    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0)
    crystals: int = Field(ge=1)
    """Training crystals to see (epochs times the size of the training set)."""
    batch_size: int = Field(default=256, ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: autocast; weights, optimizer and geometry stay in float32."""
    compile_blocks: bool = False
    """``torch.compile`` each block (dynamic shapes): a minute at the start, then about 1.5 times faster on a CPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves torch's choice."""
    data: DataRecipe = DataRecipe()
    initial_weights: str | None = None
    """Start from these weights (shipped name, folder or Hub id) instead of random ones: finetuning. Their network and
    process must be this recipe's; their fitted scalers (volumes, means) stay as they are."""
    network: NetworkConfig
    process: ProcessConfig
    optimizer: OptimizerRecipe = OptimizerRecipe()
    validation: ValidationRecipe = ValidationRecipe()
    record: RecordRecipe = RecordRecipe()

    @model_validator(mode="after")
    def _only_what_has_a_symmetry_can_do_without(self) -> _CrystalRecipe:
        for name in ("free_share", "subgroup_share"):
            if getattr(self.data, name) and self.process.kind != "symmetric_flow":
                raise InputError(f"data.{name}: only process symmetric_flow keeps a symmetry to show crystals without")
        if self.data.free_share + self.data.subgroup_share > 1.0 + 1e-9:
            raise InputError("data.free_share and data.subgroup_share are together more than all crystals")
        return self


class Recipe(_CrystalRecipe):
    """One training, complete: the same recipe, seed and data give the same weights on the same machine."""

    task: Literal["generator"] = "generator"
    """Which kind of model; see also :class:`PredictorRecipe`, :class:`SymmetryRecipe` and
    :class:`PlausibilityRecipe`."""
    symmetry_weights: str | None = None
    """A trained symmetry prior (``dao train mp20-symmetry``) or a generator that has one: shipped name, folder (from
    where the command runs) or Hub id. For a symmetric process: saved with it, which samples only with one."""
    sampler: SamplerSettings = SamplerSettings()

    @model_validator(mode="after")
    def _sampler_belongs_to_process(self) -> Recipe:
        check_sampler(self.process, self.sampler)
        if (self.process.kind == "symmetric_flow") != self.network.wyckoff_positions:
            raise InputError("process symmetric_flow and network wyckoff_positions need each other")
        return self


class EnergyRecipe(_Section):
    """How a predictor's energy is trained beside its noise."""

    clean_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of each batch that is not noised at all: t = 0, where relaxation and ranking use the energy. The noise
    losses leave it out."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the exponential loss, over clean and noised crystals alike."""
    clean_weight: float = Field(default=0.0, ge=0)
    """Weight of a Huber loss of the clean crystals' energies, in standard deviations: the exponential loss hardly sees
    differences between large energies."""
    labelled_only: bool = False
    """Leave crystals without a label out, which would be trained on for their noise alone."""
    deformed_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the clean crystals that are strained and rattled, their label raised by what that costs an elastic solid
    (:mod:`dao.training.deformations`): without, energies have no minimum at the crystals."""
    other_settings: bool = False
    """Show every crystal with its cell vectors in random order, and half of them inverted."""
    errors: bool = False
    """Learn to say how far off the energies of clean crystals are."""
    auxiliary: _Name = None
    """Column of a second label, eV/atom, that the network learns beside the first (e.g. ``formation_energy``); None
    (``none``): no second label."""
    auxiliary_weight: float = Field(default=1.0, ge=0)


class PredictorRecipe(_CrystalRecipe):
    """A training of a predictor: noise and energy together (paper section 4.4)."""

    task: Literal["predictor"]
    label: str = "e_above_hull"
    """Column of the energies, eV/atom; crystals without one are trained on for their noise alone."""
    beta: float = Field(default=1.0, gt=0)
    """Inverse temperature of the exponential loss, for energies in standard deviations."""
    energy: EnergyRecipe = EnergyRecipe()

    @property
    def labels(self) -> tuple[str, ...]:
        """Columns to read."""
        return (self.label,) if self.energy.auxiliary is None else (self.label, self.energy.auxiliary)

    @model_validator(mode="after")
    def _knows_no_symmetry(self) -> PredictorRecipe:
        if self.process.kind == "symmetric_flow" or self.network.space_groups:
            raise InputError("a predictor needs process flow or diffusion, and a network without space_groups")
        if self.energy.deformed_share and self.label not in ENERGIES:
            raise InputError(
                f"energy.deformed_share adds elastic energies to labels, and {self.label} is no energy an atom:"
                " --set energy.deformed_share=0"
            )
        return self


class PropertyRecipe(_CrystalRecipe):
    """One finetuning of DAO-P to a property (paper appendix 2.8); :mod:`dao.training.finetune` makes them."""

    task: Literal["property"]
    label: str
    title: str = ""
    unit: str = ""
    scale: Scale = "linear"
    fold: str = ""
    """Name of the split of the data."""
    trunk_rate: float = Field(default=1.0, ge=0)
    """Learning rate of everything below the head, as a share of the head's; 0 freezes it."""
    other_settings: bool = True
    """Show every crystal with its cell vectors in random order, and half of them inverted."""


class SymmetryOptimizerRecipe(_Section):
    """AdamW; biases and norms do not decay."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[_Decay, _Decay] = (0.9, 0.98)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    warmup_steps: int = Field(default=100, ge=0)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    """Last learning rate of the cosine, as a share of the first."""


class SymmetryValidationRecipe(_Section):
    """Probability and hit rate on the validation split, at the end of each epoch."""

    crystals: int = Field(default=10_000, ge=0)
    """Size of the fixed subset; 0 switches validation off."""
    seed: int = 0


class SymmetryRecord(_Section):
    """How often state and figures are written; of a symmetry prior also at the end of each epoch."""

    checkpoint_seconds: float = Field(default=180.0, ge=0)
    log_steps: int = Field(default=50, ge=1)


class SymmetryRecipe(_Section):
    """A training of the symmetry prior: space group and Wyckoff positions from the composition."""

    task: Literal["symmetry"]
    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=96, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: autocast; weights and optimizer stay in float32."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves torch's choice."""
    data: DataRecipe = DataRecipe()
    initial_weights: str | None = None
    """Start from the network of this prior (or of this generator's: shipped name, folder or Hub id) instead of a random
    one; its memory is left behind."""
    symmetry: SymmetryPriorConfig = SymmetryPriorConfig()
    optimizer: SymmetryOptimizerRecipe = SymmetryOptimizerRecipe()
    validation: SymmetryValidationRecipe = SymmetryValidationRecipe()
    record: SymmetryRecord = SymmetryRecord()

    @model_validator(mode="after")
    def _labels_are_symmetries(self) -> SymmetryRecipe:
        if self.data.free_share:
            raise InputError("data.free_share: in space group 1 there is no choice that a symmetry prior could learn")
        return self


class PlausibilitySource(_Section):
    """Known crystals, and the prototypes that propose candidates for their compositions."""

    file: str
    """File under ``$DAO_DATA`` (or the folder given by ``--data``)."""
    train_split: str = "train"
    """Of a file that has splits; one without is taken as a whole."""
    table: str
    """Shipped name or file of the table of prototypes. It may be of these very crystals: what it knows of a composition
    is left out when it proposes for that."""
    min_atoms: int = Field(default=1, ge=1)
    max_atoms: int = Field(default=20, ge=1)
    max_e_above_hull: Annotated[Annotated[float, Field(ge=0)] | None, _NoLimit] = None
    """Leave out crystals known to lie higher, eV/atom (column ``e_above_hull``); None (``none``): keep all."""
    count: Annotated[Annotated[int, Field(ge=1)] | None, _NoLimit] = None
    """Most crystals, drawn at random; None (``none``): all."""
    proposals: int = Field(default=12, ge=2)
    """Most candidates of a crystal."""

    @model_validator(mode="after")
    def _sizes_are_a_range(self) -> PlausibilitySource:
        if self.min_atoms > self.max_atoms:
            raise InputError(f"min_atoms must be at most max_atoms ({self.max_atoms}), got {self.min_atoms}")
        return self


class JitterRecipe(_Section):
    """How candidates are blurred, so that none is told by how exact it is; standard deviations of normal numbers."""

    list_volume: float = Field(default=0.04, ge=0, le=1)
    """Of the logarithm of the volume, the same for all candidates of a list."""
    volume: float = Field(default=0.01, ge=0, le=1)
    """Of the logarithm of the volume, of each candidate."""
    strain: float = Field(default=0.01, ge=0, le=0.1)
    """Of the entries of the strain (and of a rotation, which changes nothing)."""
    displacement: float = Field(default=0.05, ge=0, le=1)
    """Of an atom's displacement along an axis, A: the largest, each candidate has one between 0 and this."""
    other_settings: bool = True
    """Show every candidate with its cell vectors in random order, and half of them inverted."""


class PlausibilityRecipe(_Section):
    """A finetuning of DAO-P to tell, of candidates for one composition, which is the known crystal."""

    task: Literal["plausibility"]
    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0)
    passes: float = Field(gt=0, le=1000)
    """How often each list is seen."""
    lists_per_batch: int = Field(default=24, ge=1)
    candidates: int = Field(default=8, ge=2)
    """Most candidates of a list shown at a time: its first ones and, where none of them is right, one that is."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: autocast; weights, optimizer and geometry stay in float32."""
    compile_blocks: bool = False
    """``torch.compile`` each block (dynamic shapes)."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves torch's choice."""
    initial_weights: str = "predictor-trunk"
    """Predictor, or property model, whose trunk is finetuned: shipped name, folder or Hub id."""
    sources: dict[str, PlausibilitySource] = Field(min_length=1)
    """By a name of one's choice, for messages and ``--set sources.NAME.count=1000``."""
    jitter: JitterRecipe = JitterRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    record: SymmetryRecord = SymmetryRecord()


AnyRecipe = Recipe | PredictorRecipe | PropertyRecipe | SymmetryRecipe | PlausibilityRecipe


def check_recipe(tree: object) -> AnyRecipe:
    """Of whichever kind its ``task`` says.

    Raises:
        pydantic.ValidationError: a key or value does not fit.

    """
    task = tree.get("task") if isinstance(tree, dict) else None
    kinds: dict[object, type[AnyRecipe]] = {
        "predictor": PredictorRecipe,
        "property": PropertyRecipe,
        "symmetry": SymmetryRecipe,
        "plausibility": PlausibilityRecipe,
    }
    return kinds.get(task if isinstance(task, str) else None, Recipe).model_validate(tree)
