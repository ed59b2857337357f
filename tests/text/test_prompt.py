"""Weighted prompts in a CLIP tower: no token is lost, plain prompts are untouched, and weights do what the formulas say."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.cond import Cond
from safelight.prompt import MODES, parse
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.label import LabelSpec
from safelight.text.prompt import a1111, comfy, compel, windows
from safelight.text.spans import tokens

SMALL = CLIPTextSpec(width=24, layers=2, heads=2, length=16)
LONG = ", ".join(f"a {c} thing number {i}" for i, c in enumerate(["red", "blue", "green"] * 20))


def encoder(**fields):
    torch.manual_seed(0)
    text = SMALL.model_copy(update=fields).build().eval()
    # A trained norm has a bias: without one every state's mean is 0, and A1111's ratio of means is rounding noise.
    with torch.no_grad():
        text.tower.norm.bias.normal_(0.3, 0.1)
    return text


TEXT = encoder(causal=False)
CAUSAL = encoder(projection=10)


def states(text, *ids, hidden=None):
    """The tower's states of one window, by itself."""
    t, length = text.tokenizer, text.spec.length
    row = [t.begin, *ids, t.end]
    row += [t.end] * (length - len(row))
    return text.tower(torch.tensor([row]), 0, hidden)[0][0]


def test_prompt_no_token_lost():
    ids = TEXT.tokenizer.encode(LONG)
    assert len(ids) > 300
    for mode in MODES:
        (reading,) = TEXT.windows([LONG], mode)
        assert [i for w in reading.windows for i in w.ids] == ids and reading.tokens == len(ids)
        assert all(0 < w.tokens <= reading.room == 14 for w in reading.windows)
        cond = TEXT.read([LONG], mode)
        seen = Counter(i for w in reading.windows for i in w.ids)
        assert seen == Counter(ids) and int(cond.mask.sum()) == len(ids) + 2 * len(reading.windows)
        assert cond.tokens.shape == (1, 16 * len(reading.windows), 24)
    # with weights and BREAKs all over, what the segments hold is what the windows hold
    weighted = LONG.replace("red", "(red:1.3)").replace("green", "[green]").replace("thing number 7", "BREAK thing number 7")
    (reading,) = TEXT.windows([weighted], "a1111")
    expected = [i for section in parse(weighted) for s in section for i in TEXT.tokenizer.encode(s.text)]
    assert [i for w in reading.windows for i in w.ids] == expected and len(expected) == len(ids)
    pieces = [(TEXT.tokenizer.tokens[i], weight) for w in reading.windows for i, weight in zip(w.ids, w.weights, strict=True)]
    assert {w for t, w in pieces if t == "red</w>"} == {1.3} and {w for t, w in pieces if t == "green</w>"} == {1 / 1.1}
    assert {w for t, w in pieces if t not in ("red</w>", "green</w>")} == {1.0}


def test_windows_end_at_punctuation_and_break_begins_one():
    (reading,) = CAUSAL.windows(["a red apple on the table, a blue ball over there, a green tree BREAK (a dog:1.2) and cats"])
    assert [[p.text for p in w.pieces] for w in reading.windows] == [
        ["a red apple on the table , a blue ball over there ,"],
        ["a green tree"],
        ["a dog", "and cats"],
    ]
    assert [p.weight for p in reading.windows[2].pieces] == [1.2, 1.0] and reading.windows[2].weights == (1.2, 1.2, 1.0, 1.0)
    assert reading.tokens == 20 and [w.tokens for w in reading.windows] == [13, 3, 4]
    (published,) = [windows(TEXT.tokenizer, ("x " * 55 + ", ") + "y " * 40, "a1111", 77)]
    assert [w.tokens for w in published.windows] == [56, 40]  # A1111 looks back 20 tokens of 75
    (published,) = [windows(TEXT.tokenizer, ("x " * 54 + ", ") + "y " * 40, "a1111", 77)]
    assert [w.tokens for w in published.windows] == [75, 20]
    counts = {"": [0], "BREAK": [0], "BREAK a": [0, 1], "a BREAK": [1], "a BREAK BREAK b": [1, 0, 1]}
    for prompt, expected in counts.items():
        assert [w.tokens for w in CAUSAL.windows([prompt])[0].windows] == expected, prompt


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", [TEXT, CAUSAL], ids=["both ways", "causal"])
def test_plain_prompts_are_untouched_bit_for_bit(text, mode):
    plain = ["", "two cats", "a red apple, on a blue background", "it's 42 o'clock!"]
    batch = text.read([*plain, LONG], mode)
    for row, prompt in enumerate([*plain, LONG]):
        alone = text.read([prompt], mode)
        n = alone.tokens.shape[1]
        assert torch.equal(batch.tokens[row, :n], alone.tokens[0]) and torch.equal(batch.vector[row], alone.vector[0])
        assert torch.equal(batch.mask[row, :n], alone.mask[0]) and not batch.mask[row, n:].any()
        whole = text(text.tokenize([prompt]))
        if prompt != LONG:
            assert all(torch.equal(a, b) for a, b in zip(alone[:3], whole[:3], strict=True))
        else:  # the same windows, encoded one by one
            assert torch.equal(alone.mask, whole.mask)
            torch.testing.assert_close(alone.tokens, whole.tokens)
            torch.testing.assert_close(alone.vector, whole.vector)


