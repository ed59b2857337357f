"""Captions say what the scene shows, and the token table gives what the tokenizer would."""

from __future__ import annotations

import re

import pytest
import torch

from safelight.data.scenes.captions import Phrases, TokenTable
from safelight.data.scenes.compose import Composer
from safelight.data.scenes.truth import truths
from safelight.spec import SpecError
from safelight.text.tokens import Tokenizer
from safelight.text.tokens import load as vocabulary

NUMBER = {"two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def phrases(composer: Composer) -> Phrases:
    return Phrases(composer.pack.nouns)


def test_the_grammar_of_many(composer: Composer, phrases: Phrases) -> None:
    for caption in phrases.captions(composer.draw(21, 0, 5000)):
        assert not re.search(r"\ba (?=[aeio])(?!euro|one)", caption), caption
        assert not re.search(r"\ban (?![aeiouX])", caption), caption
        assert "  " not in caption and " ," not in caption and caption == caption.strip()
        assert not re.search(r"\b(a|an) (a|an)\b", caption), caption


def test_captions_say_the_truth(composer: Composer, phrases: Phrases) -> None:
    scenes = composer.draw(22, 0, 3000)
    nouns = {noun.concept: noun for noun in composer.pack.nouns}
    for caption, truth in zip(phrases.captions(scenes), truths(composer, scenes, boxes=False), strict=True):
        said = re.search(r"(?:on|against) an? (\w+) background", caption)
        assert (said.group(1) if said else None) == (truth.background if truth.says_background else None)
        assert truth.says_background or truth.background == "white"
        style = re.search(r"(?:in|,) (noto|twemoji|flat|glossy|blob) style", caption)
        assert (style.group(1) if style else None) == (truth.style if truth.says_style else None)
        count = next((n for word, n in NUMBER.items() if re.search(rf"(^|of ){word} ", caption)), 1)
        assert count == truth.count, caption
        for thing in truth.things:
            noun = nouns[thing.concept]
            assert any(name in caption for name in (noun.phrase, noun.alias, noun.base)) or truth.count > 1
            if thing.colour and thing.colour != noun.colour:
                assert f"{thing.colour} " in caption
        if truth.relation:
            words = {"left": "left of", "right": "right of", "above": "(above|over)", "below": "(below|under)"}
            assert re.search(rf" {words[truth.relation]} an? |{words[truth.relation]} Mount", caption), caption
        if truth.corner:
            vertical, horizontal = truth.corner.split()
            assert re.search(rf"in the ({vertical}|{'upper' if vertical == 'top' else 'lower'}) {horizontal} corner", caption)
        if truth.size:
            assert re.search("a (small|tiny) " if truth.size == "small" else "a (big|large) ", caption)


def test_sentences_by_hand(small: Composer) -> None:
    """One scene turned into every template."""
    phrases, names = Phrases(small.pack.nouns), small.pack.concepts
    scenes = small.draw(0, 0, 1)
    none = torch.full_like(scenes.concept, -1)

    def say(concept: str, second: str | None = None, **fields: int | tuple[int, int]) -> str:
        pair = torch.tensor([[names.index(concept), names.index(second) if second else -1]])
        values = {"relation": -1, "corner": -1, "size": -1, "number": 1, "background": 7, **fields}
        tensors = {name: torch.tensor([value]) for name, value in values.items()}
        words = torch.zeros_like(scenes.words)
        words[:, 6] = 1
        tensors.setdefault("words", words)
        return phrases.captions(scenes._replace(concept=pair, **{"colour": none, **tensors}))[0]

    assert say("red apple", number=3) == "three red apples on a blue background"
    assert say("tangerine", background=4) == "an orange on an orange background"
    assert say("tangerine", colour=(4, -1)) == "a blue tangerine on a blue background"
    assert say("red apple", colour=(3, -1)) == "a green apple on a blue background"
    assert say("automobile", number=2, colour=(1, -1)) == "two orange cars on a blue background"
    assert say("automobile", colour=(1, -1)) == "an orange car on a blue background"
    assert say("umbrella", size=0) == "a small umbrella on a blue background"
    assert say("tennis", corner=2) == "a tennis racket in the bottom left corner on a blue background"
    assert say("octopus", "umbrella", relation=0) == "an octopus to the left of an umbrella on a blue background"
    assert say("cat", "dog", relation=2, colour=(-1, 1)) == "a cat above an orange dog on a blue background"
    assert say("scissors", number=4) == "four pairs of scissors on a blue background"
    said = (1, 0, 0, 0, 0, 0, 0, 2, 0)
    assert say("cat", words=said, style=2, background=0) == "a picture of a cat, flat style"


def letters(text: str) -> list[int]:
    """A toy tokenizer that works word by word: two letters an id; commas are words."""
    words = re.findall(r"\w[\w'-]*|,", text)
    return [1 + hash_ for word in words for hash_ in (sum(map(ord, word[i : i + 2])) for i in range(0, len(word), 2))]


@pytest.mark.parametrize("frame", [(None, None, 0), (900, 901, 902), (900, 901, 901)])
def test_tokens_are_those_of_the_caption(
    composer: Composer, phrases: Phrases, frame: tuple[int | None, int | None, int]
) -> None:
    begin, end, pad = frame
    table = TokenTable.make(phrases, letters, context=96, begin=begin, end=end, pad=pad)
    scenes = composer.draw(23, 0, 1500)
    for row, caption in zip(table.tokens(scenes).tolist(), phrases.captions(scenes), strict=True):
        want = [*([begin] if begin is not None else []), *letters(caption), *([end] if end is not None else [])]
        assert row == want + [pad] * (96 - len(want))


def test_our_own_tokenizer_agrees_and_32_tokens_are_enough(composer: Composer, phrases: Phrases) -> None:
    tokenizer: Tokenizer = vocabulary("clip-vocabulary")
    table = TokenTable.make(phrases, tokenizer.encode, context=32, begin=tokenizer.begin, end=tokenizer.end, pad=tokenizer.end)
    scenes = composer.draw(24, 0, 3000)
    assert torch.equal(table.tokens(scenes), tokenizer(phrases.captions(scenes), 32))


def test_what_does_not_fit_or_join_is_refused(composer: Composer, phrases: Phrases) -> None:
    table = TokenTable.make(phrases, letters, context=8, begin=None, end=None, pad=0)
    with pytest.raises(SpecError, match="and the context is 8: widen it"):
        table.tokens(composer.draw(25, 0, 100))
    with pytest.raises(SpecError, match="does not work word by word"):
        TokenTable.make(phrases, lambda text: list(text.encode()), context=200, begin=None, end=None, pad=0)
