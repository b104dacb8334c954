from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from toys import tiny_predictor, toy_crystals, toy_energies

from dao.data.store import pack_crystals
from dao.models import Predictor
from dao.recipes.schema import EnergyRecipe
from dao.training.fit import TrainingNoise
from dao.training.initial import load_initial_weights
from dao.training.objectives import (
    LARGEST_EXPONENT,
    Objective,
    absolute_error_loss,
    bounded_exp,
    exponential_energy_loss,
    predictor_objective,
)

LABELS = torch.tensor([math.nan if energy is None else energy for energy in toy_energies(toy_crystals())])
PACKED = replace(pack_crystals(toy_crystals()), labels={"e_above_hull": LABELS})


def minimiser(loss: Callable[[Tensor, Tensor], Tensor], energies: Tensor, joint: Tensor) -> Tensor:
    """Free-form f(M_t), (T,), that minimises a loss of f and beta E_0 (C,) over the joint probability (T, C)."""
    table = torch.zeros(len(joint), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-13, tolerance_change=0)

    def total() -> Tensor:
        optimizer.zero_grad()
        pairs = torch.broadcast_tensors(table[:, None], energies)
        value = (joint * loss(*(pair.flatten() for pair in pairs)).reshape(joint.shape)).sum()
        value.backward()
        return value

    optimizer.step(total)
    return table.detach()


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_minimiser_is_the_intermediate_energy(beta: float) -> None:
    """Three crystals that noise confuses more and more: -log E[exp(-beta E_0) | M_t] by Bayes' rule."""
    energies = torch.tensor([-0.4, 0.3, 1.7], dtype=torch.float64)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    clean = torch.eye(3, dtype=torch.float64)  # M_t says which crystal it was
    noised = torch.tensor([[0.8, 0.1, 0.1], [0.15, 0.6, 0.2], [0.05, 0.3, 0.7]], dtype=torch.float64)
    noise = torch.full((1, 3), 1.0, dtype=torch.float64)  # M_t says nothing
    joint = torch.cat([clean, noised, noise]) * prior
    posterior = joint / joint.sum(1, keepdim=True)
    expected = -(posterior @ (-beta * energies).exp()).log()
    found = minimiser(exponential_energy_loss, beta * energies, joint)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:3], beta * energies, atol=1e-6, rtol=0)
    # plain regression would give the mean, which is another number wherever noise leaves a doubt
    mean = minimiser(lambda f, e: (f - e).square(), beta * energies, joint)
    torch.testing.assert_close(mean, posterior @ (beta * energies), atol=1e-6, rtol=0)
    assert float((mean - found)[3:].min()) > 0.02


def test_normally_distributed_energies_have_a_closed_form() -> None:
    """Given M_t, E_0 is normal: -log E exp(-beta E_0) = beta mean - (beta deviation)^2 / 2."""
    mean = torch.tensor([-0.5, 0.0, 1.2], dtype=torch.float64)
    deviation = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z**2, 0)
    for one, spread in zip(mean, deviation, strict=True):
        found = minimiser(exponential_energy_loss, one + spread * z, weight[None])
        # tails beyond the bound weigh less than 1e-6
        torch.testing.assert_close(found, (one - spread**2 / 2)[None], atol=1e-5, rtol=0)


@given(st.floats(-1e4, 1e4))
@example(LARGEST_EXPONENT)
def test_the_exponential_never_overflows_and_is_smooth(value: float) -> None:
    x = torch.tensor([value], dtype=torch.float32, requires_grad=True)
    y = bounded_exp(x)
    y.backward()
    assert x.grad is not None
    assert bool(y.isfinite())
    if value <= LARGEST_EXPONENT:
        assert math.isclose(y.item(), math.exp(value), rel_tol=1e-5, abs_tol=1e-30)
    slope = math.exp(min(value, LARGEST_EXPONENT))
    assert math.isclose(x.grad.item(), slope, rel_tol=1e-5, abs_tol=1e-30)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_the_loss_is_finite_and_pulls_the_right_way(energy: float, label: float) -> None:
    f = torch.tensor([energy], dtype=torch.float32, requires_grad=True)
    exponential_energy_loss(f, torch.tensor([label])).sum().backward()
    assert f.grad is not None
    assert bool(f.grad.isfinite().all())
    target = max(label, -LARGEST_EXPONENT)
    if energy < 20 and target < 20 and abs(energy - target) > 1e-2:
        assert math.copysign(1, f.grad.item()) == math.copysign(1, energy - target)


