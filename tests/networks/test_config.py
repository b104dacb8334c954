from __future__ import annotations

from typing import Any

import pytest

from dao.errors import InputError
from dao.networks.config import CrysformerConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10, "heads": 4}, "width 10 is not a multiple of its 4 heads"),
        ({"heads": 0}, "must be positive"),
        ({"heads": -8}, "must be positive"),
        ({"width": 0}, "must be positive"),
        ({"width": -384, "heads": -8}, "must be positive"),
        ({"blocks": 0}, "must be positive"),
        ({"frequencies": 0}, "must be positive"),
        ({"time_features": 2}, "time_features must be even and at least 4, got 2"),
        ({"time_features": 5}, "time_features must be even and at least 4, got 5"),
        ({"space_groups": True}, "space_groups needs conditioning 'scale_shift'"),
    ],
)
def test_sizes_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrysformerConfig(**changes)


def test_defaults_are_the_papers() -> None:
    config = CrysformerConfig()
    assert (config.width, config.blocks, config.heads, config.frequencies, config.time_features) == (
        384,
        12,
        8,
        128,
        256,
    )
    assert (config.gram, config.conditioning, config.element_embedding, config.space_groups) == (
        "raw",
        "none",
        False,
        False,
    )
