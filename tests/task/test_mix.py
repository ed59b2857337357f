"""Mix: exact sums of embeddings, one word changed and nothing else, and captions found again from their own embedding."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets
from safelight.data.composed import REDUCED, ScenesSource
from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.nouns import article, indefinite, plural
from safelight.data.scenes.seek import A, Grammar, seek
from safelight.data.scenes.splits import Split
from safelight.data.scenes.words import BACKGROUNDS, NUMBERS, PREFIXES, SINGLE, WHITE
from safelight.model import Model, locate
from safelight.shared import Gap, Shared, gap, measure
from safelight.spec import SpecError, describe
from safelight.spec import parse as parse_spec
from safelight.task import Request
from safelight.task.mix import Mix
from safelight.text.arithmetic import parse, terms
from safelight.text.base import TextEncoder
from safelight.text.blend import Blend, blend, places
from safelight.text.joint import load
from tests import small
from tests.task import toys, worded
from tests.task.paired import FEW, knowing, pair


@pytest.fixture(scope="module")
def model() -> Model:
    return worded.words()


@pytest.fixture
def encoder(model: Model) -> TextEncoder:
    assert model.text is not None
    return model.text


def total(encoder: TextEncoder, expression: str, **options: Any) -> Blend:
    with torch.no_grad():
        return blend(encoder, terms(parse(expression)), **options)


def same(a: Blend, b: Blend) -> bool:
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a.cond, b.cond, strict=True))  # type: ignore[arg-type]


# ---- in an encoder's own words


@pytest.mark.parametrize("lengths", [True, False])
def test_what_cancels_leaves_the_very_bits(encoder: TextEncoder, lengths: bool) -> None:
    plain = total(encoder, '"a red cat"', lengths=lengths)
    read = encoder.read(["a red cat"])
    assert plain.cond.tokens is not None and torch.equal(plain.cond.tokens, read.tokens)  # type: ignore[arg-type]
    assert same(total(encoder, '"a red cat" + "a dog" - "a dog"', lengths=lengths), plain)
    assert same(total(encoder, '3 * ("a red cat" - "a dog") + "a dog" * 3 - 2 * "a red cat"', lengths=lengths), plain)


def test_sums_are_exact_and_places_that_do_not_count_add_nothing(encoder: TextEncoder) -> None:
    """The second text takes two windows of 8, the first one: beyond its end it adds nothing."""
    short, long = "a cat", "one two three four five six seven eight"
    a, b = (encoder.read([text]) for text in (short, long))
    assert a.tokens is not None and a.mask is not None and b.tokens is not None and b.mask is not None
    found = total(encoder, f'2 * "{short}" - 0.5 * "{long}"', lengths=False).cond
    n, m = a.tokens.shape[1], b.tokens.shape[1]
    assert m > n and found.tokens is not None and found.mask is not None
    pad = (0, 0, 0, m - n)
    zeroed = torch.nn.functional.pad(torch.where(a.mask[..., None], a.tokens, 0), pad)
    expected = 2 * zeroed - 0.5 * torch.where(b.mask[..., None], b.tokens, 0)
    torch.testing.assert_close(found.tokens, expected)
    assert torch.equal(found.mask, torch.nn.functional.pad(a.mask, (0, m - n)) | b.mask)
    torch.testing.assert_close(found.vector, 2 * a.vector - 0.5 * b.vector)  # type: ignore[operator]


def test_lengths_are_the_mean_of_the_terms(encoder: TextEncoder) -> None:
    free, kept = (total(encoder, '"a cat" + 3 * "a dog"', lengths=lengths) for lengths in (False, True))
    a, b = (v.vector.norm() for v in kept.values)
    torch.testing.assert_close(kept.vector.norm(), (a + 3 * b) / 4)
    torch.testing.assert_close(kept.vector / kept.vector.norm(), free.vector / free.vector.norm())
    assert kept.cond.tokens is not None and free.cond.tokens is not None and kept.cond.mask is not None
    each = torch.stack([encoder.read([t]).tokens[0].norm(dim=-1) for t in ("a cat", "a dog")])  # type: ignore[index]
    there = kept.cond.mask[0]
    torch.testing.assert_close(kept.cond.tokens[0].norm(dim=-1)[there], ((each[0] + 3 * each[1]) / 4)[there])


def test_a_sum_of_nothing_much_is_not_blown_up(encoder: TextEncoder) -> None:
    """Two texts that are one to the tokenizer differ by nothing: the length that is missing is not invented from rounding."""
    found = total(encoder, '"a cat" - "A  cat"')
    assert found.vector.norm() < 1e-5


@pytest.mark.parametrize("lengths", [True, False])
def test_one_word_changes_that_words_state_alone(encoder: TextEncoder, lengths: bool) -> None:
    text = "a red cat"
    ground, (red,) = encoder.read([text]), places(encoder, text, "red")
    assert ground.tokens is not None and ground.mask is not None
    found = total(encoder, f'"{text}"[red] - "red" + "blue"', lengths=lengths).cond
    assert found.tokens is not None
    changed = (found.tokens != ground.tokens).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [red] == [2]  # begin, a, red
    assert torch.equal(found.mask, ground.mask) and torch.equal(found.vector, ground.vector)  # type: ignore[arg-type]
    states = [encoder.read([w]).tokens[0, places(encoder, w, w)].mean(0) for w in ("red", "blue")]  # type: ignore[index]
    expected = ground.tokens[0, red] - states[0] + states[1]
    if lengths:
        goal = (ground.tokens[0, red].norm() + states[0].norm() + states[1].norm()) / 3
        expected = expected / expected.norm() * goal
    torch.testing.assert_close(found.tokens[0, red], expected)


def test_a_word_put_in_a_words_place(encoder: TextEncoder) -> None:
    """Of another text, as it stands there; the whole word where it is several tokens."""
    a, b = encoder.read(["a red cat"]), encoder.read(["blue dog"])
    assert a.tokens is not None and b.tokens is not None
    found = total(encoder, '"a red cat"[red] - "a red cat"[red] + 0 * "x" + "a red cat"[#2]').cond  # [#2] is [red] itself
    assert torch.equal(found.tokens, a.tokens)  # type: ignore[arg-type]
    put = total(encoder, '1e-30 * "a red cat"[red] + "blue dog"[blue]').cond
    assert put.tokens is not None
    torch.testing.assert_close(put.tokens[0, 2], b.tokens[0, 1])
    word = "xyzzy"
    at = places(encoder, f"a {word} b", word)
    assert len(at) > 1 and at == list(range(2, 2 + len(at)))


def test_words_that_are_not_there(encoder: TextEncoder) -> None:
    with pytest.raises(SpecError, match="'rde' is no word of 'a red cat'; did you mean 'red'"):
        places(encoder, "a red cat", "rde")
    with pytest.raises(SpecError, match="'cat' comes 2 times in 'cat or cat': choose a token .#1 cat, #2 or, #3 cat."):
        places(encoder, "cat or cat", "cat")
    assert places(encoder, "cat or cat", "#3") == [3]
    with pytest.raises(SpecError, match="'a cat' has 2 tokens, none is #3"):
        places(encoder, "a cat", "#3")
    labels = small.spec("flow", labelled=True).build().text
    assert labels is not None
    with pytest.raises(SpecError, match="reads labels, which have no words to choose"):
        total(labels, '"shirt"[shirt]')


def test_a_word_beyond_the_first_window(encoder: TextEncoder) -> None:
    """Windows of 8: six words, then the seventh lies behind the second window's begin."""
    text = "one two three four five six red"
    assert places(encoder, text, "red") == [9]
    assert places(encoder, "(one:1.2) two three BREAK red", "red", "a1111") == [9]


