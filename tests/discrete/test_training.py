"""Training through `fit` and `train`: weights, files, resuming; and a known chain learned so well that its samples are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safelight import model as files
from safelight.data import Pictures, load, memory
from safelight.data.text import TextSource
from safelight.discrete import Tokens, TokensSpec, sample
from safelight.discrete import load as read
from safelight.discrete.alphabet import Characters, Grey
from safelight.discrete.process import AbsorbingTokens, GaussianTokens, MaskedTokens, UniformTokens
from safelight.evaluate.tokens import bound
from safelight.nn.tokens import TokenNetworkSpec, TokenPictureSpec, TokenTransformerSpec
from safelight.noise import Noise
from safelight.spec import SpecError, describe, parse
from safelight.train import Every, Plan, Train, begin, fit, train
from safelight.train.keys import keyed
from safelight.train.objective import Batch
from safelight.train.tokens import TokenBound, TokenCrossEntropy
from tests.discrete.chains import Chain
from tests.train import tiny

LETTERS = "abcd"
SMALL = TokenTransformerSpec(width=16, depth=1, heads=2, embedding={"kind": "sinusoid", "width": 8})


def spec(length: int = 8, **fields: Any) -> TokensSpec:
    return TokensSpec(
        **({"network": SMALL, "alphabet": Characters(symbols=LETTERS), "size": (1, length), "steps": 16} | fields)
    )


def fresh(described: TokensSpec, seed: int = 0) -> Tokens:
    with keyed(torch.device("cpu"), seed, "weights"):
        return described.build()


def rows(chain: Chain, count: int, seed: int = 0) -> Pictures:
    """Samples of a chain as pictures of one row, whose bytes are letters."""
    letters = np.frombuffer(LETTERS.encode(), np.uint8)[chain.sample(count, seed).long().numpy()]
    return load(memory(letters.reshape(count, 1, chain.length, 1), [""] * count, [f"{seed}-{i:06d}" for i in range(count)]))


def plan(**fields: Any) -> Plan:
    given = {"batch": 8, "steps": 6, "every": Every(log=2, held_out=2, sample=0, save=2), "held": 16, "buckets": 4}
    return Plan(**(given | fields))


@pytest.mark.parametrize(
    "process", [UniformTokens(T=8), AbsorbingTokens(T=8), GaussianTokens(T=8), MaskedTokens()], ids=lambda p: p.kind
)
@pytest.mark.parametrize("objective", [TokenBound(cross_entropy=0.01), TokenCrossEntropy()], ids=lambda o: o.kind)
def test_a_step_reaches_every_weight(process, objective) -> None:
    model, data = fresh(spec(process=process)), rows(Chain.random(length=8), 16)
    (player,) = begin(model, plan(), objective).players
    torch.nn.init.normal_(model.network.last.weight, std=0.1)
    x0 = objective.see(model, data.batch(torch.arange(16)).float() / 127.5 - 1)
    draws = objective.draw(model, x0, 0, 3)
    each = player.loss(model, Batch(x0), draws)
    assert each.shape == (16,) and bool((each >= 0).all())
    each.mean().backward()
    assert not [name for name, p in player.parameters if p.grad is None or not p.grad.any()]
    again = objective.draw(model, x0, 0, 3)
    assert torch.equal(again.eps, draws.eps) and torch.equal(again.t, draws.t)


def test_the_objectives_begin_where_even_chances_are() -> None:
    """A network that answers 0: cross-entropy is log K of what is hidden, and the bound in continuous time log K in the mean."""
    chain, many = Chain.random(length=8), 4000
    model, data = fresh(spec()), rows(chain, many)
    x0 = TokenBound().see(model, data.batch(torch.arange(many)).float() / 127.5 - 1)
    draws = TokenBound().draw(model, x0, 0, 0)
    with torch.no_grad():
        each = TokenBound().loss(model, Batch(x0), draws)
        plain = TokenCrossEntropy().loss(model, Batch(x0), draws)
    assert float(each.mean()) == pytest.approx(np.log(4), abs=4 * float(each.std()) / many**0.5)
    hidden = MaskedTokens().noised(x0, draws.t, torch.special.ndtr(draws.eps.double()), 4) == 4
    torch.testing.assert_close(plain, np.log(4) * hidden.flatten(1).float().mean(1))
    both = TokenBound(cross_entropy=0.5).loss(model, Batch(x0), draws)
    torch.testing.assert_close(both, each + 0.5 * plain)


def described(folder: Path, **fields: Any) -> Train:
    text = folder / "text.txt"
    text.write_text("abcd dcba, " * 300)
    source = TextSource(path=str(text), length=8, fold="none")
    given: dict[str, Any] = {
        "name": "letters",
        "model": spec(alphabet=Characters(symbols="abcd ,"), process=UniformTokens(T=8)),
        "data": source,
        "held_out_data": source.model_copy(update={"split": "test"}),
        "objective": TokenBound(cross_entropy=0.01),
        "plan": plan(held=10),
    }
    return Train(**(given | fields))


def test_a_run_is_resumed_exactly_and_its_file_comes_back(tmp_path: Path) -> None:
    recipe = described(tmp_path)
    assert parse(json.loads(json.dumps(describe(recipe))), "train") == recipe
    whole = fit(recipe, tmp_path / "whole", device="cpu")
    reports = list(whole)
    going = fit(recipe, tmp_path / "cut", device="cpu")
    for report in going:
        if report.step == 4:
            break
    again = fit(recipe, tmp_path / "cut", resume=True, device="cpu")
    rest = list(again)
    assert rest[-1].step == 6 and rest[-1].judged == reports[-1].judged
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)

    model = read(tmp_path / "whole")
    assert isinstance(model, Tokens) and not model.training and model.lineage["recipe"] == "letters"
    assert files.peek(tmp_path / "whole").spec["family"] == "tokens"
    x = torch.zeros(2, 1, 1, 8)
    t = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(model.logits(x, t), whole.state.snapshot(whole.model).logits(x, t))
    with pytest.raises(SpecError, match="holds no 'model' but a 'tokens'; its verb is: safelight tokens"):
        files.load(tmp_path / "whole")
    with pytest.raises(SpecError, match="holds no 'tokens' but a 'model'"):
        read("fashion-mnist")


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="trains a model of tokens"):
        TokenBound().prepare(tiny.model())
    with pytest.raises(SpecError, match=r"byte 44 \(','\) of the data is none of its 5 tokens"):
        fit(described(tmp_path, model=spec(alphabet=Characters(symbols="abcd "))), tmp_path / "run", device="cpu")
    with pytest.raises(SpecError, match="a 'tokens' makes no pictures on the way"):
        fit(described(tmp_path, plan=plan(every=Every(sample=1))), tmp_path / "run", device="cpu")


def test_pictures_of_grey_train_through_a_network_of_pictures() -> None:
    """A square on dark ground, 8 levels: the bound falls far below the entropy of a pixel by itself, and below its start."""
    network = TokenPictureSpec(network=tiny.network(dropout=0.0, cond=0).model_copy(update={"channels": 4}))
    model = fresh(TokensSpec(network=network, alphabet=Grey(levels=8), size=(8, 8), steps=8))
    data = tiny.pictures(256)
    made = list(
        train(
            model, data, plan(batch=32, steps=40, optimizer={"kind": "adamw", "lr": 5e-3}, averages={}), objective=TokenBound()
        )
    )
    losses = [r.metrics["train/loss"] for r in made if "train/loss" in r.metrics]
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    x = list(sample(model, Noise(0, 3), 3, steps=4))[-1].x
    assert x.shape == (3, 1, 8, 8) and float(x.max()) < 8
    assert model.alphabet.write(torch.arange(8)).tolist() == [0, 36, 73, 109, 146, 182, 219, 255]


def learned(process) -> tuple[Tokens, Chain]:
    """A small transformer and its average, trained on 100,000 samples of a chain of three tokens."""
    chain = Chain.random(tokens=3, length=8)
    network: TokenNetworkSpec = TokenTransformerSpec(width=48, depth=2, heads=4)
    model = fresh(spec(network=network, process=process, alphabet=Characters(symbols=LETTERS[:3])))
    going = plan(
        batch=256,
        steps=1600,
        optimizer={"kind": "adamw", "lr": 3e-3},
        schedule={"kind": "cosine", "warmup": 50},
        averages={"ema": {"kind": "power", "sigma_rel": 0.1}},
        every=Every(log=0, held_out=0, sample=0, save=0),
    )
    objective = TokenBound(cross_entropy=1.0)
    state = begin(model, going, objective)
    list(train(model, rows(chain, 100_000), going, state, objective=objective))
    return state.snapshot(model), chain


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("process", [AbsorbingTokens(T=128), MaskedTokens(), UniformTokens(T=128)], ids=lambda p: p.kind)
def test_a_trained_model_recovers_the_chain(process) -> None:
    """Total variation of tokens and pairs below 0.02, and a bound between the chain's entropy and 4% above it."""
    model, chain = learned(process)
    x = list(sample(model, Noise(0, 10_000), 10_000, steps=128))[-1].x
    single, double = chain.apart(x)
    x0 = chain.sample(4000, seed=5)
    found = list(bound(process, model.logits, x0, 3, draws=8, batch=1000))[-1]
    print(
        f"{process.kind}: tokens {single:.4f}, pairs {double:.4f}, bound {found.nats:.4f} +- {found.error:.4f}, "
        f"entropy {chain.entropy:.4f}, alone {chain.alone:.4f}"
    )
    assert single < 0.02 and double < 0.02
    assert chain.entropy - 3 * found.error < found.nats < 1.04 * chain.entropy
