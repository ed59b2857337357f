"""A prompt is the caption of the finished picture."""

from __future__ import annotations

import re
from collections.abc import Iterator

from safelight.prompt.rules.case import Case, Finding, made, short
from safelight.prompt.text import Edit

_POLITE = r"(?:(?:please|kindly|hi|hello|hey|okay|ok)\b[\s,!.:]*)*"
_ASK = (
    r"(?:(?:can|could|would|will) (?:you|someone)(?: please| kindly)?|i(?:'d| would)? (?:really )?(?:want|need|like|love|wish)(?: you)?"
    r"(?: to(?: see| have| get)?)?|we (?:want|need)(?: to see)?|help me(?: to)?|let'?s|let us|your task is to|i(?:'m| am) looking for"
    r"|(?:give|show|get) (?:me|us)|you (?:should|must|need to)|try to|prompt\s*:|imagine\s*:)"
)
_VERB = (
    r"(?:draw|paint|create|generate|make|render|produce|design|imagine|show|depict|illustrate|visuali[sz]e|sketch|photograph"
    r"|compose|craft|give|picture|build|portray)(?: (?:me|us|up|out))*"
)
_THING = (
    r"(?=\s+(?:an?|the|some|my|this|that|another|several|many|\d+|one|two|three|four|five|six|image|picture|photo|artwork)\b)"
)
_INSTRUCTION = re.compile(rf"\s*{_POLITE}(?:{_ASK}(?:\s+{_VERB})?\s+|{_VERB}{_THING}\s+|please\b[\s,!.:]*(?:{_VERB}\s+)?)")
_CHANGE = re.compile(
    r"\s*(?:please )?(?:add|remove|delete|replace|change|turn|erase|swap|increase|decrease|edit|enhance|modify|adjust|convert|transform)"
    r" (?:an?|the|this|that|his|her|its|my|all|some|any|it|them|more|less)\b"
)
_ROLE = re.compile(r"\s*(?:you are|you're|act as|pretend|as an ai|ignore (?:all|the|previous))\b")
_THANKS = re.compile(r"[\s,.]*\b(?:please|thanks|thank you)(?: a lot| so much| very much)?\b[!.\s]*$")
_ASKED = re.compile(r"\s*(?:what (?:do|does|would|did) (.+?) look like|(?:what|how) about (.+?)|what if (.+?))\s*\?+\s*$")
_ASKING = re.compile(
    r"\s*(?:is|are|was|were|do|does|did|what|who|where|when|why|how|which|can|could|would|should|will|has|have)\b"
)


def caption(case: Case) -> Iterator[Finding]:
    """Said as the caption of a finished picture: no order, no question, no thanks."""
    text = case.prompt
    order = _INSTRUCTION.match(text.said)
    if order and text.said[order.end() :].strip():
        stop = order.end()
        asked = text.slice(order.start(), stop)
        reason = f"'{asked}' is an order; the model knows pictures by their captions"
        yield made(
            "caption",
            text,
            order.start(),
            stop,
            reason,
            f"begin with '{short(text.slice(stop, len(text.raw)))}'",
            text.cut(order.start(), stop),
        )
    elif found := _CHANGE.match(text.said):
        reason = "asks for a change; a prompt says what the finished picture shows"
        yield Finding("caption", "prompt", found.span(), reason)
    elif found := _ROLE.match(text.said):
        yield Finding("caption", "prompt", found.span(), "speaks to a chat; a prompt says what the picture shows")
    thanks = _THANKS.search(text.said)
    if thanks and text.said[: thanks.start()].strip():
        edits = text.cut(thanks.start(), thanks.end())
        yield made(
            "caption",
            text,
            *thanks.span(),
            "a caption thanks nobody",
            f"leave out '{text.slice(*thanks.span()).strip(' ,')}'",
            edits,
        )
    question = re.search(r"[?\s]*\?\s*$", text.said)
    if question and not order and not thanks:
        about = _ASKED.match(text.said)
        reason = "a question; a prompt says what the picture shows"
        if about and about.lastindex:
            kept = about.span(about.lastindex)
            edits = (*text.cut(kept[1], len(text.raw)), *text.cut(0, kept[0]))
            yield made(
                "caption", text, *about.span(), reason, f"say '{short(text.slice(*kept))}'", edits if len(edits) == 2 else ()
            )
        elif _ASKING.match(text.said):
            yield Finding("caption", "prompt", (0, len(text.raw)), reason)
        else:
            edits = (Edit("prompt", question.start(), question.end(), ""),)
            yield made("caption", text, *question.span(), reason, "leave out the question mark", edits)