# ---- as a task


def test_a_mix_of_one_text_is_that_text(model: Model) -> None:
    """Guided, in a batch, with a negative prompt: picture for picture what the text task makes."""
    rest: dict[str, Any] = {"count": 2, "seed": 3, "steps": 3, "mix": {"kind": "cfg", "scale": 3}, "negative": "a dog"}
    mixed = toys.finished(model, Request(task=Mix(expression='"a cat" + "b" - "b"'), **rest))
    assert torch.equal(mixed, toys.finished(model, Request(prompt=("a cat",), **rest)))
    other = toys.finished(model, Request(task=Mix(expression='"a cat" + "b" - 0.5 * "b"'), **rest))
    assert not torch.allclose(mixed, other)


def test_classes_are_mixed_as_words_are() -> None:
    """Halves of two classes are the class "bag", which is either with equal odds: the exact denoiser makes the same pictures."""
    made = worded.two()
    rest: dict[str, Any] = {"count": 4, "steps": 20, "mix": "none"}
    half = toys.finished(made, Request(task=Mix(expression='0.5 * "shirt" + 0.5 * "shoe"', lengths=False), **rest))
    assert torch.equal(half, toys.finished(made, Request(prompt=("bag",), **rest)))
    whole = toys.finished(made, Request(task=Mix(expression='"bag" + 0.5 * "shirt" - 0.5 * "shoe"', lengths=False), **rest))
    assert worded.classes(made, whole) == [0, 0, 0, 0]


