"""What `check` says of 80 prompts and what `fix` makes of them; that what it fixes stays fixed; that good prompts are left alone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.prompt import MODES, check, fix, hints, marks, vocabulary_of, words_of
from safelight.prompt.lint import one
from safelight.prompt.rules import RULES

# prompt, negative prompt, the kinds found, and both after the fix; a prompt that comes out as it went in is for its author to mend.
CORPUS = [
    ("three red apples on a blue background", "", "", "three red apples on a blue background", ""),
    ("a small unicorn on an orange background", "", "", "a small unicorn on an orange background", ""),
    (
        "a teapot to the left of a red car on a gray background, glossy style",
        "",
        "",
        "a teapot to the left of a red car on a gray background, glossy style",
        "",
    ),
    ("an icon of a cat in the top left corner", "", "", "an icon of a cat in the top left corner", ""),
    (
        "a portrait of an old sailor, in a harbor, leaning, overcast light, 85mm lens, oil painting",
        "",
        "",
        "a portrait of an old sailor, in a harbor, leaning, overcast light, 85mm lens, oil painting",
        "",
    ),
    ("a no entry sign on a wall", "", "", "a no entry sign on a wall", ""),
    ("a frying pan on a stove", "", "", "a frying pan on a stove", ""),
    ('a sign that says "no dogs"', "", "", 'a sign that says "no dogs"', ""),
    ("paint splashes on canvas", "", "", "paint splashes on canvas", ""),
    ("a sugar-free soda can", "", "", "a sugar-free soda can", ""),
    ("a red apple, blurry background", "blurry, text", "", "a red apple, blurry background", "blurry, text"),
    ("a black and white cat, colorful background", "", "", "a black and white cat, colorful background", ""),
    ("a white cat (sleeping:1.2), soft light", "", "", "a white cat (sleeping:1.2), soft light", ""),
    ("show jumping horse", "", "", "show jumping horse", ""),
    ("", "", "", "", ""),
    ("two cats BREAK two dogs", "", "", "two cats BREAK two dogs", ""),
    ("a bridge not far from the sea", "", "", "a bridge not far from the sea", ""),
    ("Bora Bora at sunset", "", "", "Bora Bora at sunset", ""),
    ("please draw me a cat", "", "caption", "a cat", ""),
    ("Can you paint a house in the snow?", "", "caption", "a house in the snow", ""),
    ("Create an image of a dragon", "", "caption", "an image of a dragon", ""),
    ("I want a picture of a dog, thank you!", "", "caption", "a picture of a dog", ""),
    ("what does a unicorn look like?", "", "caption", "a unicorn", ""),
    ("how about a blue teapot?", "", "caption", "a blue teapot", ""),
    ("a cat?", "", "caption", "a cat", ""),
    ("is this a cat?", "", "caption", "is this a cat?", ""),
    ("add a hat", "", "caption", "add a hat", ""),
    ("you are an artist, a dog", "", "caption", "you are an artist, a dog", ""),
    ("Imagine a city on the moon", "", "caption", "a city on the moon", ""),
    ("a red car please", "", "caption", "a red car", ""),
    ("I'd like you to generate the tallest tower", "", "caption", "the tallest tower", ""),
    ("a street without cars at night", "", "negation", "a street at night", "cars"),
    ("a girl with no hat, smiling", "", "negation", "a girl, smiling", "hat"),
    ("a man not wearing a hat", "", "negation", "a man", "hat"),
    ("don't show text", "", "negation", "", "text"),
    ("a house, no text, watermark, or logo", "", "negation", "a house", "text, watermark, logo"),
    ("a cloud-free evening sky", "", "negation", "an evening sky", "cloud"),
    ("a beach, no people in the background, wide shot", "", "negation", "a beach, wide shot", "people in the background"),
    ("no cars and a red bus", "", "negation", "a red bus", "cars"),
    ("a field, no cats or dogs", "", "negation", "a field", "cats, dogs"),
    ("the sky is not blue", "", "negation", "the sky", "blue"),
    ("a cat but not a black one", "", "negation", "a cat", "black one"),
    ("a dog that has no tail", "tail", "negation", "a dog", "tail"),
    ("a field. no sheep. a barn", "", "negation", "a field. a barn", "sheep"),
    ("an empty street, there are no cars", "", "negation", "an empty street", "cars"),
    ("nobody on the street", "", "negation", "on the street", "people"),
    ("(no people:1.2), a cat", "", "negation", "a cat", "people"),
    ("a (cat, no dogs:1.2)", "", "negation", "a (cat:1.2)", "dogs"),
    ("a cat BREAK no dog, tree", "", "negation", "a cat BREAK tree", "dog"),
    ("a cat", "no text, without people, hat", "negation", "a cat", "text, people, hat"),
    ("never any clouds, a lake", "fog,", "negation", "a lake", "fog, clouds"),
    (
        "oil painting, a fox, golden hour, sitting, in a forest",
        "",
        "order",
        "a fox, in a forest, sitting, golden hour, oil painting",
        "",
    ),
    ("a portrait of a woman, 85mm, soft light, standing", "", "order", "a portrait of a woman, standing, soft light, 85mm", ""),
    ("(wide shot:1.2), a lighthouse, stormy weather", "", "order", "a lighthouse, stormy weather, (wide shot:1.2)", ""),
    ("a cat, watercolor, sleeping BREAK bokeh, a dog", "", "order", "a cat, sleeping, watercolor BREAK a dog, bokeh", ""),
    ("a cat, a cat, sunset", "", "duplicate", "a cat, sunset", ""),
    ("a very very big dog", "", "duplicate", "a very big dog", ""),
    ("the the moon", "text, text", "duplicate", "the moon", "text"),
    ("a house, trees, A House", "", "duplicate", "a house, trees", ""),
    ("a dog, black and white, colorful", "", "contradiction", "a dog, black and white", ""),
    ("one cat and two cats", "", "contradiction", "one cat and two cats", ""),
    ("a red apple", "apple, blurry", "contradiction", "a red apple", "blurry"),
    ("a cat, wide shot, close-up", "", "contradiction", "a cat, wide shot", ""),
    ("a sunny day at night", "", "contradiction", "a sunny day at night", ""),
    ("a lake, summer, winter", "", "contradiction", "a lake, summer", ""),
    ("a kitchen, photorealistic, cartoon style", "", "contradiction", "a kitchen, photorealistic", ""),
    ("a mountain, pan left", "", "camera", "a mountain", ""),
    ("the camera slowly pans across a city, dusk", "", "camera", "a city, dusk", ""),
    ("a runner, tracking shot, slow motion", "", "camera", "a runner", ""),
    ("a (cat:1.3, dog", "", "syntax", "a (cat:1.3), dog", ""),
    ("a cat) and (dog", "", "syntax", "a cat and dog", ""),
    ("a (cat:5)", "", "weight", "a (cat:1.6)", ""),
    ("((((((((a cat))))))))", "", "weight", "((((((((a cat))))))))", ""),
    ("a (cat)1.3 there", "", "syntax", "a (cat:1.3) there", ""),
    ("a cat++ there", "", "syntax", "a (cat:1.21) there", ""),
    ("a (dog:1,3)", "", "syntax", "a (dog:1.3)", ""),
    ("[a:b:0.5] thing <lora:x:1>", "", "syntax", "[a:b:0.5] thing <lora:x:1>", ""),
    ("a [cat|dog]", "", "syntax", "a [cat|dog]", ""),
    (
        "please draw me a (cat:4), no dogs, soft light, sitting, soft light",
        "",
        "caption duplicate negation order weight",
        "a (cat:1.6), sitting, soft light",
        "dogs",
    ),
    (
        "could you make a photo of the harbor without boats, close-up, a wide shot, a wide shot?",
        "boats, no text",
        "caption contradiction duplicate negation",
        "a photo of the harbor, close-up",
        "boats, text",
    ),
]

IDS = [row[0] or "nothing" for row in CORPUS]


def settled(prompt, negative, **asked):
    """No fixable finding is left, nor would fixing again change anything."""
    found = check(prompt, negative, **asked)
    return not found.fixable and fix(prompt, negative, found) == (prompt, negative)


@pytest.mark.parametrize(("prompt", "negative", "kinds", "better", "worse"), CORPUS, ids=IDS)
def test_the_corpus(prompt, negative, kinds, better, worse):
    found = check(prompt, negative)
    assert sorted({f.kind for f in found}) == kinds.split()
    assert fix(prompt, negative, found) == (better, worse)
    assert settled(better, worse)
    for f in found:
        text = prompt if f.field == "prompt" else negative
        assert 0 <= f.where[0] < f.where[1] <= max(1, len(text)) and f.reason and "\n" not in f.reason
        assert bool(f.remedy) == f.fixable
        if f.fixable:
            assert one(prompt, negative, f) != (prompt, negative)


def test_every_rule_is_in_the_corpus():
    kinds = {kind for row in CORPUS for kind in row[2].split()}
    assert kinds | {"length", "unknown"} == {rule.__name__ for rule in RULES}


pieces = st.sampled_from(
    sorted(
        {part for row in CORPUS for part in row[0].split(", ") if part}
        | {
            "no people",
            "without a hat",
            "BREAK",
            "(soft light:1.3)",
            "[bokeh",
            "watercolor)",
            "not blurry",
            "a cat",
            "wide shot",
            "or logo",
        }
    )
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=7), st.lists(pieces, max_size=3), st.sampled_from(MODES), st.booleans(), st.booleans())
def test_what_is_fixed_stays_fixed(parts, negatives, mode, film, asks_words):
    prompt, negative = ", ".join(parts), ", ".join(negatives)
    asked = {"film": film, "emphasis": mode, "vocabulary": ["cat", "dog", "house", "a red car"] if asks_words else None}
    better, worse = fix(prompt, negative, check(prompt, negative, **asked))
    assert settled(better, worse, **asked)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(max_size=30), st.sampled_from(MODES))
def test_any_text_is_checked_and_mended(prompt, negative, mode):
    better, worse = fix(prompt, negative, check(prompt, negative, emphasis=mode))
    assert settled(better, worse, emphasis=mode)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=6))
def test_a_cut_leaves_the_weights_of_what_stays(parts):
    prompt = ", ".join(parts)
    for f in check(prompt):
        if f.kind in ("negation", "duplicate", "camera", "contradiction") and f.fixable and f.field == "prompt":
            stays, after = marks(prompt).weights, marks(one(prompt, "", f)[0]).weights
            for e in sorted((e for e in f.edits if e.field == "prompt"), reverse=True):
                stays[e.start : e.stop] = ["new"] * len(e.text)
            assert len(stays) == len(after)
            assert all(a == b for a, b in zip(stays, after, strict=True) if a != "new")


def test_length():
    text = ", ".join(f"thing {i}" for i in range(200))
    (finding,) = check(text)
    assert finding.kind == "length" and str(len(text)) in finding.reason
    better, _ = fix(text, "", check(text))
    assert len(better) <= 1024 and text.startswith(better) and text[len(better)] == ","
    assert (
        not check(text, max_length=len(text))
        and not check("x" * 1024)
        and len(fix("x" * 2000, "", check("x" * 2000))[0]) == 1024
    )
    found = check("a cat", "y " * 600)
    assert [f.field for f in found if f.kind == "length"] == ["negative"]


def test_unknown_words_against_a_vocabulary():
    words = ["apple", "apples", "red", "tennis racket", "on", "background", "Christmas tree", "fox"]
    assert not check("two red apples", vocabulary=["two", *words])
    assert not check("a red tennis racket on the background, foxes", vocabulary=frozenset(words_of(words)))
    (finding,) = check("a red aple", vocabulary=words)
    assert (finding.kind, finding.where) == ("unknown", (6, 10)) and "apple" in finding.remedy
    assert fix("a red aple", "baground", check("a red aple", "baground", vocabulary=words)) == ("a red apple", "background")
    (finding,) = check("a quokka", vocabulary=words)
    assert "quokka" in finding.reason and not finding.fixable
    assert check("a slow fox", vocabulary=words).fixable == ()  # a word of the lists is rare, not misspelt
    assert not check("a quokka")
    assert not check('a sign "quokka"', vocabulary=[*words, "sign"])


def test_a_models_vocabulary():
    class Model:
        lineage = {"vocabulary": ["Christmas tree", "red"]}
        spec = {"text": {"kind": "clip"}}

    class Labelled:
        lineage: dict = {}
        spec = {"text": {"kind": "label", "names": ["ankle boot", "bag"]}}

    class Silent:
        lineage: dict = {}
        spec = {"text": None}

    assert vocabulary_of(Model) == {"christmas", "tree", "red"} == vocabulary_of(Model.lineage)
    assert vocabulary_of(Labelled) == {"ankle", "boot", "bag"}
    assert vocabulary_of(Silent) is None and vocabulary_of({}) is None


def test_captions_of_the_scenes_are_good_prompts():
    from safelight.data.scenes.captions import Phrases
    from safelight.data.scenes.nouns import nouns
    from safelight.data.scenes.words import BACKGROUND_WORDS, BACKGROUNDS, STYLE_WORDS, STYLES

    table = list(nouns().values())
    known = frozenset(words_of(Phrases(table).texts))
    for i, noun in enumerate(table[::9]):
        colour, style = list(BACKGROUNDS)[i % len(BACKGROUNDS)], STYLES[i % len(STYLES)]
        ground = BACKGROUND_WORDS[i % 2].format(a="an" if colour == "orange" else "a", colour=colour)
        other = table[-1 - i]
        middle = ("", f"to the left of a {other.phrase} ", "in the upper left corner ")[i % 3]
        caption = f"a {noun.phrase} {middle}{ground} {STYLE_WORDS[i % 2].format(style=style)}".replace(" ,", ",")
        assert not check(caption, vocabulary=known).items, caption


def test_films():
    (finding,) = check("a mountain lake, wide shot", film=True)
    assert finding.kind == "camera" and "slow pan" in finding.remedy
    assert fix("a lake, wide shot", "", check("a lake, wide shot", film=True))[0] == "a lake, wide shot, slow pan"
    assert fix("a face, close-up", "", check("a face, close-up", film=True))[0] == "a face, close-up, slow push in"
    assert fix("a cat, watercolor", "", check("a cat, watercolor", film=True))[0] == "a cat, static camera, watercolor"
    for said in (
        "a city, slow pan",
        "a city, static camera",
        "the camera orbits around a statue",
        "a car, tracking shot, slow motion",
    ):
        assert not check(said, film=True).items, said
    (finding,) = check("a city, pan left, dolly in, crane up", film=True)
    assert "3 movements" in finding.reason


def test_brackets_in_each_mode():
    assert not check("a (cat) [dog]") and not check("(a cat)1.3", emphasis="compel") and not check("a (cat:9", emphasis="none")
    assert fix("a [dog]", "", check("a [dog]", emphasis="comfy"))[0] == "a (dog:0.91)"
    assert fix("a (dog:1.3)", "", check("a (dog:1.3)", emphasis="compel"))[0] == "a (dog)1.3"
    assert fix("a (dog)9", "", check("a (dog)9", emphasis="compel"))[0] == "a (dog)1.6"
    assert fix("a (dog", "", check("a (dog", emphasis="comfy"))[0] == "a dog"
    (finding,) = check('("a", "b").blend(1, 2)', emphasis="compel")
    assert finding.kind == "syntax" and "blend" in finding.reason and not finding.fixable
    with pytest.raises(ValueError, match="no mode 'nai'"):
        check("a cat", emphasis="nai")


def test_hints_are_lines():
    lines = hints("please draw me a cat, no dogs")
    assert lines == [
        "caption: 'please draw me' is an order; the model knows pictures by their captions; begin with 'a cat, no dogs'",
        "negation: 'no dogs' names what shall not be there, and a model paints what is named; move 'dogs' to the negative prompt",
    ]
    assert hints("a cat") == [] and hints("a slow pan", film=True, max_length=3)[0].startswith("length")


def test_it_is_quick_and_needs_no_torch():
    code = (
        "import sys\nfrom safelight.cli.main import main\n"
        "code = main(['prompt', 'check', 'please draw me a cat, no dogs'])\n"
        "assert code == 1 and not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    began = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for _ in range(20):
        check(", ".join(["a cat, no dogs, (soft light:1.3)"] * 30))
    assert time.process_time() - began < 4  # 20 prompts of 1,000 characters


def test_of_endless_texts_the_length_alone_is_said():
    prompt = "(a) " * 20_000
    began = time.process_time()
    (finding,) = check(prompt)
    assert finding.kind == "length" and len(one(prompt, "", finding)[0]) <= 1024
    assert time.process_time() - began < 5
