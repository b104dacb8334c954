"""``dao doctor``: is everything here, does it work, and what to send with a bug report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dao.cli.options import Device, FormatOption, check_device

EXAMPLES = """\b
Examples:
  dao doctor
  dao doctor --format json > doctor.json   # to go with a bug report

\b
Each line is ok, warn (may not work) or fail (should work and does not), with what to do about it. Exit code: 0 where
nothing fails, else 1."""


def doctor(
    device: Device = "auto",
    output: FormatOption = "table",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not ok.")] = False,
) -> int:
    """Check the installation: versions, machine, weights, optional packages, and a small prediction."""
    check_device(device)
    from dao.cli.output import print_json
    from dao.diagnosis import Finding, diagnose

    found: list[Finding] = []
    for one in diagnose(device):
        found.append(one)
        if output == "table" and not (quiet and one.status == "ok"):
            print(f"{one.status:<5} {one.name:<20} {one.text}")
            if one.remedy:
                print(f"{'':<26} -> {one.remedy}")
            sys.stdout.flush()
    works = all(one.status != "fail" for one in found)
    if output == "json":
        print_json({"works": works, "findings": [asdict(one) for one in found]})
    return 0 if works else 1