def objective(model: Predictor, *, seed: int = 0, labels: Tensor = LABELS, **settings: Any) -> Objective:
    noise = TrainingNoise(50, torch.Generator().manual_seed(seed), torch.device("cpu"))
    batch = replace(PACKED, labels={"e_above_hull": labels}).batch(torch.arange(50), 6)
    return predictor_objective(model, batch, noise, EnergyRecipe(**settings))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the predictor was asked and what it said."""
    kept: list[tuple[Any, ...]] = []
    original = Predictor.forward

    def forward(self: Predictor, numbers: Tensor, mask: Tensor, state: Any, time: Tensor) -> Any:
        said = original(self, numbers, mask, state, time)
        kept.append((state, time, said))
        return said

    monkeypatch.setattr(Predictor, "forward", forward)
    return kept


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
@pytest.mark.parametrize("lattice", ["log_metric", "matrix"])
def test_an_exact_share_stays_clean(kind: Any, lattice: Any, calls: list[tuple[Any, ...]]) -> None:
    model = tiny_predictor(kind, lattice)
    first, second = (objective(model, seed=seed, clean_share=0.3) for seed in (0, 1))
    clean = [time == 0.0 for _, time, _ in calls]
    assert [int(rows.sum()) for rows in clean] == [15, 15]
    assert not torch.equal(*clean)
    origin = model.encode(PACKED.batch(torch.arange(50), 6))
    state = calls[0][0]
    assert torch.equal(state.frac_coords[clean[0]], origin.frac_coords[clean[0]])
    assert torch.equal(state.lattice[clean[0]], origin.lattice[clean[0]])
    moved = (state.lattice != origin.lattice).any(1)
    assert torch.equal(moved, ~clean[0])
    assert first.total.item() != second.total.item()


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_parts_are_what_they_are_called(beta: float, calls: list[tuple[Any, ...]]) -> None:
    model = tiny_predictor(beta=beta)
    made = objective(model, clean_share=0.4, weight=3.0, clean_weight=0.5)
    _, time, said = calls[0]
    known = LABELS.isfinite()
    mean, deviation = LABELS[known].mean(), LABELS[known].std(correction=0)
    energy = beta * (LABELS - mean) / deviation
    exponential = ((-said.energy).exp() - (-energy).exp()).square()[known].mean()
    torch.testing.assert_close(made.parts["energy"], exponential)
    clean = known & (time == 0)
    error = (said.energy / beta * deviation + mean - LABELS)[clean].abs().mean()
    torch.testing.assert_close(made.parts["clean_mae"], error)
    total = made.parts["coordinates"] + made.parts["lattice"] + 3.0 * exponential + 0.5 * made.parts["clean"]
    torch.testing.assert_close(made.total, total)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_noise_losses_leave_clean_crystals_out(kind: Literal["flow", "diffusion"]) -> None:
    """What the coordinate head says of them changes nothing."""
    model = tiny_predictor(kind)
    clean = objective(model, clean_share=0.98)
    none = objective(model, clean_share=0.0)
    for name in ("coordinates", "lattice"):
        assert 0.0 < clean.parts[name].item() != none.parts[name].item()
    assert none.parts["clean"].item() == 0.0
    # one noised crystal is left, and its loss is not divided by fifty
    assert clean.parts["lattice"].item() > 0.1


def test_one_crystal_at_least_is_noised() -> None:
    made = objective(tiny_predictor(), clean_share=0.999)
    assert bool(made.total.isfinite())
    assert made.parts["lattice"].item() > 0.1


def test_crystals_without_a_label_have_no_say_in_the_energy() -> None:
    model = tiny_predictor()
    unknown = torch.full_like(LABELS, math.nan)
    made = objective(model, labels=unknown, clean_weight=1.0)
    assert made.parts["energy"].item() == made.parts["clean"].item() == 0.0
    made.total.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)
    assert not any(
        bool(parameter.grad.any()) for parameter in model.energy_head.parameters() if parameter.grad is not None
    )


def test_wild_labels_and_energies_give_finite_gradients() -> None:
    model = tiny_predictor()
    with torch.no_grad():
        list(model.energy_head.parameters())[-1].fill_(-1e3)
    labels = LABELS.clone()
    labels[:3] = torch.tensor([-1e4, 1e4, 50.0])
    made = objective(model, labels=labels, clean_weight=1.0)
    made.total.backward()
    assert bool(made.total.isfinite())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)


def test_the_expected_error_is_least_at_the_mean_absolute_error() -> None:
    errors = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)
    found = minimiser(lambda c, e: absolute_error_loss(c.exp(), e), errors, torch.full((1, 3), 1 / 3).double()).exp()
    torch.testing.assert_close(found, torch.tensor([0.3], dtype=torch.float64), atol=1e-6, rtol=0)


def test_deformed_crystals_are_labelled_with_what_it_costs(calls: list[tuple[Any, ...]]) -> None:
    model = tiny_predictor()
    settings: dict[str, Any] = {"clean_share": 0.5, "clean_weight": 1.0}
    plain = objective(model, **settings)
    made = objective(model, deformed_share=0.4, **settings)
    origin = model.encode(PACKED.batch(torch.arange(50), 6))
    state, time, _ = calls[1]
    moved = (state.lattice != origin.lattice).any(1) & (time == 0)
    assert int((time == 0).sum()) == 25
    assert int(moved.sum()) == 10
    assert made.parts["clean_mae"].item() != plain.parts["clean_mae"].item()


def test_other_settings_change_cells_and_no_label() -> None:
    model = tiny_predictor()
    same = [objective(model, clean_share=0.9, other_settings=on).parts["energy"].item() for on in (False, True)]
    assert same[0] != same[1]


def test_a_second_head_says_how_far_off_the_first_is() -> None:
    """It learns of the energy, and the energy nothing of it."""
    model = tiny_predictor(errors=True)
    made = objective(model, clean_share=0.8)
    made.parts["errors"].backward()
    assert model.error_head is not None
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.error_head.parameters())
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("error_head")]
    assert not any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in others)
    torch.testing.assert_close(
        made.total, sum(made.parts[name] for name in ("coordinates", "lattice", "energy", "errors")), rtol=1e-6, atol=0
    )


def test_a_second_label_is_learned_beside_the_first() -> None:
    model = tiny_predictor(auxiliary="formation_energy")
    noise = TrainingNoise(50, torch.Generator().manual_seed(0), torch.device("cpu"))
    second = torch.where(torch.arange(50) < 10, torch.nan, -LABELS.nan_to_num() - 1.0)
    batch = replace(PACKED, labels={"e_above_hull": LABELS, "formation_energy": second}).batch(torch.arange(50), 6)
    recipe = EnergyRecipe(clean_share=0.8, auxiliary="formation_energy", auxiliary_weight=2.0)
    made = predictor_objective(model, batch, noise, recipe)
    assert 0.0 < made.parts["auxiliary"].item() < 100.0
    rest = made.parts["coordinates"] + made.parts["lattice"] + made.parts["energy"]
    torch.testing.assert_close(made.total, rest + 2.0 * made.parts["auxiliary"])
    model.fit_energies({"e_above_hull": LABELS, "formation_energy": second})
    assert model.auxiliary_mean.item() == pytest.approx(second[10:].mean().item())


def test_weights_with_another_second_label_have_it_fitted_anew(tmp_path: Path) -> None:
    """Head and scaler of the old one would be of another quantity."""
    tiny_predictor(auxiliary="band_gap", errors=True).save(tmp_path)
    model = tiny_predictor(auxiliary="formation_energy", seed=1)
    kept = [parameter.clone() for parameter in model.auxiliary_head.parameters()] if model.auxiliary_head else []
    labels = {"e_above_hull": LABELS, "formation_energy": -3.0 * LABELS}
    load_initial_weights(model, str(tmp_path), replace(PACKED, labels=labels))
    assert model.auxiliary_mean.item() == pytest.approx(-3.0 * LABELS[LABELS.isfinite()].mean().item(), rel=1e-5)
    assert model.auxiliary_head is not None
    assert all(torch.equal(one, two) for one, two in zip(kept, model.auxiliary_head.parameters(), strict=True))