def test_what_a_model_of_labels_is_near_to() -> None:
    made = worded.two()
    report = Mix(expression='"shirt" + 0.25 * "shoe"', lengths=False).report(made, Assets(), k=2)
    assert [near.what for near in report.captions] == ["shirt", "bag"]
    assert report.length == pytest.approx((1 + 1 / 16) ** 0.5) and report.rows[1].length == pytest.approx(1)
    assert report.rows[0].cosine == pytest.approx(1 / (1 + 1 / 16) ** 0.5)
    assert (report.space, report.gap, report.state) == ("words of the model", None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expression": '"a" +'}, "character 6: a text in quotes"),
        ({"expression": 'a.png + "b"'}, "'a.png' is a picture: name a joint model"),
        ({"expression": '"a b"[a]', "joint": "x"}, "chooses a word, but a joint model sees texts as a whole"),
        ({"expression": '"a"', "captions": ["b"]}, "captions are chosen among in a joint model's space"),
        ({"expression": '"a"', "strength": 0.5}, "begins from a picture of the expression, and it adds none"),
        ({"expression": '"a" - b.png', "joint": "x", "strength": 0.5}, "it adds none"),
    ],
)
def test_what_cannot_be_mixed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec({"kind": "mix", **fields}, "task")


def test_what_a_model_cannot_follow(model: Model) -> None:
    with pytest.raises(SpecError, match='add "a dog" to it, not as a prompt'):
        toys.finished(model, Request(task=Mix(expression='"a cat"'), prompt=("a dog",)))
    with pytest.raises(SpecError, match="unconditional, it has no words to add"):
        toys.finished(toys.model(), Request(task=Mix(expression='"a cat"'), mix="none"))  # type: ignore[arg-type]
    assets = Assets()
    assets._joints["toy"] = pair()
    with pytest.raises(SpecError, match="sha256:00 is not at hand"):
        toys.finished(model, Request(task=Mix(expression='sha256:00 + "a"', joint="toy", captions=("a",))), assets=assets)


# ---- in a joint model's space


def test_the_grammar_is_that_of_drawn_captions() -> None:
    """Every drawn caption is, word for word, that of its row of choices; every choice is drawn; and no other row is ill-formed."""
    composer = Composer(FEW.pack())
    grammar = Grammar(composer.pack)
    phrases = Phrases(composer.pack.nouns)
    scenes = composer.draw(0, 0, 20_000, Split.ALL)
    rows = chosen(scenes)
    assert grammar.captions(grammar.sound(rows)) == phrases.captions(scenes)
    for column, values in zip(rows.T, grammar.choices, strict=True):
        assert column.unique().tolist() == values.tolist()
    any_rows = torch.stack([c[torch.randint(len(c), (60_000,))] for c in grammar.choices], 1)
    words = {word for caption in phrases.captions(scenes) for word in caption.replace(",", "").split()}
    for caption in grammar.captions(grammar.sound(any_rows)):
        assert not re.search(r"\b(a|an) (a|an)\b|  | ,|^ | $|\ba [aeio]|\ban [^aeiou]", caption), caption
        assert set(caption.replace(",", "").split()) <= words


def chosen(scenes: Scenes) -> Tensor:
    """int64 (B, 8) the choices of `Grammar` that scenes are said by."""
    prefix, other_a, other_b, size, corner, relation, ground, style = scenes.words[:, :8].unbind(1)
    plain, sizes, corners, numbers = torch.zeros_like(prefix), 1, 5, 13
    form = torch.where(scenes.size >= 0, sizes + 2 * scenes.size + size, plain)
    form = torch.where(scenes.corner >= 0, corners + 2 * scenes.corner + corner, form)
    form = torch.where(scenes.number > 1, numbers + scenes.number - 2, form)
    form = torch.where(scenes.relation >= 0, numbers + 3 + 2 * scenes.relation + relation, form)
    a, b = scenes.concept.clamp(min=0).unbind(1)
    said_ground = torch.where(ground > 0, 2 * scenes.background + ground, 0)
    said_style = torch.where(style > 0, 2 * scenes.style + style, 0)
    return torch.stack(
        [form, 2 * a + other_a, 2 * b + other_b, *(scenes.colour + 1).unbind(1), prefix, said_ground, said_style], 1
    )


