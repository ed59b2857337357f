"""Brackets and the weights they make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from safelight.prompt.parse import MINUS, ROUND
from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.text import Edit, Text

HEAVIEST: Final = 1.6
LIGHTEST: Final = 0.1


def syntax(case: Case) -> Iterator[Finding]:
    """Brackets in pairs, written as the chosen mode reads them."""
    for text in case.both:
        if text.emphasis != "none":
            yield from unpaired(text)
            yield from _foreign(text)


def unpaired(text: Text) -> Iterator[Finding]:
    pairs = {")": "(", "]": "["} if text.emphasis == "a1111" else {")": "("}
    stacks: dict[str, list[int]] = {opening: [] for opening in pairs.values()}
    alone: list[int] = []
    i = 0
    while i < len(text.raw):
        sign = text.raw[i]
        if sign == "\\":
            i += 2
            continue
        if sign in stacks:
            stacks[sign].append(i)
        elif sign in pairs and not (stacks[pairs[sign]] and stacks[pairs[sign]].pop() >= 0):
            alone.append(i)
        i += 1
    for place in sorted(alone + [p for stack in stacks.values() for p in stack]):
        sign = text.raw[place]
        number = re.match(r"[^()\[\]]*?:\s*\d*\.?\d+(?![\d.]|,\d)", text.raw[place + 1 :]) if sign == "(" else None
        if number and text.emphasis != "compel":
            edits = (Edit(text.field, place + 1 + number.end(), place + 1 + number.end(), ")"),)
            remedy = f"close it: '({short(number[0])})'"
        else:
            edits, remedy = (
                (Edit(text.field, place, place + 1, ""),),
                f"leave out the '{sign}' (or write '\\{sign}' for the sign itself)",
            )
        reach = "reaches to the end" if text.emphasis == "a1111" and sign in "([" else "is read as text"
        yield made("syntax", text, place, place + 1, f"'{sign}' has no other half and {reach}", remedy, edits)


# Where a weight is written as another tool would have it. Each: what, for which modes, why, how it is written here.
_ROUND_THEN_NUMBER = re.compile(r"\)(\d*\.\d+)(?![\d)])")
_SIGNED = re.compile(r"(?<![\w+\\)-])([A-Za-z][A-Za-z'’]{2,}|\([^()]*\))(\+{2,}|-{2,})(?=[\s,.;)]|$)")
_COLON = re.compile(r"(?<!\\)\(([^()]*?):\s*(\d*\.?\d+)\s*\)")
_SQUARE = re.compile(r"(?<!\\)\[([^\[\]|:]+)\]")
_COMMA = re.compile(r":\s*(\d+),(\d+)\s*\)")
_UNKNOWN = (
    (
        re.compile(r"<lora\s*:[^<>]*>", re.I),
        "an adapter is no word: it is taken out, and worn where its file is given (--lora)",
    ),
    (re.compile(r"<(?:lyco|hypernet)\s*:[^<>]*>", re.I), "an adapter of this kind is not read"),
    (
        re.compile(r"(?<!\\)\[[^\[\]]*:\s*[\d.]+\s*\]"),
        "editing a prompt during a run is not in this language; the brackets only weigh",
    ),
    (re.compile(r"(?<!\\)\[[^\[\]]*\|[^\[\]]*\]"), "alternating words is not in this language; the brackets only weigh"),
    (re.compile(r"\{[^{}]*\|[^{}]*\}"), "choosing among words is not in this language; give several prompts"),
    (re.compile(r"\bAND\b(?!\s*$)"), "AND as in composable prompts is not in this language; it is the word 'and'"),
)


def _foreign(text: Text) -> Iterator[Finding]:
    mode, raw = text.emphasis, text.raw
    said = [(m, reason) for pattern, reason in _UNKNOWN for m in pattern.finditer(raw) if "[" not in m[0] or mode == "a1111"]
    for m, reason in said:
        yield Finding("syntax", text.field, m.span(), reason)
    ways: list[tuple[int, int, str, str]] = [
        (m.start(), m.end(), f"a decimal comma: '{m[0][:-1]}' is text", f":{m[1]}.{m[2]})") for m in _COMMA.finditer(raw)
    ]
    if mode == "compel":
        ways += [(*m.span(), "a1111's way; here it is text", f"({m[1]}){m[2]}") for m in _COLON.finditer(raw)]
    else:
        ways += [
            (m.start(), m.end(), "compel's way; here the number is text", f":{m[1]})")
            for m in _ROUND_THEN_NUMBER.finditer(raw)
            if text.marks.weights[m.start()] is None and not re.search(r":\s*[\d.]+$", raw[: m.start()])
        ]
        ways += [
            (
                *m.span(),
                "compel's way; here the signs are text",
                f"({m[1].strip('()')}:{_decimal((ROUND if m[2][0] == '+' else MINUS) ** len(m[2]))})",
            )
            for m in _SIGNED.finditer(raw)
        ]
    if mode in ("comfy", "compel"):
        light = {"comfy": "({}:0.91)", "compel": "({})0.91"}[mode]
        ways += [(*m.span(), "a1111's way; here square brackets are text", light.format(m[1])) for m in _SQUARE.finditer(raw)]
    for start, stop, reason, instead in ways:
        reason = f"'{short(raw[start:stop])}' is {reason}" if not reason.startswith("a decimal") else reason
        yield made("syntax", text, start, stop, reason, f"write '{short(instead)}'", (Edit(text.field, start, stop, instead),))


def _decimal(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


_WRITTEN = {
    "a1111": re.compile(r":\s*([+-]?[.\d]+)\s*\)"),
    "comfy": re.compile(r":\s*([+-]?[.\d]+)\s*\)"),
    "compel": re.compile(r'[)"](\d+\.?\d*|\.\d+|\++|-+)'),
}


def weight(case: Case) -> Iterator[Finding]:
    """Weights from 0.1 to 1.6: beyond, words tear the picture apart or are better left out."""
    for text in case.both:
        if text.emphasis == "none":
            continue
        weights = text.marks.weights
        runs: list[tuple[int, int, float]] = []
        for i, w in enumerate(weights):
            if w is not None and not (LIGHTEST <= w <= HEAVIEST):
                if runs and runs[-1][2] == w and all(v is None for v in weights[runs[-1][1] : i]):
                    runs[-1] = (runs[-1][0], i + 1, w)
                else:
                    runs.append((i, i + 1, w))
        for start, stop, value in runs:
            bound = HEAVIEST if value > HEAVIEST else LIGHTEST
            edits: tuple[Edit, ...] = ()
            found = _WRITTEN[text.emphasis].match(text.raw, stop) if stop < len(text.raw) and weights[stop] is None else None
            if found and (number := _float(found[1])) is not None and not (LIGHTEST <= number <= HEAVIEST):
                edits = (Edit(text.field, *found.span(1), _decimal(bound)),)
            reason = f"'{short(text.slice(start, stop))}' weighs {value:.3g}: from {LIGHTEST:g} to {HEAVIEST:g} is sane"
            yield made("weight", text, start, stop, reason, f"write {bound:g}", edits)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
