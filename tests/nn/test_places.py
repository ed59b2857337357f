"""Fixed positions, and a transformer that is told where its tokens stand."""

from __future__ import annotations

import math

import pytest
import torch

from safelight.nn.attention import SpatialTransformer, TransformerSpec, to_space, to_tokens
from safelight.nn.norm import GroupNormSpec
from safelight.nn.places import positions


@pytest.mark.parametrize("space", [(7,), (3, 5), (2, 3, 4)])
def test_the_table_is_its_formula(space: tuple[int, ...]) -> None:
    width, spacing = 26, 0.5
    n = width // (2 * len(space))
    table = positions(space, width, torch.zeros((), dtype=torch.float64), spacing).reshape(*space, width)
    for place in torch.cartesian_prod(*(torch.arange(s) for s in space)).reshape(-1, len(space)).tolist():
        row = []
        for p in reversed(place):
            phases = [spacing * p * 10000 ** (-i / n) for i in range(n)]
            row += [math.sin(a) for a in phases] + [math.cos(a) for a in phases]
        row += [0.0] * (width - len(row))
        assert table[tuple(place)].tolist() == pytest.approx(row, abs=1e-6)
    flat = table.flatten(0, -2)
    assert not positions(space, 1, torch.zeros(())).any()  # too narrow for a single wave
    assert (torch.cdist(flat, flat) + torch.eye(len(flat)) > 1e-3).all()  # no two places are one


def transformer(places: bool) -> SpatialTransformer:
    torch.manual_seed(0)
    spec = TransformerSpec(head_width=8, norm=GroupNormSpec(groups=4), places=places)
    made = spec.make(16, GroupNormSpec(groups=4))
    assert isinstance(made, SpatialTransformer)
    torch.nn.init.normal_(made.proj_out.weight)
    return made


def test_the_places_start_silent_and_then_speak() -> None:
    """The map starts at zero, so a trained network can be told later; a flat picture is flat until it speaks, and never after."""
    told, deaf = transformer(True), transformer(False)
    deaf.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("place")})
    x, flat = torch.randn(2, 16, 3, 4), torch.ones(1, 16, 3, 4)
    assert told.place is not None
    assert torch.equal(told(x), deaf(x))
    assert told(flat).std((2, 3)).max() < 1e-5
    torch.nn.init.normal_(told.place.weight)
    y = to_tokens(told.proj_in(told.norm(x))) + told.place(positions((3, 4), 16, x))
    for block in told.blocks:
        y = block(y)
    torch.testing.assert_close(told(x), x + told.proj_out(to_space(y, x)))
    assert told(flat).std((2, 3)).min() > 1e-3