def test_a_caption_is_found_again_from_its_own_embedding() -> None:
    """In a space without sense, where only the caption itself has cosine 1: of 28 drawn captions, in all their wordings, all."""
    joint = knowing()
    shared, composer = Shared(joint), Composer(FEW.pack())
    captions = Phrases(composer.pack.nouns).captions(composer.draw(4, 0, 28, Split.ALL))
    found = [shared.captions(shared.texts([c])[0], 1)[0] for c in captions]
    assert [f.caption for f in found] == captions
    assert min(f.score for f in found) > 0.9999


def test_seek_asks_for_nothing_twice_and_ends_at_a_summit() -> None:
    asked: list[str] = []
    pack = FEW.pack()

    def score(captions: Any) -> Tensor:
        asked.extend(captions)
        return torch.tensor([-float(abs(len(c) - 60)) - c.count("z") for c in captions])

    best = seek(pack, score, 3)
    assert len(asked) == len(set(asked)) and best[0].score == max(-abs(len(c) - 60) - c.count("z") for c in asked) == 0
    assert [f.score for f in best] == sorted((f.score for f in best), reverse=True)
    grammar = Grammar(pack)
    swapped = grammar.neighbours(grammar.seeds()[:1])
    assert {int(a) for a in swapped[:, A]} == set(range(8))


def test_the_gap_is_what_it_says() -> None:
    """Of a model that tells it, told; of one that knows scenes, the means over them; of another, none."""
    joint = knowing()
    told = gap(joint)
    assert told.pairs == 9 and told.distance == pytest.approx(float((told.text - told.picture).norm()))
    assert gap(pair()).pairs == 0 and not gap(pair()).text.any()
    spec = joint.spec.model_copy(update={"channels": 3, "size": (32, 32)})
    torch.manual_seed(1)
    scenic = spec.build().eval()
    source = ScenesSource(vocabulary=FEW, size=32)
    scenic.lineage = {"scenes": describe(source)}
    found = measure(scenic, 64)
    composer = source.composer(torch.device("cpu"))
    drawn = composer.draw(0, 0, 64, source.split)
    torch.testing.assert_close(found.picture, scenic.pictures(composer.render(drawn)).mean(0))
    torch.testing.assert_close(found.text, scenic.texts(Phrases(composer.pack.nouns).captions(drawn)).mean(0))
    again = Gap(*(torch.tensor(v) if isinstance(v, list) else v for v in found.json().values()))
    torch.testing.assert_close(again.text, found.text)


def test_pictures_and_texts_are_summed_from_their_own_means(model: Model) -> None:
    joint, assets = knowing(), Assets()
    assets._joints["toy"] = joint
    picture = toys.noise((1, 8, 8))
    seal = assets.add(picture)
    other = assets.add(toys.noise((1, 8, 8), seed=1))
    mix = Mix(expression=f'{seal} - 2 * "a cat" + "a dog"', joint="toy", captions=("a dog", "a cat", "a star"))
    report = mix.report(model, assets, k=2, among=[other, seal])
    centre = gap(joint)
    parts = [joint.pictures(picture[None])[0] - centre.picture, *(joint.texts(["a cat", "a dog"]) - centre.text)]
    expected = parts[0] - 2 * parts[1] + parts[2]
    assert report.length == pytest.approx(float(expected.norm()), rel=1e-5)
    assert [r.length for r in report.rows] == pytest.approx([float(p.norm()) for p in parts], rel=1e-5)
    cosines = torch.cosine_similarity(torch.stack(parts), expected[None])
    assert [r.cosine for r in report.rows] == pytest.approx(cosines.tolist(), abs=1e-5)
    words = torch.cosine_similarity(joint.texts(mix.captions) - centre.text, expected[None]).tolist()
    best = sorted(zip(words, mix.captions, strict=True), reverse=True)[:2]
    assert [n.what for n in report.captions] == [c for _, c in best] and report.gap == pytest.approx(centre.distance)
    assert {n.what for n in report.pictures} == {seal, other} and report.pictures[0].cosine >= report.pictures[1].cosine
    assert mix.inputs == (seal,)


