"""What a picture is said to be cut from: from the request to the numbers that the network hears, by branch."""

from __future__ import annotations

import pytest
import torch

from safelight.assets import Assets
from safelight.cond import Framing
from safelight.guide.cfg import CFG
from safelight.model import ModelSpec
from safelight.noise import Noise
from safelight.spec import SpecError, parse
from safelight.task import Request
from safelight.task.base import Brief, conditions
from safelight.text.clip import CLIPTextSpec
from safelight.text.sdxl import SDXLTextSpec

TOWER = CLIPTextSpec(width=16, layers=2, heads=2, length=8)


def told(model, **fields):
    """{branch: the numbers that it hears}."""
    request = Request(prompt="a cat", steps=2, mix=CFG(scale=2.0), **fields).resolve(model)
    brief = Brief(model, request, ("a cat",), (0,), Noise(0, (0,)), Assets())
    return {branch: cond.vector[0, 16:].tolist() for branch, cond in conditions(brief).items()}


def model(**fields):
    text = SDXLTextSpec.of(TOWER, **fields)
    torch.manual_seed(0)
    spec = ModelSpec(
        network={"kind": "unet", "channels": 1, "widths": (64,), "cond": text.gives[1]},
        process="cosine",
        parameterization="v",
        text=text,
        size=(16, 16),
    )
    return spec.build().eval()


def test_what_is_left_open_is_the_size_that_is_asked_for():
    base = model()
    assert told(base)["cond"] == [16, 16, 0, 0, 16, 16]
    assert told(base, size=(16, 32))["null"] == [16, 32, 0, 0, 16, 32]
    framing = Framing(original=(40, 50), crop=(3, 4))
    assert told(base, framing=framing, size=(32, 16)) == {branch: [40, 50, 3, 4, 32, 16] for branch in ("cond", "null")}


def test_the_negative_prompt_hears_the_low_score():
    found = told(model(zeros=False, scored=True), framing=Framing(score=7.5, low=1.0))
    assert found == {"cond": [16, 16, 0, 0, 7.5], "null": [16, 16, 0, 0, 1.0]}


def test_a_request_keeps_it():
    request = parse({"kind": "request", "framing": {"crop": [1, 2]}}, "request")
    assert request.framing == Framing(crop=(1, 2)) and Request.model_validate(request.model_dump(mode="json")) == request
    assert Request().framing is None
    with pytest.raises(SpecError, match="framing.score"):
        parse({"kind": "request", "framing": {"score": 11}}, "request")
