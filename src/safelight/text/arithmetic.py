"""Arithmetic on texts and pictures: the expressions, their parser, and what is left when they are multiplied out.

    "a cat" + "a dog" * 0.5                        texts in quotes
    photo.png - "a cat" + "a dog"                  pictures by file name or seal, spaces around the signs; odd names as @"my photo.png"
    "a red apple on white"[red] - "red" + "blue"   one word of a text, [#2] its second token

    expression = term {("+" | "-") term}
    term       = factor {"*" factor}               of which all but one are numbers
    factor     = "-" factor | number | "(" expression ")" | text ["[" word "]"] | picture

What an expression means is the business of a space: see task/mix.py. Here `"a" + "b" - "b"` is `"a"`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from safelight.spec import SpecError

# Longer or deeper than anything a person writes.
_LONGEST, _DEEPEST, _MOST = 10_000, 64, 100


class Text(NamedTuple):
    """A text, or with `part` one word of it: the word, or "#n" for its n-th token."""

    text: str
    part: str = ""


class Picture(NamedTuple):
    """A picture by its file's name or its seal."""

    name: str


class Scale(NamedTuple):
    """factor * of."""

    factor: float
    of: Expression


class Add(NamedTuple):
    """left + right."""

    left: Expression
    right: Expression


class Sub(NamedTuple):
    """left - right."""

    left: Expression
    right: Expression


Operand = Text | Picture
Expression = Text | Picture | Scale | Add | Sub


class Term(NamedTuple):
    """weight * operand: a summand of an expression that is multiplied out."""

    weight: float
    operand: Operand


class _Token(NamedTuple):
    sort: str
    text: str
    at: int


_TOKENS = re.compile(
    r"""(?P<space>\s+)
    | (?P<quoted>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
    | (?P<named>@(?:"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'))
    | (?P<part>\[(?:[^\]\\]|\\.)*\])
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w./:~]))
    | (?P<bare>[\w./~:\\][^\s()\[\]*+"'@]*)
    | (?P<sign>[-+*()])""",
    re.VERBOSE | re.DOTALL,
)
_PICTURE = re.compile(r"sha256:[0-9a-f]+|.*[./\\].*", re.DOTALL)


def parse(text: str) -> Expression:
    """The expression that `text` is. Raises SpecError with the place, counted from 1, and what would stand there."""
    if len(text) > _LONGEST:
        raise SpecError(f"expression: {len(text):,} characters, {_LONGEST:,} are read")
    tokens = _tokens(text)
    if sum(token.sort in ("quoted", "named", "bare") for token in tokens) > _MOST:
        raise SpecError(f"expression: more than {_MOST} texts and pictures in it")
    return _Parser(tokens, len(text)).whole()


def write(expression: Expression) -> str:
    """The expression as text, which `parse` reads as the same expression."""
    match expression:
        case Text(text, part):
            return _quote(text, '"') + (f"[{_escape(part, ']')}]" if part else "")
        case Picture(name):
            first = _TOKENS.match(name)  # not fullmatch, which backtracks: "0\b/" begins as a number
            whole = first is not None and first.lastgroup == "bare" and first.end() == len(name)
            bare = whole and _PICTURE.fullmatch(name) is not None
            return name if bare else "@" + _quote(name, '"')
        case Scale(factor, of):
            return f"{repr(factor).removesuffix('.0')} * {_within(of)}"
        case Add(left, right):
            return f"{write(left)} + {_summand(right)}"
        case Sub(left, right):
            return f"{write(left)} - {_summand(right)}"


def terms(expression: Expression) -> tuple[Term, ...]:
    """The expression multiplied out: each operand once, in order of appearance; those that cancel are left out.

    Raises SpecError when none is left, and for weights that are not finite.
    """
    weights: dict[Operand, float] = {}

    def collect(part: Expression, weight: float) -> None:
        match part:
            case Scale(factor, of):
                collect(of, weight * factor)
            case Add(left, right):
                collect(left, weight)
                collect(right, weight)
            case Sub(left, right):
                collect(left, weight)
                collect(right, -weight)
            case _:
                weights[part] = weights.get(part, 0.0) + weight

    collect(expression, 1.0)
    if not all(math.isfinite(weight) for weight in weights.values()):
        raise SpecError("expression: a weight is beyond what a number can hold")
    found = tuple(Term(weight, operand) for operand, weight in weights.items() if weight)
    if not found:
        raise SpecError("expression: everything in it cancels, nothing is left to make a picture of")
    return found


def renamed(expression: Expression, name: Callable[[str], str]) -> Expression:
    """The expression with other names of its pictures: seals in place of files."""
    match expression:
        case Picture(old):
            return Picture(name(old))
        case Scale(factor, of):
            return Scale(factor, renamed(of, name))
        case Add(left, right):
            return Add(renamed(left, name), renamed(right, name))
        case Sub(left, right):
            return Sub(renamed(left, name), renamed(right, name))
        case Text():
            return expression


