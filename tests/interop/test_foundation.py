from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
from toys import toy

from dao.errors import InputError
from dao.interop import foundation
from dao.interop.foundation import FOUNDATIONS, Foundation, calculator, find_foundation, identity


@pytest.mark.parametrize("name", ["lj", "os", "chgnet.model", "../chgnet", ""])
def test_only_what_is_on_the_list_is_loaded(name: str) -> None:
    with pytest.raises(InputError, match="unknown; there are: chgnet, mace, sevennet, mattersim, orb"):
        calculator(name)


@pytest.mark.parametrize("name", list(FOUNDATIONS))
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(foundation, "version", missing)
    with pytest.raises(InputError, match=f"needs the package {FOUNDATIONS[name].package}: pip install") as caught:
        identity(name)
    assert "\n" not in str(caught.value)


def test_a_package_that_does_not_load_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foundation, "version", lambda _: "1.2")
    monkeypatch.setitem(sys.modules, "mace", None)
    assert identity("mace") == "mace 1.2, model medium-mpa-0"
    with pytest.raises(InputError, match=r"mace-torch does not load \(.*\): pip install mace-torch"):
        calculator("mace")


def test_what_a_potential_prints_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(device: str) -> Any:
        print("hello")
        return f"calculator on {device}"

    monkeypatch.setitem(FOUNDATIONS, "toy", Foundation("ase", "lj", load))
    found, number = find_foundation("toy")
    assert found.model == "lj"
    assert number
    loaded: Any = calculator("toy", "cuda:1")
    assert loaded == "calculator on cuda:1"
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_chgnet_where_it_is_installed() -> None:
    pytest.importorskip("chgnet")
    energies = []
    for a in (5.2, 5.7, 6.2):
        atoms: Any = toy("rocksalt", ("Na", "Cl"), a).to_atoms()
        atoms.calc = calculator("chgnet")
        energies.append(atoms.get_potential_energy() / 2)
    # PBE with the Materials Project's correction of chlorine, -0.614 eV an atom
    assert energies[1] == pytest.approx(-3.39 - 0.614 / 2, abs=0.1)
    assert energies[1] == min(energies)
