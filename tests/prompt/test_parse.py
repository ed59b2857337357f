"""The golden table of the prompt language, a row a rule, and what holds for every string."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.prompt import MODES, marks, parse
from safelight.spec import SpecError

S = 1 / 1.1
# What AUTOMATIC1111's, ComfyUI's and compel's own parsers give for these, but where a row says "ours".
GOLDEN = {
    "a1111": [
        ("", [[("", 1)]]),
        ("a red apple", [[("a red apple", 1)]]),
        ("(x)", [[("x", 1.1)]]),
        ("((x))", [[("x", 1.1**2)]]),
        ("[x]", [[("x", S)]]),
        ("[[x]]", [[("x", S**2)]]),
        ("(x:1.3)", [[("x", 1.3)]]),
        ("(x: 1.3 )", [[("x", 1.3)]]),
        ("(x:.5)", [[("x", 0.5)]]),
        ("(x:+2)", [[("x", 2)]]),
        ("(x:-1)", [[("x", -1)]]),
        ("(x:0)", [[("x", 0)]]),
        ("an (important) word", [[("an ", 1), ("important", 1.1), (" word", 1)]]),
        ("(unnecessary)(parens)", [[("unnecessaryparens", 1.1)]]),
        ("((a:1.5) b)", [[("a", 1.5 * 1.1), (" b", 1.1)]]),
        ("((a:1.5):2)", [[("a", 3)]]),
        ("([x])", [[("x", S * 1.1)]]),
        ("([x]:1.4)", [[("x", S * 1.4)]]),
        ("[(x:1.4)]", [[("x", 1.4 * S)]]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                [
                    *[
                        ("a ", 1),
                        ("house", 1.3 * 1.1**2),
                        (" ", 1.1),
                        ("on", 1.0),
                        (" a ", 1.1),
                        ("hill", 0.55),
                        (", sun, ", 1.1),
                    ],
                    *[("sky", 1.1**4), (".", 1.1)],
                ]
            ],
        ),
        ("(unbalanced", [[("unbalanced", 1.1)]]),
        ("a (b [c", [[("a ", 1), ("b ", 1.1), ("c", 1.0)]]),
        ("a) b] c", [[("a) b] c", 1)]]),
        ("(a] b)", [[("a] b", 1.1)]]),
        ("(a [b) c]", [[("a ", 1.1), ("b", 1.0), (" c", S)]]),
        ("x:1.3)", [[("x:1.3)", 1)]]),
        ("[x:1.3]", [[("x:1.3", S)]]),
        (r"\(x\)", [[("(x)", 1)]]),
        (r"\[x\]", [[("[x]", 1)]]),
        (r"(x \(y\):1.2)", [[("x (y)", 1.2)]]),
        (r"a\\(b)", [[("a\\", 1), ("b", 1.1)]]),
        (r"a\b", [[("ab", 1)]]),
        ("(x:y)", [[("x:y", 1.1)]]),
        ("time 12:30", [[("time 12:30", 1)]]),
        ("()", [[("", 1)]]),
        ("(:1.3)", [[("", 1)]]),
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("BREAK b", [[], [("b", 1)]]),
        ("a BREAK", [[("a", 1)], []]),
        ("a BREAK BREAK b", [[("a", 1)], [], [("b", 1)]]),
        ("a BREAKS b", [[("a BREAKS b", 1)]]),
        ("a break b", [[("a break b", 1)]]),
        ("(a:1.2)\nBREAK\n[b]", [[("a", 1.2)], [("b", S)]]),
        ("(a BREAK b:1.5)", [[("a", 1.5)], [("b", 1.5)]]),  # ours
        ("(x:1.2.3)", [[("x:1.2.3", 1.1)]]),  # ours
        ("(x:.)", [[("x:.", 1.1)]]),  # ours
        ("(x:" + "9" * 400 + ")", [[("x:" + "9" * 400, 1.1)]]),  # ours
    ],
    "comfy": [
        ("a red apple", [[("a red apple", 1)]]),
        ("(x)", [[("x", 1.1)]]),
        ("((x))", [[("x", 1.1**2)]]),
        ("(x:1.3)", [[("x", 1.3)]]),
        ("(x:-0.5)", [[("x", -0.5)]]),
        ("(x: 1e-1 )", [[("x", 0.1)]]),
        ("[x]", [[("[x]", 1)]]),
        ("((a:1.5) b)", [[("a", 1.5), (" b", 1.1)]]),  # a number replaces
        ("((a:1.5):2)", [[("a", 1.5)]]),
        ("((a):2)", [[("a", 2.2)]]),
        ("((a b:1.5) (c):0.5)", [[("a b", 1.5), (" ", 0.5), ("c", 0.5 * 1.1)]]),
        ("(a)(b)", [[("a b", 1.1)]]),
        ("(x:y)", [[("x:y", 1.1)]]),
        ("(:2)", [[(":2", 1.1)]]),
        ("(a:2:3)", [[("a:2", 3)]]),
        ("a (b c", [[("a (b c", 1)]]),
        ("a) (b)", [[("a) (b)", 1)]]),
        ("(a) b (c", [[("a", 1.1), (" b (c", 1)]]),
        ("((a)", [[("(a", 1.1)]]),
        ("(a))(b)", [[("a", 1.1), (")(b)", 1)]]),
        (r"\(x\)", [[("(x)", 1)]]),
        (r"(x \(y\):1.2)", [[("x (y)", 1.2)]]),
        (r"\[x\]", [[(r"\[x\]", 1)]]),
        ("()", [[("", 1)]]),
        ("(x:nan)", [[("x:nan", 1.1)]]),  # ours
        ("a BREAK (b:2)", [[("a", 1)], [("b", 2)]]),  # ours
    ],
    "compel": [
        ("a red apple", [[("a red apple", 1)]]),
        ("x+", [[("x", 1.1)]]),
        ("flames++", [[("flames", 1.1**2)]]),
        ("flames-", [[("flames", 0.9)]]),
        ("a flames--- b", [[("a ", 1), ("flames", 0.9**3), (" b", 1)]]),
        ("(picking apricots)+", [[("picking apricots", 1.1)]]),
        ("(x)1.3", [[("x", 1.3)]]),
        ("(x)2", [[("x", 2)]]),
        ("(x).5", [[("x", 0.5)]]),
        ("fire (flames (trees)1.5)2.0", [[("fire ", 1), ("flames ", 2), ("trees", 3)]]),
        ("a man (picking apricots+)++", [[("a man ", 1), ("picking ", 1.1**2), ("apricots", 1.1**3)]]),
        ("(pretty flowers)+, the flames", [[("pretty flowers", 1.1), (", the flames", 1)]]),
        ('"big cat"-', [[("big cat", 0.9)]]),
        ("flames.attend(0.5)", [[("flames", 0.5)]]),
        ("(big flames).attend(++)", [[("big flames", 1.1**2)]]),
        ("hamburger ((bun))", [[("hamburger bun", 1)]]),
        ("hot-dog", [[("hot-dog", 1)]]),
        ("a +test prompt", [[("a +test prompt", 1)]]),
        ("(x:1.3)", [[("x:1.3", 1)]]),
        ("[x]", [[("[x]", 1)]]),
        ("a badly (formed prompt", [[("a badly (formed prompt", 1)]]),
        ("a b) c", [[("a b) c", 1)]]),
        ("(((a badly (formed +test )prompt", [[("(((a badly formed +test prompt", 1)]]),
        ("(ba)dly", [[("ba dly", 1)]]),
        ("foo(bar)+", [[("foo(bar)+", 1)]]),
        ("(x) 1.3", [[("x 1.3", 1)]]),
        ("(a = b)+", [[("(a = b)+", 1)]]),
        ("(a text.)0.7. (more)0.8", [[("a text.", 0.7), (". ", 1), ("more", 0.8)]]),
        (r"\(x\)", [[("(x)", 1)]]),
        (r"x\+", [[("x+", 1)]]),
        ('("a cat", "(a dog)++").and()', [[("a cat", 1)], [("a dog", 1.1**2)]]),
        ('("a", "b", "c").and(1, 1, 1)', [[("a", 1)], [("b", 1)], [("c", 1)]]),
        ("a BREAK b+", [[("a", 1)], [("b", 1.1)]]),  # ours
    ],
    "none": [
        ("", [[("", 1)]]),
        ("a red apple", [[("a red apple", 1)]]),
        ("(x:1.3) [y] z++", [[("(x:1.3) [y] z++", 1)]]),
        (r"\(x\) BREAK (", [[(r"\(x\) BREAK (", 1)]]),
    ],
}
ROWS = [(mode, prompt, expected) for mode, rows in GOLDEN.items() for prompt, expected in rows]


@pytest.mark.parametrize(("mode", "prompt", "expected"), ROWS, ids=[f"{m}-{p[:40]!r}" for m, p, _ in ROWS])
def test_the_golden_table(mode, prompt, expected):
    found = parse(prompt, mode)
    assert [[s.text for s in section] for section in found] == [[text for text, _ in section] for section in expected]
    for section, rows in zip(found, expected, strict=True):
        assert [s.weight for s in section] == pytest.approx([weight for _, weight in rows], rel=1e-12)


# Strings of syntax, so that chance finds more than plain text.
signs = st.lists(
    st.sampled_from(
        [
            "(",
            ")",
            "[",
            "]",
            ":1.3)",
            ":",
            "a",
            "cat",
            " ",
            "\\",
            "\\(",
            "\\)",
            ", ",
            ":.5)",
            "1.2",
            " BREAK ",
            "+",
            "--",
            '"',
            "é",
            "\n",
        ]
    ),
    max_size=24,
).map("".join)
texts = signs | st.text(max_size=60)


@settings(max_examples=400, deadline=None)
@given(texts, st.sampled_from(MODES))
def test_nothing_but_syntax_is_lost(prompt, mode):
    sections = parse(prompt, mode)
    found = marks(prompt, mode)
    kept = "".join(c for c, w in zip(prompt, found.weights, strict=True) if w is not None)
    said = "".join(s.text for section in sections for s in section)
    assert "".join(said.split()) == "".join(kept.split())  # the texts are the marked characters, in order
    lost = [i for i, w in enumerate(found.weights) if w is None]
    breaks = {i for start, stop in found.breaks for i in range(start, stop)}
    numbers = set("0123456789.:+-eE_ \t\n")
    syntax = set('()[]\\"') | numbers
    if mode != "compel":
        syntax -= {'"'}
        assert all(prompt[i] in syntax or i in breaks for i in lost)
    else:
        assert all(prompt[i] in syntax | set(",.atend") or i in breaks for i in lost)
    assert len(sections) == len(found.breaks) + 1
    assert all(a.weight != b.weight for section in sections for a, b in zip(section, section[1:], strict=False))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters='()[]\\"+-'), max_size=60), st.sampled_from(MODES))
def test_plain_text_is_one_segment_of_weight_one(prompt, mode):
    if "BREAK" not in prompt:
        assert parse(prompt, mode) == [[(prompt, 1.0)]]


@settings(max_examples=200, deadline=None)
@given(texts)
def test_none_reads_what_is_written(prompt):
    assert parse(prompt, "none") == [[(prompt, 1.0)]]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=20), st.integers(1, 6))
def test_nesting_multiplies(word, depth):
    if word == "BREAK":
        return
    for mode, opening, closing, factor in (("a1111", "(", ")", 1.1), ("a1111", "[", "]", S), ("comfy", "(", ")", 1.1)):
        assert parse(opening * depth + word + closing * depth, mode)[0][0].weight == pytest.approx(factor**depth)
    assert parse(f"({word})" + "+" * depth, "compel")[0][0].weight == pytest.approx(1.1**depth)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_escaped_brackets_are_text(prompt):
    escaped = prompt.replace("\\", "").replace("(", r"\(").replace(")", r"\)").replace("[", r"\[").replace("]", r"\]")
    if "BREAK" not in prompt:
        assert parse(escaped, "a1111") == [[(prompt.replace("\\", ""), 1.0)]]


@pytest.mark.parametrize("mode", MODES)
def test_deep_and_long_prompts_are_read_in_time(mode):
    for prompt in ("(" * 2000, "(a " * 1000 + ")" * 1000, '"' * 1999, "a+ " * 2000, "[(" * 700 + ":1.1)" * 700):
        assert parse(prompt, mode)
    began = time.process_time()
    for prompt in (
        "(" * 20_000 + "x",
        "(" * 10_000 + "x" + ")" * 10_000,
        "[" * 20_000,
        "x" + " " * 20_000 + "y",
        "a" + "+" * 20_000,
    ):
        assert all(math.isfinite(segment.weight) for section in parse(prompt, mode) for segment in section)
    assert time.process_time() - began < 5  # it took 20 s


def test_brackets_beyond_the_deepest_are_text():
    for mode in ("a1111", "comfy"):
        ((text, weight),) = parse("(" * 102 + "x" + ")" * 102, mode)[0]
        assert text == "((x))" and weight == pytest.approx(1.1**100)
    assert parse("x" + "+" * 9000, "compel")[0][0].weight == pytest.approx(1.1**100)


def test_what_is_not_read_is_refused_in_one_line():
    with pytest.raises(SpecError, match="no mode 'a1112'"):
        parse("x", "a1112")
    for prompt, what in (
        ('("a", "b").blend(1, 0.5)', r"\.blend"),
        ('("a", "b").and(1, 0.5)', r"\.and\(\) is read only"),
        ("a cat.swap(dog)", "swap"),
        ("withLora(x, 0.5) a cat", "withLora"),
    ):
        with pytest.raises(SpecError, match=what):
            parse(prompt, "compel")
        assert parse(prompt, "none") == [[(prompt, 1.0)]]
