"""Adapters to the structure types that users already hold: pymatgen and ASE."""