@pytest.mark.parametrize("mode", MODES)
def test_weighted_prompts_are_the_same_alone_and_in_a_batch(mode):
    prompts = ["a (red:1.4) apple", "a [red] apple BREAK (two cats:0.3), more", "a (big cat)0.5 or dog++ and birds-", ""]
    both = CAUSAL.read(prompts, mode)
    for row, prompt in enumerate(prompts):
        alone = CAUSAL.read([prompt], mode)
        n = alone.tokens.shape[1]
        assert torch.equal(both.tokens[row, :n], alone.tokens[0]) and torch.equal(both.vector[row], alone.vector[0])
    positive, negative = CAUSAL.read([LONG], mode), CAUSAL.read(["blurry"], mode)
    pair = Cond.cat([positive, negative])  # as guidance lays its branches side by side
    assert pair.tokens.shape[:2] == (2, positive.tokens.shape[1]) and int(pair.mask[1].sum()) == int(negative.mask.sum())


@pytest.mark.parametrize("text", [TEXT, CAUSAL], ids=["both ways", "causal"])
def test_a1111_multiplies_and_restores_the_mean(text):
    a, red, apple = text.tokenizer.encode("a red apple")
    z = states(text, a, red, apple)
    cond = text.read(["a (red:1.4) apple"], "a1111")
    w = torch.ones(16, 1)
    w[2] = 1.4
    over = slice(None) if text.spec.causal else slice(0, 5)
    expected = z * w * (z[over].mean() / (z * w)[over].mean())
    torch.testing.assert_close(cond.tokens[0], expected)
    torch.testing.assert_close(cond.tokens[0][over].mean(), z[over].mean())
    plain = text(text.tokenize(["a red apple"]))
    assert torch.equal(cond.vector, plain.vector) and torch.equal(cond.mask, plain.mask)


def test_a1111_leaves_a_mean_that_is_noise_alone():
    torch.manual_seed(0)
    fresh = SMALL.build().eval()  # every state's mean is 0 up to rounding
    z = states(fresh, *fresh.tokenizer.encode("a red apple")).detach()
    assert abs(float(z.mean())) < 1e-6
    scale = fresh.read(["a (red:1.4) apple"], "a1111").tokens[0].detach() / z
    assert float(scale.amax()) < 1.4**2 + 1e-5 and float(scale.amin()) > 1 / 1.4 - 1e-5
    agree = torch.ones(1, 4, 3)
    w = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    over = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(a1111(agree, w, over), agree * w[..., None] * 4 / 5)
    cancel = torch.tensor([1.0, -0.5, 0.0, 0.0])[None, :, None].expand(1, 4, 3)  # w z sums to 0
    torch.testing.assert_close(a1111(cancel, w, over), cancel * w[..., None])


def test_comfy_goes_from_the_empty_prompt():
    ids = CAUSAL.tokenizer.encode("a red apple")
    z, e = states(CAUSAL, *ids), states(CAUSAL)
    for weight in (1.4, 0.5, 0.0, -1.0):
        got = CAUSAL.read([f"a (red:{weight}) apple"], "comfy").tokens[0]
        expected = z.clone()
        expected[2] = e[2] + weight * (z[2] - e[2])
        torch.testing.assert_close(got, expected)
        assert torch.equal(got[[0, 1, 3, 4]], z[[0, 1, 3, 4]])
    assert torch.equal(CAUSAL.read(["(red:0)"], "comfy").tokens[0, 1], e[1])


