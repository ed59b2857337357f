"""Expressions: what is written is what is read, and what is wrong is told with its place."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safelight.spec import SpecError
from safelight.text.arithmetic import Add, Expression, Picture, Scale, Sub, Term, Text, parse, renamed, terms, write

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
LEAVES = st.one_of(
    WORDS.map(Text),  # `builds` would make up a part
    st.builds(Text, WORDS, WORDS.filter(lambda word: word.strip() != "")),
    st.builds(Picture, st.one_of(WORDS, st.sampled_from(["photo.png", "sha256:0a1b", "a b.png", "../x", "12.png", "cat", ""]))),
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TREES = st.recursive(
    LEAVES, lambda of: st.one_of(st.builds(Scale, FINITE, of), st.builds(Add, of, of), st.builds(Sub, of, of)), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(TREES)
@example(Picture("0\b/"))  # begins as a number does
@example(Picture("12-x.png"))
def test_what_is_written_is_read_as_the_same(tree: Expression) -> None:
    assert parse(write(tree)) == tree


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("\"'ab.1[]()#*+-@ \\e:"), max_size=24))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        tree = parse(text)
    except SpecError as error:
        said = str(error)
    else:
        said, again = "expression", parse(write(tree))
        assert again == tree
    assert "\n" not in said and said.startswith("expression")


A, B = Text("a"), Text("b")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('"a" - "b" + "a"', Add(Sub(A, B), A)),
        ('"a" - ("b" + "a")', Sub(A, Add(B, A))),
        ('"a" + "b" * 2', Add(A, Scale(2.0, B))),
        ('2 * 3 * "a"', Scale(6.0, A)),
        ('-"a"', Scale(-1.0, A)),
        ('-2 * "a"', Scale(-2.0, A)),
        ("'it\"s' + \"it's\"", Add(Text('it"s'), Text("it's"))),
        (r'"a \"b\" \\ c"', Text(r'a "b" \ c')),
        ('"a red apple"[red]', Text("a red apple", "red")),
        ('"a b" [#2]', Text("a b", "#2")),
        ("my-photo.png - 'a'", Sub(Picture("my-photo.png"), A)),
        ('@"my photo.png"', Picture("my photo.png")),
        ('1e-2*"a"', Scale(0.01, A)),
    ],
)
def test_reading(text: str, tree: Expression) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ('cat + "x"', 'character 1: texts are written in quotes: "cat"'),
        ('"a" + ', "character 7: a text in quotes, a picture or a number is missing at the end"),
        ('"a" "b"', r"character 5: a sign \(\+ - \*\) is missing before \"b\""),
        ('"a" * "b"', "character 5: two embeddings have no product"),
        ('"a" + 2', "character 7: a number only multiplies"),
        ('("a"', r"character 1: this \( is never closed"),
        ('"a")', r"character 4: this \) opens nowhere"),
        ('"a', "character 1: this quote is never closed"),
        ('"a"[', r"character 4: this \[ is never closed"),
        ('"a"[ ]', r"character 4: name a word"),
        ("[x]", r"character 1: \[ \] chooses a word of the text before it"),
        ('"a" & "b"', "character 5: '&' has no meaning here"),
        ('1e999 * "a"', "character 1: 1e999 is beyond what a number can hold"),
        ("(" * 99 + '"a"', "character 65: more than 64"),
        (" + ".join(['"a"'] * 101), "more than 100 texts"),
        ('"' + "a" * 10_000, "10,001 characters"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(text)


def test_multiplied_out() -> None:
    assert terms(parse('"a" + "b" - "b"')) == (Term(1.0, A),)
    assert terms(parse('2 * ("a" - 3 * ("b" - "a"))')) == (Term(8.0, A), Term(-6.0, B))
    assert terms(parse('"a b"[a] - "a b"')) == (Term(1.0, Text("a b", "a")), Term(-1.0, Text("a b")))
    with pytest.raises(SpecError, match="everything in it cancels"):
        terms(parse('"a" + "b" - ("b" + "a")'))
    with pytest.raises(SpecError, match="beyond what a number can hold"):
        terms(parse('1e200 * (1e200 * "a")'))


def test_files_become_seals_and_nothing_else_changes() -> None:
    tree = renamed(parse('2 * x.png - ("x.png" + y.png)'), {"x.png": "sha256:1", "y.png": "sha256:2"}.__getitem__)
    assert write(tree) == '2 * sha256:1 - ("x.png" + sha256:2)'
