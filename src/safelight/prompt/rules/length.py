"""How long a prompt is."""

from __future__ import annotations

from collections.abc import Iterator

from safelight.prompt.rules.case import Case, Finding, made
from safelight.prompt.text import Edit


def length(case: Case) -> Iterator[Finding]:
    """At most `max_length` characters."""
    for text in case.both:
        n = len(text.raw)
        if n <= case.max_length:
            continue
        ends = [item.stop for item in text.items if item.stop <= case.max_length]
        stop = ends[-1] if ends else text.raw.rfind(" ", 1, case.max_length + 1)
        stop = stop if stop > 0 else case.max_length
        edits = (Edit(text.field, stop, n, ""),)
        reason = f"{n} characters, {n - case.max_length} more than {case.max_length}: what stands last counts least"
        yield made(
            "length", text, case.max_length, n, reason, f"end it behind '...{text.slice(max(0, stop - 20), stop)}'", edits
        )
