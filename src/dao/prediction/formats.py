"""Kinds of files that candidates are written as: named here for those who only ask."""

FORMATS = ("cif", "poscar", "extxyz", "json", "csv")
"""All there are."""

DEFAULT_FORMATS = ("cif", "extxyz", "json", "csv")
"""Unless told otherwise."""
