from __future__ import annotations

import pytest
import torch

from dao.device import choose_device, on_cpu
from dao.errors import InputError


@pytest.mark.parametrize("count", [0, 2])
def test_devices(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda" if count else "cpu")
    if count:
        assert choose_device("cuda") == torch.device("cuda")
        assert choose_device("cuda:1") == torch.device("cuda:1")
    else:
        with pytest.raises(InputError, match="device 'cuda': torch finds no CUDA device here"):
            choose_device("cuda")
    with pytest.raises(InputError, match=f"torch finds {count or 'no'} CUDA device"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x", "mps"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="use auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_what_is_on_the_cpu_stays_the_same() -> None:
    module, empty = torch.nn.Linear(2, 2), torch.nn.Identity()
    assert on_cpu(module) is module
    assert on_cpu(empty) is empty


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_elsewhere_is_copied() -> None:
    module = torch.nn.Linear(2, 2).cuda()
    copied = on_cpu(module)
    assert {one.device.type for one in copied.parameters()} == {"cpu"}
    assert {one.device.type for one in module.parameters()} == {"cuda"}
