"""What brackets mean in a prompt: text -> sections of weighted segments, in the syntaxes that people bring along.

| mode | heavier | lighter | nesting | a bracket without its other half |
|---|---|---|---|---|
| `a1111` | `(x)` 1.1, `(x:1.3)` | `[x]` 1/1.1, `(x:0.7)` | all factors multiply | `(` and `[` reach to the end; `)` and `]` are text |
| `comfy` | `(x)` 1.1, `(x:1.3)` | `(x:0.7)`; `[` is text | `(x)` multiplies, a number replaces | is text, and what follows a `)` too many |
| `compel` | `x+` 1.1, `x++` 1.21, `(x y)1.3` | `x-` 0.9, `(x y)0.7` | all factors multiply | is text |
| `none` | | | | every character is text |

In all modes but `none`, the word BREAK in capitals begins a new section (A1111's; the two others gain it here), and a backslash
before a bracket makes it text. The rules are those of AUTOMATIC1111's stable-diffusion-webui (`modules/prompt_parser.py`),
ComfyUI (`comfy/sd1_clip.py`) and compel (`prompt_parser.py`, doc/syntax.md), and are read off their behaviour. Differences on
purpose: a number that is none or not finite is text, where A1111 raises an error; BREAK within brackets is a BREAK, where A1111
reads the word with a weight of -1.1; compel's backslash goes before all of its signs. Compel's `("a", "b").and()` is "a BREAK b";
its `.blend`, `.swap` and `withLora` are refused, for they are no weights. A1111's `[a:b:0.5]`, `[a|b]`, `AND` and `<lora:x:1>` are
not in this language: `lint` says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

MODES: Final = ("a1111", "comfy", "compel", "none")
ROUND: Final = 1.1  # a pair of round brackets, or a plus
SQUARE: Final = 1 / 1.1  # a pair of square ones
MINUS: Final = 0.9
DEEPEST: Final = 100  # brackets in one another, and signs in a row; those beyond are text, and signs beyond weigh nothing more

_BREAK = re.compile(r"\bBREAK\b")


class Segment(NamedTuple):
    """A run of text of one weight."""

    text: str
    weight: float


class Marks(NamedTuple):
    """What each character of a prompt is.

    weights: a character's weight, or None where it is syntax. borders: places before which a bracket parts two words, though no
    white space does. breaks: (start, stop) of every BREAK with the white space around it.
    """

    weights: list[float | None]
    borders: frozenset[int]
    breaks: list[tuple[int, int]]


def parse(prompt: str, mode: str = "a1111") -> list[list[Segment]]:
    """Sections, one more than there are BREAKs, each a list of segments whose neighbours differ in weight.

    The texts are the prompt without its syntax: nothing else is lost or changed, but for a space where a bracket of `comfy` or
    `compel` stands between two words without one. A prompt without syntax is one segment of weight 1, "" one of no text.
    Raises SpecError for an unknown mode, and for what compel does beside weighting.
    """
    found = marks(prompt, mode)
    sections: list[list[Segment]] = []
    start = 0
    for stop, following in [*found.breaks, (len(prompt), len(prompt))]:
        sections.append(_segments(prompt, found, start, stop))
        start = following
    return sections if any(sections) or len(sections) > 1 else [[Segment("", 1.0)]]


def _segments(prompt: str, found: Marks, start: int, stop: int) -> list[Segment]:
    out: list[Segment] = []
    for i in range(start, stop):
        weight = found.weights[i]
        if weight is None:
            continue
        if not out or out[-1].weight != weight:
            out.append(Segment(prompt[i], weight))
            continue
        apart = i in found.borders and not prompt[i].isspace() and not out[-1].text[-1].isspace()
        out[-1] = Segment(out[-1].text + " " * apart + prompt[i], weight)
    return out


def marks(prompt: str, mode: str = "a1111") -> Marks:
    """The prompt, character by character. Raises SpecError as `parse` does."""
    if mode not in _READERS:
        _refuse(f"emphasis: no mode '{mode}' (modes: {', '.join(MODES)})")
    weights, borders, breaks = _READERS[mode](prompt)
    if mode != "none":
        done = 0
        for match in _BREAK.finditer(prompt):
            start, stop = match.span()
            if any(w is None for w in weights[start:stop]):
                continue
            while start > done and prompt[start - 1].isspace():
                start -= 1
            while stop < len(prompt) and prompt[stop].isspace():
                stop += 1
            breaks.append((start, stop))
            done = stop
    for start, stop in breaks:
        weights[start:stop] = [None] * (stop - start)
    return Marks(weights, frozenset(borders), sorted(breaks))


_Read = tuple[list[float | None], set[int], list[tuple[int, int]]]


def _none(prompt: str) -> _Read:
    return [1.0] * len(prompt), set(), []


# A1111: a token at a time, brackets on two stacks; a pair multiplies all that stands between.
_A1111 = re.compile(r"\\[()\[\]\\]|\\|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|.", re.S)


def _a1111(prompt: str) -> _Read:
    weights: list[float | None] = [None] * len(prompt)
    open_round: list[int] = []
    open_square: list[int] = []
    beyond = {"(": 0, "[": 0}  # brackets that are open as text

    def multiply(start: int, stop: int, factor: float) -> None:
        weights[start:stop] = [None if w is None else w * factor for w in weights[start:stop]]

    for match in _A1111.finditer(prompt):
        i, j, token = *match.span(), match[0]
        factor = _number(match[1]) if match[1] is not None else None
        if token[0] == "\\":
            weights[i + 1 : j] = [1.0] * (j - i - 1)
        elif token in "([" and len(open_round) + len(open_square) >= DEEPEST:
            beyond[token] += 1
            weights[i] = 1.0
        elif token[-1] in ")]" and beyond[other := "(" if token[-1] == ")" else "["]:
            beyond[other] -= 1
            weights[i:j] = [1.0] * (j - i)
        elif token == "(":
            open_round.append(i)
        elif token == "[":
            open_square.append(i)
        elif factor is not None and open_round:
            multiply(open_round.pop(), i, factor)
        elif match[1] is not None and factor is None and open_round:  # ":1.2.3)": the bracket closes, the number is text
            weights[i : j - 1] = [1.0] * (j - 1 - i)
            multiply(open_round.pop(), j - 1, ROUND)
        elif token == ")" and open_round:
            multiply(open_round.pop(), i, ROUND)
        elif token == "]" and open_square:
            multiply(open_square.pop(), i, SQUARE)
        else:
            weights[i:j] = [1.0] * (j - i)
    for start in open_round:
        multiply(start, len(prompt), ROUND)
    for start in open_square:
        multiply(start, len(prompt), SQUARE)
    return weights, set(), []


# ComfyUI: a text is cut into pairs of brackets on the outermost level and what lies between; a pair is cut again.
def _comfy(prompt: str) -> _Read:
    weights: list[float | None] = [None] * len(prompt)
    borders: set[int] = set()
    signs = list(prompt)
    for match in re.finditer(r"\\[()]", prompt):
        signs[match.start() : match.end()] = ["\\", " "]  # the sign is no bracket any more, and its backslash is gone
    escapes = {match.start() for match in re.finditer(r"\\[()]", prompt)}
    todo = [(0, len(prompt), 1.0, 0)]
    while todo:
        low, high, weight, depth = todo.pop()
        for start, stop in _outermost(signs, low, high):
            borders.add(start)
            if depth == DEEPEST or stop - start < 2 or signs[start] != "(" or signs[stop - 1] != ")":
                weights[start:stop] = [None if i in escapes else weight for i in range(start, stop)]
                continue
            inner, end, factor = start + 1, stop - 1, weight * ROUND
            borders.add(inner)
            colon = prompt.rfind(":", inner, end)
            number = _number(prompt[colon + 1 : end]) if colon > inner else None
            if number is not None:
                end, factor = colon, number
            todo.append((inner, end, factor, depth + 1))
    return weights, borders, []


def _outermost(signs: list[str], low: int, high: int) -> Iterator[tuple[int, int]]:
    start, depth = low, 0
    for i in range(low, high):
        if signs[i] == "(":
            if depth == 0 and i > start:
                yield start, i
                start = i
            depth += 1
        elif signs[i] == ")":
            depth -= 1
            if depth == 0:
                yield start, i + 1
                start = i + 1
    if start < high:
        yield start, high


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# Compel: a grammar in which a bracket is syntax where it begins a word and has its other half, and is text elsewhere.
_SIGNS = '()",.+-='
_WEIGHT = re.compile(r"\++|-+|\d+\.\d*|\.\d+|\d+")
_ATTEND = re.compile(r"\s*\.attend\s*\(\s*(\++|-+|\d+\.\d*|\.\d+|\d+)\s*\)")
_OTHER = re.compile(r"\.(swap)\s*\(|\b(withLora|useLora)\s*\(")
_LIST = re.compile(r'\s*\(\s*((?:"(?:\\"|[^"\n])*"\s*,\s*)*"(?:\\"|[^"\n])*")\s*\)\s*\.(?:and|add)\s*\(([^()]*)\)\s*', re.S)
_COMBINED = re.compile(r"\)\s*\.(and|add|blend)\s*\(")


class _Node(NamedTuple):
    """Text from `start` to `stop`, or (weight given) what is within a pair of brackets, quotes, or before a sign."""

    start: int
    stop: int
    weight: float | None = None
    inside: tuple[_Node, ...] = ()


class _Compel:
    """A recursive descent over prompt[low:high]. Each rule returns a node and where it ends, or None."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.known: dict[tuple[int, int], tuple[_Node, int] | None] = {}

    def words(self, low: int, high: int, free: bool, depth: int = 0) -> tuple[list[_Node], int]:
        """As many as there are. free: a word that fits no rule runs to the next space; else it ends the list."""
        nodes, i = [], low
        while i < high:
            if self.prompt[i].isspace():
                nodes.append(_Node(i, i + 1))
                i += 1
                continue
            found = self.group(i, high, depth) or self.word(i, high, sign=free)
            if found is None and free:
                stop = next(
                    (j for j in range(i, high) if self.prompt[j].isspace() or (self.prompt[j - 1 : j] == "," and j > i)), high
                )
                found = _Node(i, stop), stop
            elif found is None and self.prompt[i] in ",.":
                found = _Node(i, i + 1), i + 1
            if found is None:
                break
            nodes.append(found[0])
            i = found[1]
        return nodes, i

    def word(self, i: int, high: int, sign: bool) -> tuple[_Node, int] | None:
        """A word without syntax in it, with the sign behind it. sign: without one it is not taken."""
        start = i
        while i < high:
            c, after = self.prompt[i], self.prompt[i + 1 : min(i + 2, high)]
            if c == "\\" and after and after in _SIGNS:
                i += 2
            elif (c in "+-" and after and not after.isspace() and after not in _SIGNS) or not (c.isspace() or c in _SIGNS):
                i += 1
            else:
                break
        if i == start:
            return None
        weight, stop = self.weight(i, high, numbers=False)
        if weight is None:
            return None if sign else (_Node(start, i), i)
        return _Node(start, stop, weight, (_Node(start, i),)), stop

    def group(self, i: int, high: int, depth: int) -> tuple[_Node, int] | None:
        """What brackets or quotes hold, with the weight behind it."""
        if self.prompt[i] not in '("':
            return None
        if (i, high) not in self.known:
            self.known[i, high] = self._group(i, high, depth)
        return self.known[i, high]

    def _group(self, i: int, high: int, depth: int) -> tuple[_Node, int] | None:
        if depth > DEEPEST:
            return None
        if self.prompt[i] == "(":
            inside, end = self.words(i + 1, high, free=False, depth=depth + 1)
            if end >= high or self.prompt[end] != ")":
                return None
        else:
            quoted = re.compile(r'"((?:\\"|[^"\n])*)"').match(self.prompt, i, high)
            if quoted is None:
                return None
            inside, end = self.words(i + 1, quoted.end(1), free=False, depth=depth + 1)
            if end != quoted.end(1):
                return None
        weight, stop = self.weight(end + 1, high, numbers=True)
        return _Node(i, stop, 1.0 if weight is None else weight, tuple(inside)), stop

    def weight(self, i: int, high: int, numbers: bool) -> tuple[float | None, int]:
        """The weight that stands at i, and where it ends."""
        found = _ATTEND.match(self.prompt, i, high)
        text = found[1] if found else ""
        if found is None:
            found = _WEIGHT.match(self.prompt, i, high)
            text = found[0] if found else ""
            if not text or (not numbers and text[0] not in "+-"):
                return None, i
        assert found is not None
        if text[0] in "+-":
            return (ROUND if text[0] == "+" else MINUS) ** min(len(text), DEEPEST), found.end()
        number = _number(text)
        return (None, i) if number is None else (number, found.end())


