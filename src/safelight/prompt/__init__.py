"""Prompts as words, before any network sees them: what brackets mean (`parse`), what is worth saying otherwise (`lint`).

Nothing here imports torch, so `safelight prompt check` answers at once. How weights act on a network's states is text/prompt.py.
"""

from __future__ import annotations

from safelight.prompt.lint import Edit, Finding, Findings, check, fix, hints, vocabulary_of, words_of
from safelight.prompt.parse import MODES, Marks, Segment, marks, parse

__all__ = [
    "MODES",
    "Edit",
    "Finding",
    "Findings",
    "Marks",
    "Segment",
    "check",
    "fix",
    "hints",
    "marks",
    "parse",
    "vocabulary_of",
    "words_of",
]
