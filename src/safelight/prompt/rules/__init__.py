"""The rules of `lint`: each reads a prompt and says what would be better said otherwise, why, and how.

A rule is a function of a `Case`; a new one joins `RULES`, and is known by its name. They look for words, they do not understand: a fix
is proposed where the words leave little doubt, and nothing is changed unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from safelight.prompt.rules.camera import camera
from safelight.prompt.rules.caption import caption
from safelight.prompt.rules.case import Case, Finding
from safelight.prompt.rules.content import contradiction, duplicate, unknown
from safelight.prompt.rules.length import length
from safelight.prompt.rules.negation import negation
from safelight.prompt.rules.order import order
from safelight.prompt.rules.syntax import syntax, weight

# In the order in which they are mended: signs before words, what goes before what is put in order.
RULES: Final[tuple[Callable[[Case], Iterator[Finding]], ...]] = (
    syntax,
    weight,
    caption,
    negation,
    duplicate,
    contradiction,
    camera,
    unknown,
    order,
    length,
)

__all__ = ["RULES", "Case", "Finding"]
