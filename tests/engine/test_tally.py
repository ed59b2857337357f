"""The tally on ghosts: closed forms, and the real run beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from safelight.engine.tally import Ghost, Tally, scratch, total
from safelight.generate import Finished, generate
from safelight.model import Model
from safelight.nn.blank import blank
from safelight.task import Request
from tests import small

CPU = torch.device("cpu")


def haunted(build: object, *, mapped: bool = False) -> tuple[nn.Module, Tally]:
    tally = Tally(CPU, mapped=mapped)
    module = blank(build)  # type: ignore[arg-type]
    tally.haunt(module, "part")
    return module, tally


def test_flops_and_bytes_of_two_layers_are_the_closed_form() -> None:
    net, tally = haunted(lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32)))
    x = torch.zeros(10, 64)
    with tally, torch.inference_mode():
        y = net(x)
    assert isinstance(y, Ghost)
    assert y.shape == (10, 32)
    assert y.device == CPU
    assert tally.flops["part"] == 2 * 10 * (64 * 256 + 256 * 32)
    weights = 4 * (64 * 256 + 256 + 256 * 32 + 32)
    assert tally.weights["part"] == tally.used["part"] == weights
    # The hidden layer twice, as the activation is made from it; what it was made from is then let go of.
    assert tally.work["part"] == 4 * 2 * 10 * 256
    assert tally.peak["part"] == 4 * 2 * 10 * 256 + weights
    del y
    assert tally.live == 0


def test_views_and_work_in_place_take_nothing() -> None:
    net, tally = haunted(lambda: nn.Linear(8, 1000))
    with tally, torch.inference_mode():
        y = net(torch.zeros(5, 8))
        z = y.view(5, 10, 100).transpose(1, 2)[:, 3:]
        z.mul_(2).add_(1)
        kept = z.flatten(1)  # a copy: the rows do not lie behind one another
    assert tally.live == 4 * (5 * 1000 + kept.numel())
    assert tally.peak["part"] == tally.live + tally.weights["part"]


def test_of_a_mapped_table_that_is_looked_up_in_no_page_is_counted() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out, self.idle = nn.Embedding(50_000, 16), nn.Linear(16, 16), nn.Linear(999, 999)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(self.table(ids))
            return out

    for mapped in (True, False):
        net, tally = haunted(Words, mapped=mapped)
        with tally, torch.inference_mode():
            net(torch.arange(7)[None])
        assert tally.used["part"] == 4 * (16 * 16 + 16)
        there = tally.used["part"] if mapped else tally.weights["part"]
        assert tally.peak["part"] == there + 2 * 4 * 7 * 16 + 8 * 7  # the looked up rows, the result, the numbers


@pytest.mark.parametrize(
    "shape, outs, kernel, last, expected",
    [
        ((2, 128, 64, 64), 128, 3, True, 2 * 128 * 128 * 9),
        # The picture's copy, the result's copy, the weights', before the result itself is touched.
        ((2, 128, 64, 64), 128, 3, False, 2 * 128 * 64 * 64 + 128 * 128 * 9),
        ((2, 4, 64, 64), 320, 3, False, 2 * 320 * 64 * 64),
        # Three channels are filled up to a block of sixteen.
        ((2, 128, 64, 64), 3, 3, False, 2 * (128 + 16 - 3) * 64 * 64 + 128 * 3 * 9),
    ],
)
def test_what_a_convolution_takes_beside_its_result(
    shape: tuple[int, ...], outs: int, kernel: int, last: bool, expected: int
) -> None:
    """The sizes are those that the peak of a process showed (torch 2.13, oneDNN 3.12, AVX-512)."""
    x = torch.empty(shape, device="meta")
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    w = torch.empty(outs, shape[1], kernel, kernel, device="meta")
    args = (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    found = torch.ops.aten.convolution.default(*args)
    assert scratch(torch.ops.aten.convolution.default, args, found) == 4 * expected


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted_whole(masked: bool) -> None:
    net, tally = haunted(lambda: nn.Linear(32, 96))
    with tally, torch.inference_mode():
        q, k, v = net(torch.zeros(2, 50, 32)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mask = torch.ones(2, 1, 1, 50, dtype=torch.bool) if masked else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert y.shape == (2, 4, 50, 8)
        before = tally.live
        assert y.transpose(1, 2).flatten(2).shape == (2, 50, 32)  # a view, as the fused kernel lays it out
        assert tally.live == before
    assert tally.flops["part"] == 2 * 100 * 32 * 96 + 2 * 2 * 2 * 4 * 50 * 50 * 8


@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_on_ghosts_holds_what_the_real_run_holds(labelled: bool) -> None:
    request = Request(prompt=("shoe",) if labelled else ("",), count=3, steps=3)

    def counted(model: Model, tally: Tally) -> int:
        with tally:
            done = [event for event in generate(model, request) if isinstance(event, Finished)]
        assert done[0].pictures.shape == (3, 1, 8, 8)
        return total(tally.work)

    real = Tally(CPU)
    model = small.model(labelled)
    for part in (model.denoiser, model.codec, model.text):
        if part is not None:
            real.watch(part, "part")
    seen = counted(model, real)
    ghosts = Tally(CPU)
    described = blank(small.spec(labelled=labelled).build).eval()
    for part in (described.denoiser, described.codec, described.text):
        if part is not None:
            ghosts.haunt(part, "part")
    assert counted(described, ghosts) == pytest.approx(seen, rel=0.02)
    assert ghosts.weights == real.weights