def _within(part: Expression) -> str:
    return f"({write(part)})" if isinstance(part, Scale | Add | Sub) else write(part)


def _summand(part: Expression) -> str:
    return f"({write(part)})" if isinstance(part, Add | Sub) else write(part)


def _escape(text: str, mark: str) -> str:
    return text.replace("\\", "\\\\").replace(mark, "\\" + mark)


def _quote(text: str, mark: str) -> str:
    return mark + _escape(text, mark) + mark


def _unquoted(text: str) -> str:
    """What stands between the marks, a backslash before a character meaning that character."""
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            if text[at] in "\"'@":
                raise _wrong(
                    at, "this quote is never closed" if text[at] != "@" else "@ stands before a picture's name in quotes"
                )
            if text[at] == "[":
                raise _wrong(at, "this [ is never closed")
            raise _wrong(at, f"'{text[at]}' has no meaning here")
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match[0], at))
        at = match.end()
    return found


def _wrong(at: int, what: str) -> SpecError:
    return SpecError(f"expression, character {at + 1}: {what}")


class _Parser:
    def __init__(self, tokens: list[_Token], length: int) -> None:
        self.tokens, self.length = tokens, length
        self.next = self.depth = 0

    def whole(self) -> Expression:
        if not self.tokens:
            raise SpecError('expression: it is empty; write for example "a cat" + "a dog"')
        found = self.sum()
        if (token := self.look()) is not None:
            raise _wrong(
                token.at, f"a sign (+ - *) is missing before {token.text}" if token.text != ")" else "this ) opens nowhere"
            )
        return found

    def look(self, signs: str = "") -> _Token | None:
        """The next token, of `signs` if they are given."""
        token = self.tokens[self.next] if self.next < len(self.tokens) else None
        if signs and (token is None or token.sort != "sign" or token.text not in signs):
            return None
        return token

    def take(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def sum(self) -> Expression:
        found = self.thing(self.product)
        while (token := self.look("+-")) is not None:
            self.take()
            right = self.thing(self.product)
            found = Add(found, right) if token.text == "+" else Sub(found, right)
        return found

    def thing(self, of: Callable[[], Expression | float]) -> Expression:
        token, found = self.look(), of()
        if isinstance(found, float):
            raise _wrong(token.at if token else self.length, "a number only multiplies: write number * something")
        return found

    def product(self) -> Expression | float:
        found = self.factor()
        while self.look("*") is not None:
            at = self.take().at
            right = self.factor()
            if isinstance(right, float):
                left, right = right, found
            elif isinstance(found, float):
                left = found
            else:
                raise _wrong(at, "two embeddings have no product: one side of * is a number")
            found = _times(left, right, at)
        return found

    def factor(self) -> Expression | float:
        token = self.look()
        if token is None:
            raise _wrong(self.length, "a text in quotes, a picture or a number is missing at the end")
        self.take()
        match token.sort:
            case "number":
                if math.isinf(float(token.text)):
                    raise _wrong(token.at, f"{token.text} is beyond what a number can hold")
                return float(token.text)
            case "quoted":
                return self.text(token)
            case "named":
                return Picture(_unquoted(token.text[1:]))
            case "bare":
                if _PICTURE.fullmatch(token.text) is None:
                    raise _wrong(token.at, f'texts are written in quotes: "{token.text}"')
                return Picture(token.text)
            case "part":
                raise _wrong(token.at, "[ ] chooses a word of the text before it")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _wrong(token.at, f"more than {_DEEPEST} signs or parentheses within each other")
        if token.text == "-":
            found: Expression | float = _times(-1.0, self.factor(), token.at)
        elif token.text == "(":
            found = self.thing(self.sum)
            if self.look(")") is None:
                raise _wrong(token.at, "this ( is never closed")
            self.take()
        else:
            raise _wrong(token.at, f"a text in quotes, a picture or a number is missing before {token.text}")
        self.depth -= 1
        return found

    def text(self, token: _Token) -> Text:
        part = self.look()
        if part is None or part.sort != "part":
            return Text(_unquoted(token.text))
        word = _unquoted(self.take().text)
        if not word.strip():
            raise _wrong(part.at, "name a word of the text in [ ], or a token as in [#2]")
        return Text(_unquoted(token.text), word)


def _times(factor: float, of: Expression | float, at: int) -> Expression | float:
    if not isinstance(of, float):
        return Scale(factor, of)
    if math.isinf(factor * of):
        raise _wrong(at, "the product is beyond what a number can hold")
    return factor * of


__all__ = ["Add", "Expression", "Operand", "Picture", "Scale", "Sub", "Term", "Text", "parse", "renamed", "terms", "write"]
