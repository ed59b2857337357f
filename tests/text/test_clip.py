"""The CLIP encoder as a language: what a prompt becomes alone, in a batch, and when it is longer than the window."""

from __future__ import annotations

import pytest
import torch

from safelight.spec import SpecError, build, describe
from safelight.text.clip import CLIPTextSpec

SMALL = CLIPTextSpec(width=24, layers=2, heads=2, length=16)


def encoder(**fields):
    torch.manual_seed(0)
    return SMALL.model_copy(update=fields).build().eval()


def test_the_default_is_the_one_its_docstring_counts():
    text = CLIPTextSpec().build()
    assert sum(p.numel() for p in text.parameters()) == 3_063_744
    cond = text(text.tokenize(["three red apples", ""]))
    assert cond.tokens.shape == (2, 32, 192) and cond.vector.shape == (2, 192)
    assert cond.mask.sum(1).tolist() == [5, 2]


@pytest.mark.parametrize("causal", [True, False])
def test_a_prompt_is_the_same_alone_and_in_a_batch(causal):
    text = encoder(causal=causal, projection=10)
    long = "a red apple, a blue ball, a green tree, a yellow car, a pink pig, a black cat, a white dog, a brown bear"
    both, alone = text(text.tokenize(["two cats", long])), text(text.tokenize(["two cats"]))
    n = alone.tokens.shape[1]
    assert both.tokens.shape[1] > n == 16 and both.vector.shape == (2, 10)
    torch.testing.assert_close(both.tokens[0, :n], alone.tokens[0])
    torch.testing.assert_close(both.vector[0], alone.vector[0])
    assert torch.equal(both.mask[0, :n], alone.mask[0]) and not both.mask[0, n:].any()


def test_windows_are_encoded_one_by_one_and_none_is_dropped():
    text = encoder()
    prompt = ", ".join(["a small red apple on the left"] * 6)
    tokens = text.tokenize([prompt])
    windows = tokens.view(-1, 16)
    cond = text(tokens)
    torch.testing.assert_close(cond.tokens[0].view(len(windows), 16, -1), text.tower(windows)[0])
    torch.testing.assert_close(cond.vector[0], text.tower(windows)[1].mean(0))
    seen = tokens[0][cond.mask[0]]
    words = [i for i in seen.tolist() if i < text.tokenizer.begin]
    assert words == text.tokenizer.encode(prompt)  # what attention may look at is the whole prompt
    assert len(seen) == len(words) + 2 * len(windows)


def test_every_word_of_a_long_prompt_counts():
    text = encoder(causal=False)
    prompt = ", ".join(f"thing {i}" for i in range(30))
    cond = text(text.tokenize([prompt]))
    other = text(text.tokenize([prompt.replace("thing 29", "apple 29")]))
    assert (cond.vector - other.vector).abs().max() > 1e-4


def test_it_comes_back_and_refuses_nonsense():
    text = encoder(quick=True)
    twin = build(describe(text)).eval()
    twin.load_state_dict(text.state_dict())
    tokens = text.tokenize(["a cat"])
    assert torch.equal(twin(tokens).tokens, text(tokens).tokens)
    with pytest.raises(ValueError, match="17 tokens are not windows of 16"):
        text(torch.zeros(1, 17, dtype=torch.int64))
    for fields, message in (
        ({"vocabulary": "nowhere"}, "no vocabulary 'nowhere'"),
        ({"width": 100, "heads": 3}, "3 heads do not divide"),
        ({"skip": 4}, "skipping 4 of 4"),
    ):
        with pytest.raises(SpecError, match=message):
            build({"kind": "clip", **fields}, "text")


def test_stable_diffusions_text_encoder_has_its_published_size():
    # With CLIP's 49,408 ids; here the shipped vocabulary stands in, and the difference is words alone.
    spec = CLIPTextSpec(width=768, layers=12, heads=12, length=77, quick=True)
    with torch.device("meta"):
        text = spec.build()
    words = text.tokenizer.size * 768
    assert sum(p.numel() for p in text.parameters()) - words + 49_408 * 768 == 123_060_480