def test_what_is_found_is_what_is_painted(model: Model) -> None:
    """The nearest caption goes to the generator as its prompt; from a picture, at a strength, as the image task does."""
    assets = Assets()
    assets._joints["toy"] = knowing()
    seal = assets.add(toys.noise((1, 8, 8)))
    rest: dict[str, Any] = {"count": 2, "steps": 4}
    task = Mix(expression='"a cat on a red background" - "a cat" + "a dog"', joint="toy")
    caption = task.report(model, assets).caption
    assert torch.equal(
        toys.finished(model, Request(task=task, **rest), assets=assets),
        toys.finished(model, Request(prompt=(caption,), **rest)),
    )
    start = Mix(expression=f'{seal} + "a dog"', joint="toy", captions=("a dog", "a cat"), strength=0.5)
    caption = start.report(model, assets).caption
    edit: Any = {"kind": "image", "picture": seal, "strength": 0.5}
    pictures = toys.finished(model, Request(task=start, **rest), assets=assets)
    assert torch.equal(pictures, toys.finished(model, Request(task=edit, prompt=(caption,), **rest), assets=assets))
    still = toys.finished(model, Request(task=start.model_copy(update={"strength": 0.0}), **rest), assets=assets)
    torch.testing.assert_close(still[0], assets.picture(seal) / 127.5 - 1)


def test_a_joint_model_of_other_data_needs_captions(model: Model) -> None:
    assets = Assets()
    assets._joints["toy"] = pair()
    with pytest.raises(SpecError, match="give captions to choose from"):
        Mix(expression='"a" + "b"', joint="toy").report(model, assets)
    report = Mix(expression='"a" + "b"', joint="toy", captions=("a", "b", "c")).report(model, assets)
    assert {near.what for near in report.captions[:2]} == {"a", "b"} and report.gap is None


class Remembering(Shared):
    """Embeds few texts twice: every search begins with the same ones."""

    def __init__(self) -> None:
        super().__init__(load(locate("sprites-clip")))
        self.known: dict[str, Tensor] = {}

    def texts(self, prompts: Sequence[str]) -> Tensor:
        if len(self.known) > 50_000:
            self.known.clear()
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        if fresh:
            self.known.update(zip(fresh, super().texts(fresh), strict=True))
        return torch.stack([self.known[prompt] for prompt in prompts])


class Sum(NamedTuple):
    """An expression in terms of texts, with a picture before them or none, and what it ought to come to."""

    picture: Tensor | None
    terms: tuple[tuple[int, str], ...]
    thing: int
    ground: int
    number: int = 1


