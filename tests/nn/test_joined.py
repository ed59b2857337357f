"""A weight made of parts is not made before it is wanted, and then it is any weight."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from safelight.interop.keys import key, to_ours
from safelight.nn.joined import Joined, joined, parameter, settle


def parts() -> list[Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, generator=drawn) for n in (3, 3, 2)]


def layer() -> nn.Linear:
    """A linear map whose weight is joined."""
    made = nn.Linear(4, 8, bias=False)
    made._parameters["weight"] = parameter(joined(parts()), True)
    return made


def waits(module: nn.Linear) -> bool:
    return isinstance(module.weight, Joined) and module.weight._whole.tensor is None


def test_nothing_is_copied_before_it_is_wanted() -> None:
    made = layer()
    assert made.weight.shape == (8, 4) and made.weight.dtype == torch.float32 and made.weight.requires_grad
    assert made.state_dict()["weight"].shape == (8, 4)
    made.to(torch.float32).to("cpu").eval().requires_grad_(False)
    assert waits(made)


def test_it_computes_as_the_whole_does() -> None:
    made, whole, x = layer(), torch.cat(parts()), torch.randn(2, 4)
    assert torch.equal(made(x), x @ whole.T)
    with torch.inference_mode():
        assert torch.equal(layer()(x), x @ whole.T)
    made(x).sum().backward()
    assert torch.equal(made.weight.grad, x.sum(0).expand(8, 4))


@pytest.mark.parametrize("used", [False, True])
def test_settled_it_is_a_plain_parameter(used: bool) -> None:
    made = layer()
    if used:
        made(torch.zeros(1, 4))
    settle(made)
    assert type(made.weight) is nn.Parameter and made.weight.requires_grad
    assert torch.equal(made.weight, torch.cat(parts()))


def test_what_is_written_to_it_stays() -> None:
    made = layer()
    with torch.no_grad():
        made.weight.mul_(2)
    settle(made)
    assert torch.equal(made.weight, 2 * torch.cat(parts()))


def test_another_precision_and_a_copy() -> None:
    made = layer().half()
    settle(made)
    assert made.weight.dtype == torch.float16 and torch.equal(made.weight, torch.cat(parts()).half())
    twin = copy.deepcopy(layer())
    assert isinstance(twin.weight, nn.Parameter) and not isinstance(twin.weight, Joined)
    assert torch.equal(twin.weight, torch.cat(parts()))


def test_keys_join_what_only_has_to_be_laid_together() -> None:
    q, k, v = (torch.randn(2, 4) for _ in range(3))
    theirs = {"q": q, "k": k, "v": v, "conv": torch.randn(2, 4, 1, 1), "conv2": torch.randn(2, 4, 1, 1)}
    keys = [key("qkv", ("q", "k", "v")), key("two", ("conv", "conv2"), shape=(-1, 4, 1, 1))]
    state = to_ours(keys, theirs.__getitem__, {"qkv": (6, 4), "two": (4, 4)})
    assert isinstance(state["qkv"], Joined) and torch.equal(state["qkv"], torch.cat([q, k, v]))
    assert not isinstance(state["two"], Joined)  # it is a view of what was laid together
