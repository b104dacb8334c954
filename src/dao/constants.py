"""The numbers that papers fight about, each in one place only."""

MATCHER_STOL = 0.5
"""Site tolerance of pymatgen's ``StructureMatcher`` in every published match rate, in units of (V/N)^(1/3)."""

MATCHER_LTOL = 0.3
"""Fractional length tolerance of the benchmark's ``StructureMatcher``."""

MATCHER_ANGLE_TOL = 10.0
"""Angle tolerance of the benchmark's ``StructureMatcher``, in degrees."""

STRICT_STOL = 0.3
"""Site tolerance of the stricter column: pymatgen's own default, in units of (V/N)^(1/3)."""

STRICT_LTOL = 0.2
"""Fractional length tolerance of the stricter column: pymatgen's own default."""

STRICT_ANGLE_TOL = 5.0
"""Angle tolerance of the stricter column: pymatgen's own default, in degrees."""

STABLE_E_ABOVE_HULL = 0.08
"""A crystal at or below this many eV/atom above the hull counts as stable (paper section 4.3.2)."""

RELAXED_E_ABOVE_HULL = 0.5
"""Crystals above ``STABLE_E_ABOVE_HULL`` and up to this many eV/atom above the hull are relaxed for Stage II of the
pretraining (paper section 4.3.2)."""

MAX_ATOMIC_NUMBER = 94
"""Elements 1 (H) to 94 (Pu) are supported: those with crystals in the Materials Project."""