class Sums:
    """Sums over the pack that the shipped joint model knows: what is exchanged follows from a seed."""

    def __init__(self) -> None:
        self.shared = Remembering()
        self.composer = ScenesSource(vocabulary=REDUCED).composer(torch.device("cpu"))
        self.nouns = self.composer.pack.nouns
        self.grammar = Grammar(self.composer.pack)
        self.grounds = tuple(BACKGROUNDS)

    def said(self, thing: int, ground: int | None = None, number: int = 1) -> str:
        noun = self.nouns[thing]
        what = indefinite(noun.phrase) if number == 1 else f"{NUMBERS[number - 2]} {plural(noun.phrase)}"
        return what if ground is None else f"{what} on {self.behind(ground)}"

    def behind(self, ground: int) -> str:
        return f"{article(self.grounds[ground])} {self.grounds[ground]} background"

    def seen(self, split: Split, count: int, thing: int | None = None) -> Iterator[tuple[Tensor, int, int]]:
        """Pictures of one plain thing as embeddings, with what they show and on what ground."""
        scenes = self.composer.draw(1, 0, 60 * count if thing is None else 150 * count, split)
        plain = (scenes.template == SINGLE) & scenes.valid
        if thing is not None:
            plain &= scenes.concept[:, 0] == thing
        scenes = scenes.rows(plain.nonzero()[:count, 0])
        things, grounds = scenes.concept[:, 0].tolist(), scenes.background.tolist()
        yield from zip(self.shared.pictures(self.composer.render(scenes)), things, grounds, strict=True)

    def meant(self, found: str, of: Sum) -> bool:
        """Does the caption say the thing, its number and the ground?"""
        noun, number = self.nouns[of.thing], [] if of.number == 1 else [NUMBERS[of.number - 2]]
        names = [plural(name) if number else name for name in (noun.phrase, noun.alias)]
        ground = f" {self.grounds[of.ground]} background" in found or (of.ground == WHITE and "background" not in found)
        said = any(re.search(rf"\b{re.escape(name)}\b", found) for name in names)
        return ground and said and [word for word in found.split() if word in NUMBERS] == number

    def only(self, found: str, of: Sum) -> bool:
        """Does it say, in whatever words, that and nothing else but a style?"""
        grounds = [1 + 2 * of.ground, 2 + 2 * of.ground, *([0] if of.ground == WHITE else [])]
        form = 0 if of.number == 1 else 13 + of.number - 2  # behind sizes and corners
        rows = [
            (form, 2 * of.thing + name, 0, 0, 0, prefix, ground, style)
            for name in (0, 1)
            for prefix in range(len(PREFIXES))
            for ground in grounds
            for style in self.grammar.styles.tolist()
        ]
        return found in self.grammar.captions(torch.tensor(rows))

    def count(self, sums: Iterable[Sum]) -> tuple[int, int, int]:
        """How many say what is meant, how many only that, of how many."""
        rights = []
        for each in sums:
            words = torch.tensor([float(w) for w, _ in each.terms]) @ self.shared.texts([text for _, text in each.terms])
            found = self.shared.captions(words if each.picture is None else each.picture + words, 1)[0].caption
            rights.append((self.meant(found, each), self.only(found, each)))
        meant, only = zip(*rights, strict=True)
        return sum(meant), sum(only), len(rights)

    def things(self, count: int) -> Iterator[Sum]:
        """A cat on a red background - a cat + a dog."""
        rng = random.Random(0)
        for _ in range(count):
            (a, b), ground = rng.sample(range(len(self.nouns)), 2), rng.randrange(len(self.grounds))
            yield Sum(None, ((1, self.said(a, ground)), (-1, self.said(a)), (1, self.said(b))), b, ground)

    def numbers(self, count: int) -> Iterator[Sum]:
        """Three cats on a red background - three cats + three dogs."""
        rng = random.Random(0)
        for _ in range(count):
            (a, b), ground, n = rng.sample(range(len(self.nouns)), 2), rng.randrange(len(self.grounds)), rng.randrange(2, 5)
            yield Sum(
                None, ((1, self.said(a, ground, n)), (-1, self.said(a, None, n)), (1, self.said(b, None, n))), b, ground, n
            )

    def cats(self, count: int) -> Iterator[Sum]:
        """A picture of a cat - a cat + a dog."""
        names = [noun.concept for noun in self.nouns]
        cat, dog = names.index("cat"), names.index("dog")
        for picture, _, ground in self.seen(Split.TEXT, count, cat):
            yield Sum(picture, ((-1, self.said(cat)), (1, self.said(dog))), dog, ground)

    def pictures(self, count: int, split: Split = Split.TEXT) -> Iterator[Sum]:
        """A picture of anything - its name + another thing's."""
        rng = random.Random(0)
        for picture, a, ground in self.seen(split, count):
            b = (a + rng.randrange(1, len(self.nouns))) % len(self.nouns)
            yield Sum(picture, ((-1, self.said(a)), (1, self.said(b))), b, ground)

    def behinds(self, count: int, whole: bool = True) -> Iterator[Sum]:
        """A picture of a cat - a cat on a red background + a cat on a blue background; not `whole`: without the cats."""
        rng = random.Random(0)
        for picture, a, old in self.seen(Split.TEXT, count):
            new = (old + rng.randrange(1, len(self.grounds))) % len(self.grounds)
            less, more = (self.said(a, g) if whole else self.behind(g) for g in (old, new))
            yield Sum(picture, ((-1, less), (1, more)), a, new)


@pytest.fixture(scope="module")
def sums() -> Sums:
    return Sums()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "meant", "only", "of"),
    [
        ("cats", 100, 99, 100),
        ("pictures", 98, 90, 100),
        ("things", 50, 50, 50),
        ("numbers", 39, 37, 40),
        ("behinds", 38, 37, 40),
    ],
)
def test_the_pair_that_ships_does_sums(sums: Sums, kind: str, meant: int, only: int, of: int) -> None:
    """Of so many sums, so many say what is meant, and so many only that: the table of docs/mix.md."""
    found = sums.count(getattr(sums, kind)(of))
    assert found[0] >= meant and found[1] >= only and found[2] == of