def _compel(prompt: str) -> _Read:
    other = _OTHER.search(prompt)
    if other:
        _refuse(f"prompt: compel's {other[1] or other[2]} is not read here; weights, quotes and .and() are")
    weights: list[float | None] = [None] * len(prompt)
    borders: set[int] = set()
    breaks: list[tuple[int, int]] = []
    reader = _Compel(prompt)
    several = _LIST.fullmatch(prompt)
    if several and all(_number(w) == 1 for w in several[2].split(",") if w.strip()):
        spans = [m.span() for m in re.finditer(r'"(?:\\"|[^"\n])*"', prompt[: several.end(1)])]
        nodes = [node for start, stop in spans for node in reader.words(start + 1, stop - 1, free=True)[0]]
        breaks = [(a[1], b[0]) for a, b in zip(spans, spans[1:], strict=False)]
    elif combined := _COMBINED.search(prompt):
        _refuse(
            f'prompt: compel\'s .{combined[1]}() is read only as ("a", "b").and() without weights; task \'mix\' blends prompts'
        )
    else:
        nodes = reader.words(0, len(prompt), free=True)[0]

    def walk(node: _Node, weight: float) -> None:
        if node.weight is None:
            borders.add(node.start)
            for i in range(node.start, node.stop):
                escape = prompt[i] == "\\" and prompt[i + 1 : min(i + 2, node.stop)] in tuple(_SIGNS)
                weights[i] = None if escape else weight
        for inner in node.inside:
            walk(inner, weight * (1.0 if node.weight is None else node.weight))

    for node in nodes:
        walk(node, 1.0)
    return weights, {i for i in borders if i > 0 and weights[i - 1] is None}, breaks


_READERS: Final[dict[str, Callable[[str], _Read]]] = {"a1111": _a1111, "comfy": _comfy, "compel": _compel, "none": _none}


def _refuse(reason: str) -> NoReturn:
    from safelight.spec import SpecError  # pydantic costs a tenth of a second, and most prompts are fine

    raise SpecError(reason)
