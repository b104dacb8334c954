"""What a report says of a model in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dao.processes.config import SamplerSettings


def sampler_note(settings: SamplerSettings) -> str:
    """Method, steps and all that samples depend on."""
    parts = [f"{settings.method}, {settings.steps} steps"]
    if settings.coordinate_velocity_scale or settings.lattice_velocity_scale:
        parts.append(
            f"velocity scale {settings.coordinate_velocity_scale:g} (coordinates),"
            f" {settings.lattice_velocity_scale:g} (lattice)"
        )
    if settings.space_group_temperature != 1.0:
        parts.append(f"symmetries shared out at temperature {settings.space_group_temperature:g}")
    if (settings.volume_noise, settings.shape_noise) != (1.0, 1.0):
        parts.append(
            f"{settings.volume_noise:g} of the noise of volumes and {settings.shape_noise:g} of that of shapes"
        )
    if settings.subgroup_probability:
        held = f"{settings.subgroup_probability:g} times the description's odds"
        parts.append(f"samples with part of a symmetry where they are held to find {held}")
    if settings.free_probability:
        parts.append(f"samples without symmetry where each is held to find {settings.free_probability:g}")
    if settings.walks > 1:
        parts.append(f"the likeliest of {settings.walks} walks where four or more coordinates are free")
    parts += [f"a walk begun again at most {settings.attempts - 1} times", settings.precision]
    return ", ".join(parts)


def training_note(record: Mapping[str, Any]) -> str:
    """The training record of a model: crystals seen, data, hours, device, and what it was trained on before."""
    if not record:
        return "not recorded"
    crystals, hours = float(record.get("crystals_seen", 0)), record.get("hours")
    before = f"{record['pretraining']}; then " if record.get("pretraining") else ""
    return f"{before}{crystals / 1e6:.2f} M crystals of {record.get('data')}, {hours} h on {record.get('device')}"
