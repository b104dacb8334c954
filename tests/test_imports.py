from __future__ import annotations

import subprocess
import sys

import pytest

import dao

HEAVY = ("torch", "pymatgen", "ase", "numpy", "scipy", "pandas", "rich", "pyarrow", "huggingface_hub")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import dao", HEAVY),
        ("import dao; dao.__version__; dir(dao)", HEAVY),
        ("from dao.cli import main; main(['--help'])", HEAVY),
        ("from dao.cli import main; main(['predict', '--help'])", HEAVY),
        ("from dao.cli import main; main(['train', '--help'])", HEAVY),
        ("from dao.cli import main; main(['weights', 'list'])", HEAVY),
        # refused by arithmetic on the text, before anything that costs a second is imported
        ("from dao.cli import main; main(['predict', 'C1000000000'])", ("torch", "pymatgen", "ase")),
        ("from dao import Crystal", ("torch", "pymatgen", "ase")),
    ],
)
def test_what_is_not_imported(code: str, forbidden: tuple[str, ...]) -> None:
    script = f"import sys\n{code}\nprint('loaded:', *[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_public_names() -> None:
    assert {"Crystal", "CrystalBatch", "Generator", "predict", "__version__"} == set(dir(dao))
    assert dao.Crystal.__module__ == "dao.crystal"
    with pytest.raises(AttributeError, match="module 'dao' has no attribute 'nonsense'"):
        _ = dao.nonsense
