"""Networks of tokens: rotary places, what they are told, and what does not fit; alphabets byte by byte."""

from __future__ import annotations

import pytest
import torch

from safelight.discrete import TokensSpec
from safelight.discrete.alphabet import Characters, Grey
from safelight.discrete.model import chances
from safelight.nn.dit import DiTSpec
from safelight.nn.tokens import TokenPictureSpec, TokenTransformerSpec, rotary, turned
from safelight.process import Level
from safelight.spec import SpecError

SMALL = TokenTransformerSpec(width=16, depth=2, heads=2)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    """<R_n q, R_m k> = <R_{n+5} q, R_{m+5} k>, lengths are kept, and place 0 is not turned (Su et al. 2021, eq. 16)."""
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=random)
    waves = rotary(12, 8, torch.device("cpu"))
    a, b = turned(q.expand(1, 1, 12, 8), waves)[0, 0], turned(k.expand(1, 1, 12, 8), waves)[0, 0]
    products = a @ b.T
    torch.testing.assert_close(products[:7, :7], products[5:, 5:], rtol=1e-4, atol=1e-4)
    assert float((products[0, 1:] - products[0, 0]).abs().max()) > 0.1
    torch.testing.assert_close(a.norm(dim=1), q.flatten().norm().expand(12))
    torch.testing.assert_close(a[0], q.flatten())


@pytest.mark.parametrize("timed", [True, False])
def test_the_transformer_hears_the_level_only_if_it_is_timed(timed: bool) -> None:
    torch.manual_seed(0)
    network = SMALL.model_copy(update={"timed": timed}).make(5, 4, 1)
    torch.nn.init.normal_(network.last.weight)
    x = torch.randint(0, 5, (1, 1, 2, 3)).expand(2, -1, -1, -1)
    early, late = network(x, torch.tensor([10.0, 900.0]))
    assert early.shape == (4, 1, 2, 3) and torch.equal(early, late) != timed
    moved = network(torch.cat([x[:1], x[:1].flip(3)]), torch.tensor([10.0, 10.0]))
    assert not torch.allclose(moved[0], moved[1].flip(3), atol=1e-3)  # it knows places, not only which tokens there are


def test_a_network_of_pictures_serves_too() -> None:
    torch.manual_seed(0)
    network = TokenPictureSpec(network=DiTSpec(channels=8, width=16, depth=1, heads=2)).make(6, 5, 2)
    x = torch.randint(0, 6, (3, 2, 4, 4))
    first = network(x, torch.ones(3))
    assert first.shape == (3, 5, 2, 4, 4) and not first.any()  # even chances, until it is trained
    torch.nn.init.normal_(network.last.weight)
    other = x.clone()
    other[:, 1, 0, 0] = (other[:, 1, 0, 0] + 1) % 6
    assert not torch.equal(network(x, torch.ones(3)), network(other, torch.ones(3)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="parts of even width"):
        TokenTransformerSpec(width=12, heads=4)
    with pytest.raises(ValueError, match="must take a picture alone"):
        TokenPictureSpec(network=DiTSpec(cond=8, width=16, heads=2))
    with pytest.raises(SpecError, match="8 is no multiple of the picture's 3"):
        TokenPictureSpec(network=DiTSpec(channels=8, width=16, heads=2)).make(4, 4, 3)
    with pytest.raises(ValueError, match=r"a text of N characters is \(1, N\)"):
        TokensSpec(size=(0, 8))
    with pytest.raises(ValueError, match="each once"):
        Characters(symbols="aa")
    with pytest.raises(SpecError, match="temperature: at least 0"):
        chances(torch.zeros(1, 3, 1), -1)


def test_alphabets_go_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    grey = Grey(levels=16)
    assert torch.equal(grey.read(every).flatten(), (torch.arange(256) // 16).float())
    assert torch.equal(grey.read(grey.write(torch.arange(16))), torch.arange(16).float())
    assert int((grey.write(grey.read(every)).int() - every.int()).abs().max()) <= 15
    assert torch.equal(Grey(levels=256).write(Grey(levels=256).read(every)), every)
    letters = Characters()
    word = torch.tensor(list(b"a zebra"), dtype=torch.uint8).view(1, 1, 1, 7)
    assert letters.tokens == 27 and letters.say(letters.read(word)) == ["a zebra"] and not grey.text
    with pytest.raises(SpecError, match=r"byte 65 \('A'\) of the data is none of its 27 tokens"):
        letters.read(torch.tensor([65], dtype=torch.uint8))


def test_temperature_divides_logits() -> None:
    """As an estimate of the model: 0 the likeliest, 1 the softmax, above it flatter; always distributions."""
    torch.manual_seed(0)
    model = TokensSpec(network=SMALL, alphabet=Characters(symbols="abcd"), size=(1, 6)).build()
    torch.nn.init.normal_(model.network.last.weight)
    x, level = torch.randint(0, 5, (2, 1, 1, 6)).float(), model.process.at(0.5)
    assert isinstance(level, Level)
    with torch.no_grad():
        logits = model.logits(x, level.t.expand(2)).double()
        cold, one, hot = (model(x, level, temperature).x0 for temperature in (0, 1, 2))
    torch.testing.assert_close(one, logits.softmax(1))
    torch.testing.assert_close(hot, (logits / 2).softmax(1))
    assert torch.equal(cold.argmax(1), logits.argmax(1)) and set(cold.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(cold.sum(1), torch.ones(2, 1, 1, 6, dtype=torch.float64))
