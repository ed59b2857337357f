"""The tokenizer against transformers' on the same files, its closure under pruning, and that nothing is ever lost."""

from __future__ import annotations

import gzip
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.spec import SpecError
from safelight.text.tokens import Tokenizer, alphabet, clean, load, prune, words

SHIPPED = load("clip-vocabulary")
TEXTS = [
    "",
    "three red apples on a blue background",
    "  A Photo\tof\n\na  CAT ",
    "don't, they're I'll we've I'm he'd it's 'tis 'hello'",
    "a tennis racket to the left of an ice cream, glossy style.",
    "1st 2nd 42 x²½ Ⅷ ٣",
    "naïve café Ångström ΣΟΦΟΣ İstanbul ﬁne",
    "e\u0301 and \u00e9",
    "🍎🍏 👩‍🚀 🇩🇪 ❤️",
    "三个红苹果 りんご 사과 תפוח تفاحة",
    "a...b!!! (x:1.3) [y] a_b a/b\\c <|startoftext|x>",
    "\u00a0non\u2003breaking\u3000spaces\u200bzero",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "\x00\x07\x1c\x7f\ufffd",
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """transformers' CLIPTokenizer over the shipped vocabulary, from the files that it reads."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(SHIPPED.ids, ensure_ascii=False), "utf-8")
    merges = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in SHIPPED.merges)])
    (folder / "merges.txt").write_text(merges + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def test_ids_equal_the_peers(peer):
    pool = "".join(TEXTS) + "abcdefghij ,.'-0123456789éß漢🎈"
    chance = random.Random(0)
    more = ["".join(chance.choice(pool) for _ in range(chance.randint(1, 60))) for _ in range(300)]
    for text in [*TEXTS, *more]:
        expected = peer(text).input_ids
        assert [SHIPPED.begin, *SHIPPED.encode(text), SHIPPED.end] == expected, text


def test_padding_equals_the_peers(peer):
    texts = TEXTS[:4]
    expected = peer(texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt").input_ids
    assert torch.equal(SHIPPED(texts, 32), expected)


def test_the_order_of_ids_is_clips():
    letters = alphabet()
    assert len(set(letters)) == 256 and letters[ord("a")] == "a" and letters[0] == "\u0100" and letters[ord(" ")] == "\u0120"
    assert SHIPPED.tokens[0] == "!" and SHIPPED.tokens[256] == "!</w>" and SHIPPED.tokens[188] == "\u0100"
    assert SHIPPED.tokens[512:514] == ["in", "th"]  # the two commonest pairs
    assert (SHIPPED.begin, SHIPPED.end, SHIPPED.size) == (SHIPPED.size - 2, SHIPPED.size - 1, len(SHIPPED.merges) + 514)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_fast_path_is_the_slow_one(text):
    # A letter that is not ASCII, set apart by a space, takes the general path for the whole text.
    assert words(clean(text + " ß")) == [*words(clean(text)), "ß"]


def test_cleaning_and_words():
    assert clean("  A\t B\u00a0\n C ") == "a b c"
    assert words("don't stop!! it's 42 'quoted'") == ["don", "'t", "stop", "!!", "it", "'s", "4", "2", "'", "quoted", "'"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_every_text_comes_back(text):
    ids = SHIPPED.encode(text)
    assert all(0 <= i < SHIPPED.begin for i in ids)
    assert "".join(SHIPPED.decode(ids).split()) == "".join(clean(text).split())


def test_bytes_of_unknown_characters_come_back():
    for text in ("🍎", "三个红苹果", "👩‍🚀", "ꙮ"):
        assert SHIPPED.decode(SHIPPED.encode(text)) == text
    pieces = SHIPPED.pieces(SHIPPED.encode("red 🍎"))
    assert pieces[0] == "red" and ("\ufffd" in pieces[1] or pieces[1] == "🍎")


def test_special_tokens_cannot_be_written():
    ids = SHIPPED.encode("<|endoftext|> <|startoftext|>")
    assert SHIPPED.end not in ids and SHIPPED.begin not in ids
    assert SHIPPED.decode(ids).replace(" ", "") == "<|endoftext|><|startoftext|>"


def test_half_a_character_is_refused_in_one_line():
    with pytest.raises(SpecError, match=r"^prompt: it holds half of a character"):
        load("clip-vocabulary").encode("a cat \udc80")


def test_long_prompts_lose_nothing():
    text = ", ".join(f"a {c} thing number {i}" for i, c in enumerate(["red", "blue", "green"] * 20))
    ids = SHIPPED.encode(text)
    assert len(ids) > 300
    spans = SHIPPED.spans(ids, 30)
    assert [i for s in spans for i in ids[s]] == ids and all(0 < s.stop - s.start <= 30 for s in spans)
    comma = SHIPPED.ids[",</w>"]
    assert all(ids[s.stop - 1] == comma for s in spans[:-1])  # each cut falls behind a comma
    table = SHIPPED([text, "apple", ""], 32)
    assert table.shape == (3, 32 * len(spans)) and table.dtype == torch.int64
    rows = table.view(3, -1, 32)
    kept = [i for i in rows[0].flatten().tolist() if i < SHIPPED.begin]
    assert kept == ids
    assert (rows[0, :, 0] == SHIPPED.begin).all()
    assert rows[1, 0, :3].tolist() == [SHIPPED.begin, SHIPPED.ids["apple</w>"], SHIPPED.end]
    assert (rows[1, 1:] == SHIPPED.end).all() and rows[2, 0, :2].tolist() == [SHIPPED.begin, SHIPPED.end]


def test_cuts_fall_between_words_or_where_they_must():
    ids = SHIPPED.encode("thing " * 40)
    assert [s.stop - s.start for s in SHIPPED.spans(ids, 30)] == [30, 10]
    spans = SHIPPED.spans(SHIPPED.encode("a " + "qzxj" * 30), 20)
    assert spans[0] == slice(0, 1)  # the word begins in a window of its own
    assert all(s.stop - s.start <= 20 for s in spans)
    with pytest.raises(SpecError, match="room for 0"):
        SHIPPED.spans(ids, 0)


def test_pruning_changes_no_text_of_the_corpus():
    corpus = ["three red apples", "a tennis racket", "ice cream", "don't"]
    small = prune(SHIPPED, corpus)
    assert small.size < 700
    for text in corpus:
        assert [small.tokens[i] for i in small.encode(text)] == [SHIPPED.tokens[i] for i in SHIPPED.encode(text)]
    assert small.decode(small.encode("something else entirely")) == "something else entirely"
    assert set(SHIPPED.merges[:300]) <= set(prune(SHIPPED, corpus, 300).merges)


def test_the_shipped_vocabulary_knows_the_sprites_words():
    for word in ("apple", "apples", "background", "left", "glossy", "turquoise", "umbrella", "four"):
        assert len(SHIPPED.encode(word)) == 1, word


def test_files_of_merges(tmp_path):
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in SHIPPED.merges)]
    plain, packed = tmp_path / "merges.txt", tmp_path / "merges.txt.gz"
    plain.write_text("\n".join(lines) + "\n", "utf-8")
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    for path in (plain, packed):
        assert load(str(path)).tokens == SHIPPED.tokens
    with pytest.raises(SpecError, match="no vocabulary 'clip-vocabulery'; did you mean 'clip-vocabulary'"):
        load("clip-vocabulery")
    bad = tmp_path / "bad.txt"
    for content in (b"", b"one\ntwo three four", b"\xff\xfe\x00", b"{}", b"\x1f\x8bxx"):
        bad.write_bytes(content)
        with pytest.raises(SpecError, match="is not a vocabulary"):
            load(str(bad))
    with pytest.raises(SpecError, match="needs a symbol"):
        Tokenizer([("ab", "c")])
    with pytest.raises(SpecError, match="twice"):
        Tokenizer([("a", "b"), ("a", "b")])


def test_names_that_were_learned_stand_for_ids_of_their_own():
    tokenizer = Tokenizer(SHIPPED.merges)
    tokenizer.extra = {"<cat-toy>": (7000,), "style": (7001, 7002, 7003), "style-two": (7004,)}
    cat = SHIPPED.encode("cat")
    assert tokenizer.encode("Cat <cat-toy>cat") == [*cat, 7000, *cat]
    assert tokenizer.encode("style, style-two restyled") == [
        7001,
        7002,
        7003,
        *SHIPPED.encode(","),
        7004,
        *SHIPPED.encode("restyled"),
    ]
    assert tokenizer.decode(tokenizer.encode("a <cat-toy> in style")).split() == ["a", "<cat-toy>", "in", "style"]
    rows = tokenizer(["style " * 12], 16).view(-1, 16)
    assert rows.shape[0] == 3 and (rows == 7001).sum() == 12
    assert Tokenizer(SHIPPED.merges).extra == {}


def test_both_vocabularies_come_from_one_file():
    full = load("clip")
    assert full.size == 49_408 and full.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]  # as CLIP's own ids are known
    order = {pair: i for i, pair in enumerate(full.merges)}
    places = [order[pair] for pair in SHIPPED.merges]
    assert places == sorted(places) and len(places) == 6_141
