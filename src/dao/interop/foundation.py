"""Foundation potentials of others as ASE calculators, behind one door: judges that are not our own predictor.

Nothing of theirs is a dependency of this package and nothing is imported before a potential is asked for. Each is the
model that its authors publish for the Materials Project's settings (PBE, its U values), so that its energies may be
compared at one composition. All but CHGNet, whose weights come in its wheel, fetch their weights when first used.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from dao.errors import InputError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@dataclass(frozen=True)
class Foundation:
    """One potential.

    Attributes:
        package: distribution to install.
        model: which of its models is taken.
        load: makes the calculator on a torch device; may raise ImportError.

    """

    package: str
    model: str
    load: Callable[[str], Any]


def _chgnet(device: str) -> Any:  # noqa: ANN401 -- a package without types
    from chgnet.model.dynamics import CHGNetCalculator

    # an atom without a neighbour within 6 A is no crystal: better no energy than one that means nothing
    return CHGNetCalculator(use_device=device, on_isolated_atoms="error")


def _mace(device: str) -> Any:  # noqa: ANN401 -- a package without types
    from mace.calculators import mace_mp

    return mace_mp(model="medium-mpa-0", device=device, default_dtype="float64")


def _sevennet(device: str) -> Any:  # noqa: ANN401 -- a package without types
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device=device)


def _mattersim(device: str) -> Any:  # noqa: ANN401 -- a package without types
    from mattersim.forcefield import MatterSimCalculator

    return MatterSimCalculator(load_path="MatterSim-v1.0.0-5M.pth", device=device)


def _orb(device: str) -> Any:  # noqa: ANN401 -- a package without types
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.inference.calculator import ORBCalculator

    model, adapter = pretrained.orb_v3_conservative_inf_mpa(device=device, precision="float32-highest", compile=False)
    return ORBCalculator(model, adapter, device=device)


FOUNDATIONS = {
    "chgnet": Foundation("chgnet", "0.3.0", _chgnet),
    "mace": Foundation("mace-torch", "medium-mpa-0", _mace),
    "sevennet": Foundation("sevenn", "7net-0", _sevennet),
    "mattersim": Foundation("mattersim", "v1.0.0-5M", _mattersim),
    "orb": Foundation("orb-models", "v3-conservative-inf-mpa", _orb),
}
"""All that may be asked for. Here only CHGNet was ever run; the others follow their own documentation."""


def find_foundation(name: str) -> tuple[Foundation, str]:
    """The potential of that name and the version of its package, which is not imported.

    Raises:
        InputError: no such potential, or its package is not installed.

    """
    if name not in FOUNDATIONS:
        raise InputError(f"calculator {name!r}: unknown; there are: {', '.join(FOUNDATIONS)}")
    found = FOUNDATIONS[name]
    try:
        return found, version(found.package)
    except PackageNotFoundError:
        raise InputError(f"calculator {name!r} needs the package {found.package}: {_install(name, found)}") from None


def identity(name: str) -> str:
    """Name, package version and model of a potential: what its energies depend on.

    Raises:
        InputError: as :func:`find_foundation`.

    """
    found, number = find_foundation(name)
    return f"{name} {number}, model {found.model}"


def calculator(name: str, device: str = "cpu") -> Calculator:
    """A potential (energies in eV, forces in eV/A, stress in eV/A^3) on a torch device, as an ASE calculator.

    Raises:
        InputError: as :func:`find_foundation`, or the package is there but does not load.

    """
    found, _ = find_foundation(name)
    try:
        # some greet on standard output, which belongs to results
        with redirect_stdout(io.StringIO()):
            return found.load(device)
    except ImportError as error:
        raise InputError(
            f"calculator {name!r}: {found.package} does not load ({error}): {_install(name, found)}"
        ) from None


def _install(name: str, found: Foundation) -> str:
    return "pip install '.[chgnet]' in the folder of DAO" if name == "chgnet" else f"pip install {found.package}"
