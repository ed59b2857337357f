"""Attention recorded by making a run again: the same run, and the weights that the network itself used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from safelight.generate import Finished, Stepped, generate
from safelight.nn.attention import CrossAttention, tapped
from safelight.serve.attention import Heard, Listener, hear
from safelight.spec import SpecError
from safelight.task import Request
from safelight.text.spans import tokens
from safelight.trace import Recorder
from tests import small
from tests.serve.recorded import PROMPT, reader, recording

NETWORKS = ("unet", "adaln", "adaln-zero", "adaln-single", "cross-attention")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_run_that_is_heard_is_the_run(network: str) -> None:
    made = reader(network)
    trace = recording(made, count=2)
    listener = Listener(trace, made)
    pictures = torch.cat([event.pictures for event in listener if isinstance(event, Finished)])
    heard = listener.heard()
    assert torch.equal(pictures, trace.pictures)
    assert heard.identical
    assert heard.steps == [0, 1, 2, 3, 4]
    assert not any(module._forward_pre_hooks for module in made.modules())


@pytest.mark.parametrize("network", NETWORKS)
def test_maps_sum_to_one_over_all_that_is_looked_at(network: str) -> None:
    made = reader(network)
    heard = hear(recording(made), made)
    for step in (*heard.steps, None):
        maps = heard.maps(step)
        assert maps.shape == (len(heard.tokens()), 8, 8)
        assert (maps.sum(0) - 1).abs().max() < 1e-5
        assert maps.min() >= 0
    roles = [token.role for token in heard.tokens()]
    assert roles[: 2 * (network == "cross-attention")] == ["time", "vector"][: 2 * (network == "cross-attention")]
    assert [r for r in roles if r not in ("time", "vector")][:1] == ["begin"]
    assert {"word", "end", "pad"} <= set(roles)
    pads = [i for i, role in enumerate(roles) if role == "pad"]
    assert float(heard.maps()[pads].max()) == 0  # the network is told not to look there


@pytest.mark.parametrize("network", ["unet", "adaln-zero"])
def test_weights_are_those_that_the_kernel_uses(network: str) -> None:
    """softmax(q k^T / sqrt(d)) v from the weights is what the module itself answers."""
    made = reader(network)
    trace, seen = recording(made), list[float]()
    crosses = [m for m in made.denoiser.network.modules() if isinstance(m, CrossAttention)]

    def check(module: CrossAttention, inputs: tuple, output: torch.Tensor) -> None:
        y, words = inputs
        v = words.v.expand(len(y), -1, -1, -1)
        own = module.out((module.weights(y, words) @ v).transpose(1, 2).flatten(2))
        seen.append(float((own - output).abs().max()))

    hooks = [m.register_forward_hook(check) for m in crosses]
    list(generate(made, trace.request))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 5 * len(crosses)
    assert max(seen) < 1e-5


def test_the_mean_is_over_layers_at_the_latents_size() -> None:
    """A U-Net's lower layers see squares of 2 x 2; their maps are repeated, cropped where the network padded, and averaged."""
    made = reader("unet", size=(10, 7))
    trace = recording(made)
    heard = hear(trace, made, layers=True)
    assert heard.identical
    shapes = {tuple(heard.maps(2, layer=layer).shape[1:]) for layer in heard.layers}
    assert shapes == {(10, 8), (5, 4)}
    large = [F.interpolate(heard.maps(2, layer=layer)[None], (10, 8), mode="nearest")[0] for layer in heard.layers]
    torch.testing.assert_close(heard.maps(2), torch.stack(large).mean(0)[:, :10, :7])
    torch.testing.assert_close(heard.maps(), torch.stack([heard.maps(k) for k in heard.steps]).mean(0))


def test_tokens_are_named_where_they_stand() -> None:
    made = reader()
    heard = hear(recording(made), made)
    words = [(t.text, PROMPT[t.start : t.end], t.weight) for t in heard.tokens() if t.role == "word"]
    assert words == [
        ("a", "a", 1.0),
        ("red", "red", 1.3),
        ("apple", "apple", 1.0),
        (",", ",", 1.0),
        ("a", "a", 1.0),
        ("blue", "Blue", 1.0),
        ("cube", "cube", 1.0),
    ]
    assert [t.window for t in heard.tokens()] == [0] * 8 + [1] * 8  # a window has room for six
    assert made.text is not None
    assert [t.id for t in heard.tokens()] == [t.id for t in tokens(made.text, PROMPT, filled=True)]