def test_compel_moves_away_above_one_and_blends_below():
    a, big, cat, dog = CAUSAL.tokenizer.encode("a big cat dog")
    z, e = states(CAUSAL, a, big, cat, dog), states(CAUSAL)

    def away(z, *weights):
        w = torch.tensor([1.0, *weights] + [1.0] * (15 - len(weights)))[:, None]
        return e + w * (z - e)

    got = CAUSAL.read(["a (big cat)1.3 dog"], "compel").tokens[0]
    torch.testing.assert_close(got, away(z, 1, 1.3, 1.3))
    hidden = torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, 2:4] = True
    without = states(CAUSAL, a, big, cat, dog, hidden=hidden)
    half = CAUSAL.read(["a (big cat)0.5 dog"], "compel").tokens[0]
    torch.testing.assert_close(half, (away(z, 1, 0.5, 0.5) + away(without, 1, 0.5, 0.5)) / 2)
    # two segments, one of them in another window: the shares are those of the whole prompt
    got = CAUSAL.read(["a (big cat)0.5 dog BREAK (a)0.8 dog"], "compel").tokens[0]
    t = math.tan(0.2 * math.pi / 2)
    y, y1 = away(z, 1, 0.5, 0.5), away(without, 1, 0.5, 0.5)
    torch.testing.assert_close(got[:16], (y + y1 + t * y) / (2 + t))
    none = CAUSAL.read(["a (big cat)0 dog"], "compel").tokens[0]
    torch.testing.assert_close(none, away(without, 1, 0, 0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", [TEXT, CAUSAL], ids=["both ways", "causal"])
def test_a_hidden_token_is_seen_by_none(text):
    one = text.tokenizer.encode("a big cat")
    other = [one[0], text.tokenizer.encode("apple")[0], one[2]]
    hidden = torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, 2] = True
    mine, theirs = states(text, *one, hidden=hidden), states(text, *other, hidden=hidden)
    rest = [0, 1, 3, 4]
    assert torch.equal(mine[rest], theirs[rest])
    assert not torch.allclose(states(text, *one)[3], states(text, *other)[3])
    nothing = states(text, *one, hidden=torch.zeros(1, 16, dtype=torch.bool))
    torch.testing.assert_close(nothing[:5], states(text, *one)[:5])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.125, 2.0, width=32), min_size=4, max_size=4))
def test_the_functions_agree_where_they_must(weights):
    z, e = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0)) + 1, torch.zeros(1, 4, 5)
    w = torch.tensor([weights])
    torch.testing.assert_close(comfy(z, w, e), z * w[..., None])
    assert torch.equal(compel(z, w, e, ()), comfy(z, w, e))
    torch.testing.assert_close(compel(z, w, e, [(1.0, -z)]), comfy(z, w, e))
    ones = torch.ones(1, 4)
    assert torch.equal(a1111(z, ones, ones > 0), z) and torch.equal(comfy(z, ones, e), z)


def test_weights_reach_only_encoders_of_words():
    label = LabelSpec(names=("bag", "boot"), width=4).build()
    for mode in MODES:
        assert torch.equal(label.read(["boot"], mode).vector, label(label.tokenize(["boot"])).vector)
    with pytest.raises(SpecError, match="no mode 'automatic'"):
        CAUSAL.read(["a cat"], "automatic")
    with pytest.raises(SpecError, match=r"\.blend"):
        CAUSAL.read(['("a", "b").blend()'], "compel")
    torch.testing.assert_close(
        CAUSAL.read(["(a cat:1.5)"], "none").tokens, CAUSAL(CAUSAL.tokenize(["(a cat:1.5)"])).tokens, rtol=0, atol=0
    )


def test_a_learned_name_is_shown_where_it_stands():
    encoder = SMALL.build()
    encoder.tokenizer.extra = {"<toy>": (7000, 7001)}
    prompt = "a (<toy>:1.2) cat"
    found = tokens(encoder, prompt)
    assert [(t.id, prompt[t.start : t.end]) for t in found][1:3] == [(7000, "<toy>"), (7001, "<toy>")]
    assert [t.weight for t in found] == [1.0, 1.2, 1.2, 1.0] and prompt[found[3].start : found[3].end] == "cat"
    assert SMALL.build().tokenizer.extra == {}
