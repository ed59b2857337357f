"""Alphabets: which of a picture's bytes is which token, and back."""

from __future__ import annotations

from functools import lru_cache

import torch
from pydantic import Field, field_validator
from torch import Tensor

from safelight.data import Pictures
from safelight.spec import Spec, SpecError


class Alphabet(Spec, family="alphabet"):
    """A map between bytes and K tokens 0..K-1. A kind gives `table` and `bytes`.

    text: whether the bytes are characters.
    """

    @property
    def text(self) -> bool:
        return False

    @property
    def tokens(self) -> int:
        """K."""
        raise NotImplementedError(type(self).__name__)

    def table(self) -> list[int]:
        """The token of each of the 256 bytes, -1 for a byte that is none."""
        raise NotImplementedError(type(self).__name__)

    def bytes(self) -> list[int]:
        """The byte of each token."""
        raise NotImplementedError(type(self).__name__)

    def read(self, pixels: Tensor) -> Tensor:
        """Tokens of bytes (uint8), as float32 of the same shape. Raises SpecError for a byte that is no token."""
        found = _tensor(self, "table").to(pixels.device)[pixels.long()]
        if bool((found < 0).any()):
            stray = int(pixels[found < 0][0])
            named = f" ('{chr(stray)}')" if self.text else ""
            raise SpecError(f"alphabet '{self.kind}': byte {stray}{named} of the data is none of its {self.tokens} tokens")
        return found.float()

    def check(self, pictures: Pictures) -> None:
        """Raise SpecError when a byte of the pictures is no token."""
        if -1 in self.table():
            for part in torch.arange(pictures.n).split(4096):
                self.read(pictures.batch(part))

    def write(self, x: Tensor) -> Tensor:
        """The bytes (uint8) of tokens (any number type)."""
        return _tensor(self, "bytes").to(x.device)[x.long()].to(torch.uint8)

    def say(self, x: Tensor) -> list[str]:
        """The texts of tokens (B, ...), in reading order."""
        return [bytes(row).decode("latin-1") for row in self.write(x).flatten(1).cpu().numpy()]


class Characters(Alphabet, kind="characters"):
    """A token for each of some characters of Latin-1; the default is text8's, a blank and 26 letters."""

    symbols: str = " abcdefghijklmnopqrstuvwxyz"

    @field_validator("symbols")
    @classmethod
    def _distinct(cls, value: str) -> str:
        if len(set(value)) < max(len(value), 2) or any(ord(c) > 255 for c in value):
            raise ValueError("at least two characters of Latin-1, each once")
        return value

    @property
    def text(self) -> bool:
        return True

    @property
    def tokens(self) -> int:
        return len(self.symbols)

    def table(self) -> list[int]:
        places = {ord(c): i for i, c in enumerate(self.symbols)}
        return [places.get(byte, -1) for byte in range(256)]

    def bytes(self) -> list[int]:
        return [ord(c) for c in self.symbols]


class Grey(Alphabet, kind="grey"):
    """`levels` equal parts of 0..255: token floor(byte levels / 256), shown as 255 token / (levels - 1)."""

    levels: int = Field(16, ge=2, le=256)

    @property
    def tokens(self) -> int:
        return self.levels

    def table(self) -> list[int]:
        return [byte * self.levels // 256 for byte in range(256)]

    def bytes(self) -> list[int]:
        return [round(255 * token / (self.levels - 1)) for token in range(self.levels)]


@lru_cache(maxsize=32)
def _tensor(alphabet: Alphabet, which: str) -> Tensor:
    return torch.tensor(getattr(alphabet, which)())
