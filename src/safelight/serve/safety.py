"""Safety: policies that look at what is asked for and at what was made, and say what they refuse and why.

A policy is a kind of the family `safety`. It is told a request's texts before anything is queued, and a picture before it is handed
out. The default refuses nothing: what is allowed on somebody's own machine is their business.
"""

from __future__ import annotations

import functools
import io
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from safelight.spec import ROOMS, Spec, SpecError

ROOMS.setdefault("safety", "safelight.serve.safety")


class Refusal(NamedTuple):
    """What was refused (a word, a label of a picture), by which rule, and why, in a sentence."""

    what: str
    rule: str
    why: str


class Refused(SpecError):
    """A policy refused a request or a picture; `refusal` says what and why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"refused by the safety policy '{refusal.rule}': {refusal.why}")
        self.refusal = refusal


class Policy(Spec, family="safety"):
    """What may be asked for and shown."""

    def words(self, text: str) -> Refusal | None:
        """What it has against a text, or None."""
        return None

    def picture(self, pixels: np.ndarray) -> Refusal | None:
        """What it has against a picture, uint8 (H, W, 3), or None."""
        return None

    @property
    def looks(self) -> bool:
        """Whether it looks at pictures at all."""
        return type(self).picture is not Policy.picture

    def ready(self) -> None:
        """Raise what is missing for it, such as an optional package, before it is needed."""


class NoPolicy(Policy, kind="none"):
    """Refuses nothing."""


class Words(Policy, kind="words"):
    """Refuses texts in which one of `refuse` stands as a word or a phrase, whatever its case, accents and spacing.

    reason: what is told to whoever asked.
    """

    refuse: tuple[str, ...] = Field((), max_length=10_000)
    reason: str = Field("this word is not used here", max_length=300)

    def words(self, text: str) -> Refusal | None:
        plain = f" {_plain(text)} "
        for word in self.refuse:
            if (bare := _plain(word)) and f" {bare} " in plain:
                return Refusal(word, "words", f"'{word}': {self.reason}")
        return None


class NudeNet(Policy, kind="nudenet"):
    """Refuses pictures in which the detector of the package nudenet (an extra) finds one of `labels` with `threshold` or more."""

    labels: tuple[str, ...] = (
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
    )
    threshold: float = Field(0.5, ge=0, le=1)

    def ready(self) -> None:
        _detector()

    def picture(self, pixels: np.ndarray) -> Refusal | None:
        for found in _detector().detect(np.ascontiguousarray(pixels[..., ::-1])):  # it reads blue first
            name, score = str(found["class"]), float(found["score"])
            if name in self.labels and score >= self.threshold:
                return Refusal(
                    name, "nudenet", f"{name.lower().replace('_', ' ')} ({score:.2f} of 1, from {self.threshold:g} on)"
                )
        return None


@functools.cache
def _detector() -> Any:
    from nudenet import NudeDetector

    return NudeDetector()


def _plain(text: str) -> str:
    """Letters and digits alone, folded, without accents and signs that are not seen, single spaces between."""
    bare = "".join(
        c for c in unicodedata.normalize("NFKD", text.casefold()) if unicodedata.category(c) not in ("Mn", "Me", "Cf")
    )
    return " ".join(re.findall(r"\w+", bare))


def texts(request: Mapping[str, Any]) -> list[str]:
    """Every text of a described request that says what shall be seen: prompts, ends of morphs, expressions.

    The negative prompt too where guidance may be weaker than 1, or is no plain scale: below 1 it is what is painted.
    """
    mix = request.get("mix") or {}
    scale = mix.get("scale", 1) if isinstance(mix, Mapping) else 1
    against = isinstance(scale, int | float) and scale >= 1
    found: list[str] = []

    def walk(value: Any, name: str = "") -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, str(key))
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner, name)
        elif isinstance(value, str) and (name in ("prompt", "expression", "captions") or (name == "negative" and not against)):
            found.append(value)

    walk(request)
    return found


def check_words(policy: Policy, request: Mapping[str, Any]) -> None:
    """Raise Refused for the first text of a described request that a policy refuses."""
    for text in texts(request):
        if (refusal := policy.words(text)) is not None:
            raise Refused(refusal)


def check_picture(policy: Policy, data: bytes) -> None:
    """Raise Refused for the bytes of a picture that a policy refuses."""
    if not policy.looks:
        return
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if (refusal := policy.picture(np.asarray(image.convert("RGB")))) is not None:
            raise Refused(refusal)


# What IPTC calls a picture that a trained model made.
MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


class Provenance(Spec):
    """Content credentials (C2PA, by the package c2pa-python, an extra): a signed statement in the file that a program made it.

    certificate, key: PEM files of the signer. algorithm: of the key.
    """

    certificate: Path
    key: Path
    algorithm: str = "es256"


def signed(data: bytes, mime: str, by: Provenance, title: str) -> bytes:
    """A picture's file with a signed manifest that says that a trained model made it, which one, and with what program; pixels and note
    stay as they are. Raises SpecError where signing fails."""
    import c2pa

    from safelight import __version__, picture

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture"
        file.write_bytes(data)
        note = picture.note(file)
    agent = {"name": "Safelight", "version": __version__}
    action: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": MADE_BY_AI, "softwareAgent": agent}
    if note is not None:
        action["description"] = f"Made by the model {note.model.name}"
        action["parameters"] = {"model": note.model.name, "fingerprint": note.model.fingerprint}
    manifest = {
        "claim_generator_info": [agent],
        "title": title,
        "format": mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    try:
        info = c2pa.C2paSignerInfo(
            alg=by.algorithm.encode(), sign_cert=by.certificate.read_bytes(), private_key=by.key.read_bytes(), ta_url=None
        )
        out = io.BytesIO()
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest) as builder:
            builder.sign(signer, mime, io.BytesIO(data), out)
        return out.getvalue()
    except Exception as error:  # its errors have no common root
        raise SpecError(f"the picture could not be signed: {' '.join(str(error).split())[:200]}") from None


__all__ = [
    "MADE_BY_AI",
    "NoPolicy",
    "NudeNet",
    "Policy",
    "Provenance",
    "Refusal",
    "Refused",
    "Words",
    "check_picture",
    "check_words",
    "signed",
    "texts",
]