def test_a_place_ranks_its_tokens() -> None:
    made = reader()
    heard = hear(recording(made), made)
    ranked = heard.at(0.6, 0.2, step=1)
    assert sum(s.share for s in ranked) == pytest.approx(1, abs=1e-5)
    assert [s.share for s in ranked] == sorted((s.share for s in ranked), reverse=True)
    assert ranked[0].share == float(heard.maps(1)[:, 4, 1].max())
    white = [int(heard.picture(2, k, size=(8, 8)).max()) for k in heard.steps]
    assert max(white) == 255  # at the step where the token is looked at most, and nowhere more
    assert heard.picture(2, None, size=(16, 24)).shape == (16, 24, 1)


def test_of_a_batch_in_parts_with_windows_of_unequal_number() -> None:
    made = reader()
    trace = recording(made, prompt=("a cube", "one two three four five six seven eight"), micro_batch=1)
    heard = hear(trace, made)
    assert heard.identical
    assert [len(heard.tokens(i)) for i in (0, 1)] == [8, 16]
    for i in (0, 1):
        assert (heard.maps(3, i).sum(0) - 1).abs().max() < 1e-5
    alone = hear(recording(made, prompt=("a cube",)), made)
    torch.testing.assert_close(heard.maps(3, 0), alone.maps(3))


@pytest.mark.parametrize("sampler", ["heun", "ddpm", "dpm++2m"])
def test_a_fork_is_heard_from_where_it_begins(sampler: str) -> None:
    made = reader()
    whole = recording(made, sampler=sampler)
    fork = recording(made, sampler=sampler, prompt=("a green cube",), recorded=whole, first=2)
    heard = hear(fork, made)
    assert heard.steps == [2, 3, 4]
    assert heard.identical


def test_a_stopped_run_is_heard_as_far_as_it_went() -> None:
    made = reader()
    recorder = Recorder(exact=True)
    for event in generate(made, Request(prompt=(PROMPT,), steps=6)):
        recorder.see(event)
        if isinstance(event, Stepped) and event.step.i == 2:
            break
    heard = hear(recorder.trace(), made)
    assert heard.steps == [0, 1, 2]
    assert heard.identical


def test_another_run_is_told_apart() -> None:
    made = reader.__wrapped__()  # one of its own, as it is changed
    trace = recording(made)
    with torch.no_grad():
        next(made.denoiser.parameters()).mul_(1.001)
    assert not hear(trace, made).identical


def test_a_file_keeps_it(tmp_path: Path) -> None:
    made = reader("unet")
    heard = hear(recording(made), made, layers=True)
    heard.save(tmp_path / "heard.safetensors")
    again = Heard.open(tmp_path / "heard.safetensors")
    assert again.json() == heard.json()
    assert torch.equal(again.maps(1), heard.maps(1))
    assert torch.equal(again.maps(1, layer=heard.layers[0]), heard.maps(1, layer=heard.layers[0]))
    recording(made).save(tmp_path / "trace.safetensors")
    with pytest.raises(SpecError, match="holds no attention"):
        Heard.open(tmp_path / "trace.safetensors")


def test_what_cannot_be_heard_is_refused() -> None:
    labels = small.model()
    with pytest.raises(SpecError, match="reads no words by cross-attention"):
        hear(recording(labels, prompt=("shoe",)), labels)
    made = reader()
    heard = hear(recording(made), made)
    with pytest.raises(SpecError, match=r"token 99: picture 0 has tokens 0\.\.15"):
        heard.map(99)
    with pytest.raises(SpecError, match="step 7 was not heard"):
        heard.maps(7)
    with pytest.raises(SpecError, match="picture 3 was not heard"):
        heard.maps(1, 3)
    with pytest.raises(SpecError, match="none was kept"):
        heard.maps(1, layer="blocks.0.cross")


def test_nothing_is_left_when_a_tapped_region_fails() -> None:
    made = reader()
    with pytest.raises(RuntimeError), tapped(made.denoiser.network, lambda name, weights: None):
        raise RuntimeError
    assert not any(module._forward_pre_hooks for module in made.modules())
