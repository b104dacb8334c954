from __future__ import annotations

import json
from pathlib import Path

import pytest

from dao.errors import InputError
from dao.networks.config import CrysformerConfig
from dao.processes.config import METHODS
from dao.recipes import load as load_any
from dao.recipes import shipped
from dao.recipes.schema import PredictorRecipe, Recipe

PAPER = "mp20-diffusion-base"
OTHERS = ("-symmetry", "predictor", "plausibility")
GENERATORS = [name for name in shipped() if not any(other in name for other in OTHERS)]


def load(name: str, overrides: dict[str, str] | None = None) -> Recipe:
    recipe = load_any(name, overrides)
    assert isinstance(recipe, Recipe)
    return recipe


def test_the_shipped_recipes_are_listed() -> None:
    assert {"mp20-diffusion-base", "mp20-flow-nano", "mp20-flow-small", "mp20-diffcsp", "mp20-flowmm"} <= set(shipped())


def test_the_four_pairs_differ_in_network_process_and_sampler_alone() -> None:
    pairs = {
        load(f"study-{network}-{process}") for network in ("crysformer", "cspnet") for process in ("flow", "diffusion")
    }
    assert len(pairs) == 4
    free = {"name", "description", "network", "process", "sampler"}
    assert len({recipe.model_dump_json(exclude=free) for recipe in pairs}) == 1


@pytest.mark.parametrize("name", GENERATORS)
def test_every_shipped_recipe_loads(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.sampler.method in METHODS[recipe.process.kind]
    # sizes that a typing error would blow up
    # a finetuning takes hundreds of steps
    least = 1000 if recipe.initial_weights is None else 500
    assert recipe.batch_size * recipe.accumulate * least < recipe.crystals
    # something must say which weights are good
    assert 0 < recipe.validation.crystals <= 2000 or recipe.record.snapshot_crystals > 0
    assert recipe.validation.every < recipe.crystals


@pytest.mark.parametrize("name", GENERATORS)
def test_a_recipe_survives_being_written_into_a_run(name: str) -> None:
    recipe = load(name)
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe


def test_the_paper_s_setting() -> None:
    recipe = load(PAPER)
    network, process, optimizer, sampler = recipe.network, recipe.process, recipe.optimizer, recipe.sampler
    assert isinstance(network, CrysformerConfig)
    assert (network.width, network.blocks, network.heads, network.frequencies) == (384, 12, 8, 128)
    assert (network.gram, network.conditioning, network.space_groups) == ("raw", "none", False)
    assert (process.kind, process.lattice, process.timesteps) == ("diffusion", "matrix", 1000)
    assert (process.sigma_min, process.sigma_max) == (0.005, 0.5)
    assert recipe.batch_size * recipe.accumulate == 3200
    assert recipe.crystals == 1000 * 26_163
    # 50 epochs of warm-up
    assert optimizer.warmup_steps == 50 * 26_163 // 3200 + 1
    assert (optimizer.kind, optimizer.learning_rate, optimizer.weight_decay) == ("adam", 3e-4, 0.0)
    assert (optimizer.gradient_clip, optimizer.gradient_clip_kind, optimizer.ema_decay) == (0.5, "value", 0.0)
    assert (sampler.steps, sampler.corrector_step, sampler.corrector_first) == (1000, 1e-5, True)
    assert recipe.precision == "float32"


def test_overrides() -> None:
    fine_tuning = {"optimizer.learning_rate": "2e-5", "optimizer.weight_decay": "1e-5"}
    recipe = load(PAPER, {**fine_tuning, "sampler.corrector_first": "false", "optimizer.betas": "[0.8, 0.9]"})
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (2e-5, 1e-5)
    assert recipe.sampler.corrector_first is False
    assert recipe.optimizer.betas == (0.8, 0.9)
    # a bare word, and a section that the file does not have
    assert load(PAPER, {"process.lattice": "log_metric"}).process.lattice == "log_metric"
    assert load(PAPER, {"record.log_steps": "7"}).record.log_steps == 7
    assert load(PAPER) == load(PAPER, {})


WRONG = [
    ("nonsense", "1", "unknown key 'nonsense'"),
    ("optimizer.lr", "1", "unknown key 'optimizer.lr'"),
    ("network.widht", "7", "unknown key 'network.widht'"),
    ("process.sigma", "7", "unknown key 'process.sigma'"),
    ("sampler.step", "7", "unknown key 'sampler.step'"),
    ("a.b.c", "1", "unknown key 'a'"),
    ("", "1", "unknown key ''"),
    ("name.x", "1", "'name.x' is not a key, 'name' holds a value"),
    ("optimizer", "1", "optimizer: "),
    ("batch_size", "0", "batch_size: "),
    ("batch_size", "1.5", "batch_size: "),
    ("crystals", "0", "crystals: "),
    ("seed", "1\nname = 2", "seed: "),
    ("optimizer.learning_rate", "fast", "optimizer.learning_rate: "),
    ("optimizer.learning_rate", "-1e-3", "optimizer.learning_rate: "),
    ("optimizer.learning_rate", "nan", "optimizer.learning_rate: "),
    ("optimizer.betas", "[2.0, 0.9]", "optimizer.betas.0: "),
    ("optimizer.ema_decay", "1.0", "optimizer.ema_decay: "),
    ("optimizer.gradient_clip_kind", "both", "optimizer.gradient_clip_kind: "),
    ("network.width", "wide", "network.width: "),
    ("network.heads", "5", "network: network width 384 is not a multiple of its 5 heads"),
    ("network.space_groups", "true", "network: network space_groups needs conditioning 'scale_shift'"),
    ("process.kind", "magic", "process.kind: "),
    ("process.assignment", "best", "process.assignment: "),
    ("process.timesteps", "0", "process: process needs timesteps >= 1"),
    ("process.sigma_max", "2", "process: process needs timesteps >= 1 and 0 < sigma_min < sigma_max <= 1"),
    ("process.coordinate_weight", "-1", "process: process loss weights must not be negative"),
    ("process.coordinate_weight", "inf", "process.coordinate_weight: "),
    ("sampler.steps", "0", "sampler: sampler steps must be at least 1, got 0"),
    ("sampler.steps", "2000", r"sampler.steps must be at most process.timesteps \(1000\), got 2000"),
    ("sampler.method", "heun", "sampler.method: "),
    ("sampler.method", "euler", "sampler.method 'euler' does not belong to process.kind 'diffusion'"),
    ("sampler.corrector_step", "-1", "sampler: sampler corrector_step must not be negative, got -1"),
    ("validation.every", "0", "validation.every: "),
    ("data.max_atoms", "0", "data.max_atoms: "),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_wrong_key_or_value_is_named(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^recipe {PAPER}: {message}") as error:
        load(PAPER, {key: value})
    assert "\n" not in str(error.value)


def test_a_recipe_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ncrystals = 10\n[network]\n[process]\n', encoding="utf-8")
    recipe = load(str(path))
    assert (recipe.name, recipe.network.width, recipe.process.kind) == ("mine", 384, "flow")
    path.write_text('name = "mine"\n[network]\n[process]\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"mine.toml: crystals: Field required"):
        load(str(path))


def test_the_predictor_s_recipe() -> None:
    recipe = load_any("pool-predictor-small")
    assert isinstance(recipe, PredictorRecipe)
    assert (recipe.label, recipe.process.kind, recipe.data.max_atoms) == ("e_above_hull", "flow", 30)
    assert 0 < recipe.validation.every < recipe.crystals
    assert PredictorRecipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    for key, value, message in (
        ("sampler.steps", "3", "unknown key 'sampler'"),
        ("energy.clean_share", "1.0", "energy.clean_share: "),
        ("beta", "0", "beta: "),
        ("network.space_groups", "true", "a predictor needs process flow or diffusion, and a network without"),
    ):
        with pytest.raises(InputError, match=f"^recipe pool-predictor-small: {message}"):
            load_any("pool-predictor-small", {key: value})


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("name = \n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "mp21": "no recipe 'mp21': neither a TOML file nor one of mp20-diffcsp, mp20-diffusion-base",
        str(tmp_path / "none.toml"): "none.toml: No such file",
        str(broken): "broken.toml: not TOML",
        str(binary): "binary.toml: not text",
        str(tmp_path): "no recipe",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            load(name)
        assert "\n" not in str(error.value)


def test_no_elastic_energy_is_added_to_what_is_none() -> None:
    with pytest.raises(InputError, match=r"energy\.deformed_share adds elastic energies to labels, and band_gap is no"):
        load_any("pool-predictor-small", {"label": "band_gap"})
    recipe = load_any("pool-predictor-small", {"label": "band_gap", "energy.deformed_share": "0"})
    assert isinstance(recipe, PredictorRecipe)
    assert recipe.labels == ("band_gap", "formation_energy")
