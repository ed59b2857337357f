"""The `parameters` text that A1111 began and most tools read; what its names mean is in interop/names.py.

    a cat on a mat
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 123, Size: 512x512

A text has no escapes for its prompts: a line that begins with "Negative prompt:" ends the prompt, lines are stripped, and a last
line with fewer than three `Key: value` is a line of the prompt. What cannot be told that way is shown as near as it can be, and
told exactly by the three fields `EXACT`, whose values are quoted as A1111 quotes any value. So `parse(write(x)) == x` always.

This module loads without torch.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safelight.interop import names
from safelight.interop.names import GRIDS, SAMPLERS, Names, elsewhere, known, sampler_and_grid
from safelight.spec import Spec, SpecError, describe

if TYPE_CHECKING:
    from safelight.model import Model

_NEGATIVE = "Negative prompt:"
# A name and its value, the value quoted as JSON where it holds a comma, a colon or a line's end; as A1111 reads them.
# (A name of no more than 100 signs: where there is no colon every place of a line is tried for the beginning of one.)
_FIELD = re.compile(r'(\w[\w \-/]{1,99}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_NAME = re.compile(r"\w[\w \-/]{0,98}[\w\-/]")
_FEWEST = 3  # fields; a last line with fewer is a line of the prompt
EXACT = ("Safelight prompt", "Safelight negative prompt", "Safelight texts")


class Infotext(NamedTuple):
    """A picture's prompt, negative prompt, and settings by name, in order."""

    prompt: str
    negative: str = ""
    settings: dict[str, str] = {}


def write(info: Infotext) -> str:
    """The text of an Infotext; `parse` gives it back whatever is in it.

    Raises SpecError for a setting's name that the format cannot hold: fewer than two characters or more than 100, or others than
    letters, digits, `_`, `-`, `/` and spaces inside. Surrogates that stand alone are no text, and refused too.
    """
    for name in info.settings:
        if not _NAME.fullmatch(name) or name in EXACT:
            raise SpecError(f"'{name}' cannot be the name of a setting in a parameters text")
    try:
        "".join((info.prompt, info.negative, *info.settings.values())).encode()
    except UnicodeEncodeError:
        raise SpecError("a parameters text cannot hold half of a character (a lone surrogate)") from None
    plain = _laid_out(info.prompt, info.negative, info.settings)
    if _readable(info.prompt) and _readable(info.negative) and _read(plain) == info:
        return plain
    exact = dict(zip(EXACT, (info.prompt, info.negative, "exact"), strict=True))
    return _laid_out(_shown(info.prompt), _shown(info.negative), info.settings | exact)


def parse(text: str) -> Infotext:
    """What a `parameters` text says, read as A1111 reads it. Any text can be read; one without settings is a prompt."""
    found = _read(text)
    if EXACT[2] not in found.settings:
        return found
    settings = {name: value for name, value in found.settings.items() if name not in EXACT}
    prompt, negative = found.settings.get(EXACT[0], found.prompt), found.settings.get(EXACT[1], found.negative)
    return Infotext(prompt, negative, settings)


def _laid_out(prompt: str, negative: str, settings: Mapping[str, str]) -> str:
    lines = [prompt]
    if negative:
        lines.append(f"{_NEGATIVE} {negative}")
    if settings:
        lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def _read(text: str) -> Infotext:
    *lines, last = text.strip().split("\n")
    fields = _FIELD.findall(last)
    if len(fields) < _FEWEST:
        lines, fields = [*lines, last], []
    texts = {"prompt": "", "negative": ""}
    now = "prompt"
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            now, line = "negative", line.removeprefix(_NEGATIVE).strip()
        texts[now] += f"\n{line}" if texts[now] else line
    return Infotext(texts["prompt"], texts["negative"], {name: _unquoted(value) for name, value in fields})


def _quoted(value: str) -> str:
    """A value as it stands, or as JSON where it would be read as something else."""
    plain = value and value == value.strip() and not re.search(r'[,:\n\r"]', value) and _readable(value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, str) else value


def _readable(text: str) -> bool:
    """Whether a text has no control characters, which PNG's text chunks and text boxes do not keep, but for tabs and newlines."""
    return not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in text)


def _shown(text: str) -> str:
    """A prompt that the format cannot hold, as near as it can. A space before the colon is the same tokens to every tokenizer."""
    clean = "".join(c if _readable(c) else " " for c in text.replace("\r\n", "\n"))
    return "\n".join(re.sub(r"^(\s*Negative prompt):", r"\1 :", line) for line in clean.split("\n"))


# ---- from a request ----------------------------------------------------------------------------------------------------------


class Weights(Protocol):
    """What made a picture; `safelight.picture.Source` is one."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


class Noted(Protocol):
    """Which picture of a run, and made with what; `safelight.picture.Note` is one."""

    @property
    def index(self) -> int: ...

    @property
    def model(self) -> Weights: ...

    @property
    def versions(self) -> Mapping[str, str]: ...


def of(request: Spec | Mapping[str, Any], note: Noted | None = None) -> Infotext:
    """What a resolved request says in A1111's terms, of picture `note.index` of the run (without a note: the first).

    request: a request or its description. What A1111 has no name for stands under ours; a reader of our own takes the whole
    request from the picture's note, where nothing is left out. Raises SpecError for a description that `describe` did not make.
    """
    asked = describe(request) if isinstance(request, Spec) else dict(request)
    _described(asked)
    number = note.index if note is not None else 0
    task, sampler, grid, mix = (asked.get(part) or {} for part in ("task", "sampler", "grid", "mix"))
    prompts = asked.get("prompt") or [""]
    scale = 1 if mix.get("kind") == "none" else mix.get("scale")
    kind = task.get("kind") if task.get("kind") != "text" else None
    variation, churn = asked.get("variation") or {}, asked.get("churn") or {}
    varied = kind == "vary" and task.get("of") == {"kind": "text"} and task.get("number") is None and not variation
    plain = mix.get("kind") in ("cfg", "none", None) and not isinstance(scale, Mapping)
    interval = list(mix.get("interval") or ())
    said: dict[str, Any] = {
        "Steps": asked.get("steps"),
        "Sampler": _theirs(sampler, SAMPLERS),
        "Schedule type": names.named(grid) if grid.get("kind") == "published" else _theirs(grid, GRIDS),
        "CFG scale": None if isinstance(scale, Mapping) else scale,
        "Seed": asked.get("seed"),
    }
    if asked.get("size"):
        height, width = asked["size"]
        said["Size"] = f"{width}x{height}"
    second = _second(task)
    if second is not None:
        (high, wide), strength, count, upscaler = second
        said |= {
            "Size": f"{wide}x{high}",
            "Denoising strength": strength,
            "Hires resize": f"{width}x{height}",
            "Hires steps": count,
        }
        said["Hires upscaler"] = upscaler
    if note is not None:
        # A1111 names a model by the first ten digits of its file's SHA-256, of which a fingerprint has sixteen.
        said |= {"Model hash": note.model.fingerprint[:10], "Model": note.model.name}
    said |= {
        "Seed index": (asked.get("index") or 0) + number or None,
        **({"Denoising strength": task.get("strength")} if "picture" in task else {}),
        "Variation seed": task.get("seed") if varied else variation.get("seed"),
        "Variation seed strength": task.get("strength") if varied else variation.get("strength"),
        "Temperature": None if asked.get("temperature", 1.0) == 1 else asked["temperature"],
        "Emphasis": {"a1111": None, "none": "None"}.get(asked.get("emphasis", "a1111"), asked.get("emphasis")),
        "Guidance": None if plain else mix.get("kind"),
        "CFG rescale": mix.get("rescale") or None,
        "CFG interval": None if interval in ([], [0, 1]) else " to ".join(map(_told, interval)),
        "Bends": ", ".join(str(bend.get("kind")) for bend in asked.get("bends") or ()),
        "Task": None if varied or second is not None else kind,
        "Lora hashes": _hashes(asked.get("loras")),
        "TI hashes": _hashes(asked.get("words")),
    }
    for family, spec in (("sampler", sampler), ("grid", grid)):
        for field, value in spec.items():
            if (
                field != "kind"
                and value not in (None, [])
                and value != _PLAIN.get((spec.get("kind"), field), _PLAIN.get(field))
            ):
                said[_named(family, str(spec.get("kind")), field)] = value
    if churn.get("amount"):
        said |= {
            _SAMPLER_FIELDS[name](""): churn.get(field)
            for field, name in _CHURN.items()
            if churn.get(field) != _PLAIN.get(name)
        }
    said["Version"] = f"safelight {note.versions.get('safelight', '')}".strip() if note is not None else "safelight"
    if said["Schedule type"] is None:
        said["Schedule type"] = grid.get("kind")
    settings = {name: _told(value) for name, value in said.items() if value not in (None, "")}
    prompt = str(prompts[min(number // (asked.get("count") or 1), len(prompts) - 1)])
    worn = [_tag(use) for use in asked.get("loras") or ()]
    return Infotext(" ".join(filter(None, (prompt, *worn))) if worn else prompt, str(asked.get("negative", "")), settings)


def _tag(use: Mapping[str, Any]) -> str:
    """An adapter as A1111's prompts name it: one weight, or the text encoder's and the network's."""
    weights = (use.get("text"), use.get("weight", 1)) if use.get("text") is not None else (use.get("weight", 1),)
    return ":".join(("<lora", str(use.get("name")), *map(_told, weights))) + ">"


def _hashes(uses: Any) -> str:
    """`name: hash, ...` of those whose file is known."""
    return ", ".join(f"{use.get('name')}: {use.get('hash')}" for use in uses or () if use.get("hash"))


def _second(task: Mapping[str, Any]) -> tuple[list[int], float, int | None, str] | None:
    """(first size, strength, steps, upscaler) of a second pass that A1111 can say in full; None for any other task."""
    found = task.get("second")
    if task.get("kind") != "hires" or not isinstance(found, Mapping) or not task.get("first"):
        return None
    fit = found.get("fit") or {}
    used: dict[str, Any] = {"latent": found["latent"]} if found.get("latent") else {}
    if not used and fit not in ({}, {"kind": "crop", "filter": "lanczos"}):
        used = {"fit": fit}
    name = next((name for name, fields in names.UPSCALERS.items() if fields == used), None)
    if name is None or found.get("steps") != "exact" or found.get("tile") is not None:
        return None
    return list(task["first"]), float(found.get("strength", 0.35)), found.get("count"), name


# Our field -> A1111's name for it, given the kind. What stands at the value beside it in _PLAIN is not told.
_SAMPLER_FIELDS: dict[str, Callable[[str], str]] = {
    "eta": lambda kind: "Eta DDIM" if kind == "ddim" else "Eta",
    "churn": lambda kind: "Sigma churn",
    "churn_min": lambda kind: "Sigma tmin",
    "churn_max": lambda kind: "Sigma tmax",
    "churn_scale": lambda kind: "Sigma noise",
    "variance": lambda kind: "Variance",
    "b": lambda kind: "UniPC variant",
    "k": lambda kind: "UniPC order" if kind == "unipc" else "Sampler k",
}
# A request's churn -> the field of euler and heun that is the same.
_CHURN = {"amount": "churn", "s_min": "churn_min", "s_max": "churn_max", "s_noise": "churn_scale"}
# What is told in a word and no number.
_WORDS = ("Variance", "UniPC variant")
_GRID_FIELDS: dict[str, Callable[[str], str]] = {
    "rho": lambda kind: "Schedule rho",
    "s_min": lambda kind: "Schedule min sigma",
    "s_max": lambda kind: "Schedule max sigma",
    "shift": lambda kind: "Shift",
    "start": lambda kind: "Schedule start",
}
# By which a text of ours says that a grid is `published`.
_PUBLISHED = ("spacing", "offset", "closed", "between", "above", "curve", "whole", "told", "end", "pure")
_PLAIN: dict[Any, Any] = {
    "eta": 1.0,
    ("ddim", "eta"): 0.0,
    "churn": 0.0,
    "churn_min": 0.0,
    "churn_scale": 1.0,
    "variance": "small",
    "k": 3,
    ("lms", "k"): 4,
    "form": "velocity",
    ("abm", "correct"): 2,
    ("sa", "correct"): 3,
    ("unipc", "correct"): True,
    "spread": 0.14,
    "gamma": 1.0,
    "base": "log-s",
    "brownian": False,
    "r": 0.5,
    "plain": False,
    "last": 1,
    "b": "bh2",
    "runge_kutta": True,
    "tau": 1.0,
    "tau_min": 0.0,
    ("langevin", "times"): 5,
    ("repaint", "times"): 5,
    ("pc", "times"): 1,
    ("langevin", "size"): 0.2,
    ("pc", "snr"): 0.16,
    ("repaint", "inner"): {"kind": "ddim", "eta": 0.0, "free_noise": False, "stride": False},
    ("pc", "predictor"): {"kind": "ddim", "eta": 1.0, "free_noise": False, "stride": False},
    "rho": 7.0,
    ("lu", "rho"): 1.0,
    "start": 1.0,
    "power": 1.0,
    "entries": 1000,
    "a": 0.6,
    ("beta", "b"): 0.6,
    ("beta-noise", "b"): 0.6,
    ("even", "last"): 1e-3,
    ("dpm2", "eta"): 0.0,
    ("dpm++single", "eta"): 0.0,
    ("dpm++single", "k"): 2,
    "heun": False,
    "lower": False,
    "euler_last": False,
    "midpoint": False,
    "free_noise": False,
    "stride": False,
    "twice": False,
    "slope": "noise",
    "spacing": "leading",
    "offset": 0,
    "closed": False,
    "between": "entries",
    "whole": False,
    "told": "exact",
    "end": "data",
    "pure": False,
    "steps": 50,
}


def _named(family: str, kind: str, field: str) -> str:
    """What a text calls a field of a sampler or a grid: A1111's name for it, else ours."""
    names = _SAMPLER_FIELDS if family == "sampler" else _GRID_FIELDS
    return (
        names[field](kind)
        if field in names
        else f"{'Sampler' if family == 'sampler' else 'Schedule'} {field.replace('_', ' ')}"
    )


def _described(asked: Mapping[str, Any]) -> None:
    """Raises SpecError where a part is no description: in a hand-written note it may be a name alone, which other readers take."""
    parts: list[tuple[str, Any, Any]] = [(name, asked.get(name), Mapping) for name in ("task", "sampler", "grid", "mix")]
    parts += [(name, asked.get(name), int) for name in ("count", "index")]
    parts += [(name, asked.get(name), list | tuple) for name in ("prompt", "bends", "loras", "words")]
    several = [(name, asked.get(name)) for name in ("bends", "loras", "words")]
    parts += [(name, one, Mapping) for name, value in several if isinstance(value, list) for one in value]
    for name, value, shape in parts:
        if value is not None and not isinstance(value, shape):
            raise SpecError(f"request.{name}: not as a picture's note holds it (given: {str(value)[:60]!r})")


def _theirs(spec: Mapping[str, Any], table: tuple[Names, ...]) -> str | None:
    """A1111's name of a part, of several the one that says most of its fields; ours where it has none."""
    fitting = [
        row
        for row in table
        if row.ours == spec.get("kind") and row.a1111 and all(spec.get(k) == v for k, v in row.fields.items())
    ]
    return max(fitting, key=lambda row: len(row.fields)).a1111 if fitting else spec.get("kind")


def _told(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- to a request ------------------------------------------------------------------------------------------------------------

# What is known and cannot be followed here, by the beginning of its name, with the reason.
_REFUSED: dict[str, str] = {
    "Hires": "the second pass is as the first here but for its size, strength and steps",
    "Denoising strength": "the text asks for no second pass, and names no picture",
    "First pass size": "Size says it",
    "Face restoration": "no face restoration here",
    "Lora hashes": "no such adapter is at hand: give its file with --lora",
    "TI hashes": "no such learned word is at hand: give its file with --embedding",
    "Hypernet": "there are no hypernetworks here",
    "ENSD": "the noise of a seed is drawn by another generator here",
    "RNG": "the noise of a seed is drawn by another generator here",
    "VAE": "the codec is part of the model here",
    "Mask": "the text does not hold the mask",
    "Inpaint": "the text does not hold the mask",
    "Masked": "the text does not hold the mask",
    "Conditional mask weight": "the text does not hold the mask",
    "Seed resize from": "noise is not resized here",
    "Refiner": "the text does not say where its model lies: ask for the task refine",
    "Discard penultimate sigma": "grids leave no step out here",
    "NGMS": "guidance is skipped by times here, not by noise levels: mix.interval",
    "Skip Early CFG": "say it as mix.interval",
    "Token merging ratio": "tokens are not merged here",
    "Noise Schedule": "the noise schedule is the model's own here",
    "Downcast alphas_cumprod": "the noise schedule is the model's own here",
    "Tiling": "pictures do not wrap around here",
    "Styles": "styles are not known here",
    "ControlNet": "control pictures are not held by the text",
    "Bends": "the text does not hold their fields, the model's own are taken",
}
# What says nothing of the pixels.
_SILENT = ("Version", "User", "Batch size", "Batch pos", "Model", "Model hash", "Created Date")
_ADAPTER = re.compile(r"<(?:lora|lyco|hypernet):[^>\n]*>")
_SCHEDULED = re.compile(r"(?<!\\)\[[^\[\]]*(?::[\d.]+|\|[^\[\]]*)\]")
# How far a model is sent beyond the pictures it has seen before its own size is taken instead: in pixels, as a ratio.
_FARTHEST = 4
# What a request takes (task/base.py, guide/strength.py, which load torch).
_MOST_STEPS, _MOST_SCALE, _WARMEST = 100_000, 1_000_000, 10


def to_request(
    info: Infotext, model: Model, source: str | None = None, at_hand: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """(request, reports): what a text asks for as fields of a request to `model`, and a line for all that it cannot be given.

    A field that can be followed is followed silently; one that is followed nearly, or not at all, has its line.
    source: the seal of the picture it was made from, which a text with a denoising strength does not name. at_hand: the names of the
    adapters and learned words whose files are; of others it is told that they are left out.
    """
    reader = _Reader(info, model, source, at_hand)
    reader.read()
    return reader.given, reader.reports


class _Reader:
    """One translation under way."""

    def __init__(self, info: Infotext, model: Model, picture: str | None, at_hand: Collection[str] = ()) -> None:
        self.info, self.model, self.picture, self.at_hand = info, model, picture, at_hand
        self.left = dict(info.settings)
        self.given: dict[str, Any] = {}
        self.reports: list[str] = []
        self.native = self.left.get("Version", "").startswith("safelight")

    def read(self) -> None:
        self.emphasis()
        self.given |= {"prompt": [self.words(self.info.prompt)], "negative": self.words(self.info.negative, "negative prompt")}
        self.learned()
        self.whole("Steps", "steps", least=1, most=_MOST_STEPS)
        self.sampler()
        self.noise()
        self.guidance()
        self.seed()
        self.size()
        self.clip()
        self.source()
        self.made_by()
        for name, value in self.left.items():
            if name not in _SILENT:
                why = next((why for start, why in _REFUSED.items() if name.startswith(start)), "not known here")
                self.say(name, value, why)

    def say(self, name: str, value: str, why: str) -> None:
        """One line about one setting."""
        self.reports.append(f"{name}: {' '.join(value.split())[:60]} is not followed: {why}")

    def whole(self, name: str, field: str, least: float = -math.inf, most: float = math.inf) -> None:
        """Take an integer setting over as a field."""
        value = self.number(name)
        if value is None:
            return
        if value != int(value) or not least <= value <= most:
            ends = ("" if least == -math.inf else f" from {least}") + ("" if most == math.inf else f" to {most}")
            self.say(name, _told(value), f"it must be a whole number{ends}")
        else:
            self.given[field] = int(value)

    def number(self, name: str) -> float | int | None:
        """Take a setting out as a number; None when there is none, or none that can be read (which is reported)."""
        text = self.left.pop(name, None)
        if text is None:
            return None
        try:
            return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text.strip()) else _finite(text)
        except ValueError:
            self.say(name, text, "it is no number")
            return None

    def words(self, text: str, name: str = "prompt") -> str:
        """The prompt without what is no words of it."""
        adapters = _ADAPTER.findall(text)
        for adapter in adapters:
            if name != "prompt" or not self.worn(adapter):
                self.say(name, adapter, "it is not at hand (--lora FILE) and left out")
            text = text.replace(adapter, "")
        for found in _SCHEDULED.findall(text) if self.given.get("emphasis", "a1111") == "a1111" and not self.native else ():
            self.say(name, found, "prompts do not change on the way here; its words are read as they stand")
        if re.search(r"\bAND\b", text) and not self.native:
            self.say(name, "AND", "prompts are not composed here; it is read as a word")
        return text.strip() if adapters else text

    def worn(self, tag: str) -> bool:
        """Take an adapter of the prompt over, if its file is at hand."""
        from safelight.adapt.lora import tagged

        try:
            uses = tagged(tag)[1]
        except SpecError:
            return False
        if not uses or uses[0].name not in self.at_hand:
            return False
        said = uses[0].model_dump(exclude_defaults=True)
        self.given.setdefault("loras", []).append(said | self.hashed("Lora hashes", uses[0].name))
        return True

    def learned(self) -> None:
        """Take the learned words over whose files are at hand; nothing but their hashes tells of them."""
        there = [pair.partition(":")[0].strip() for pair in self.left.get("TI hashes", "").split(",")]
        found = [{"name": name, **self.hashed("TI hashes", name)} for name in there if name in self.at_hand]
        if found:
            self.given["words"] = found

    def hashed(self, setting: str, name: str) -> dict[str, str]:
        """The hash that a setting says of a file, which is taken out of it."""
        pairs = [pair.strip() for pair in self.left.get(setting, "").split(",")]
        mine = next((pair for pair in pairs if pair.partition(":")[0].strip() == name), None)
        if mine is None:
            return {}
        rest = ", ".join(pair for pair in pairs if pair != mine)
        self.left = {k: rest if k == setting else v for k, v in self.left.items() if k != setting or rest}
        return {"hash": mine.partition(":")[2].strip().lower()}

    def sampler(self) -> None:
        name, schedule = self.left.pop("Sampler", None), self.left.pop("Schedule type", "")
        if name is None:
            if schedule:
                self.say("Schedule type", schedule, "it names no sampler")
            return
        sampler: str | None = known(name, SAMPLERS) or name
        grid: dict[str, Any] | None
        if self.native:
            grid = {"kind": self.native_grid(schedule)} if schedule else None
        else:
            sampler, grid = sampler_and_grid(name, schedule)
        if sampler is None or not self.exists("sampler", sampler):
            self.say("Sampler", name, f"there is none of that name here, the model's own is taken ({self.own('sampler')})")
            sampler = None
        if grid is None or not self.exists("grid", grid["kind"]):
            if schedule or sampler is not None:
                self.say(
                    "Schedule type", schedule or "Automatic", f"not known here, the model's own is taken ({self.own('grid')})"
                )
            grid = None
        if sampler is not None:
            self.given["sampler"] = self.fields({"kind": sampler} | ({} if self.native else elsewhere(name)), "sampler")
            if not self.native and names.discards(sampler):
                self.reports.append(f"Sampler: {name} is followed nearly: {names.DISCARDED}")
        if grid is not None:
            self.given["grid"] = self.fields(grid, "grid")
            said = schedule if schedule.casefold() not in ("", "automatic") else names.automatic(sampler or "")
            why = names.NEARLY.get(("A1111", (names.apart(name)[1] or said).casefold()))
            if not self.native and why is not None:
                self.reports.append(f"Schedule type: {schedule or 'Automatic'} is followed nearly, as '{grid['kind']}': {why}")

    def native_grid(self, name: str) -> str:
        """The kind of a grid in a text of ours: A1111's name stands for the kind that is nearest, with its fields for `published`."""
        if any(_named("grid", "published", field) in self.left for field in _PUBLISHED):
            return "published"
        return name if self.exists("grid", name) else known(name, GRIDS) or name

    def exists(self, family: str, kind: str) -> bool:
        from safelight.spec import kinds

        return kind in kinds(family)

    def own(self, part: str) -> str:
        """The kind of the model's default."""
        return str(getattr(self.model.spec.defaults, part).kind)

    def fields(self, spec: dict[str, Any], family: str) -> dict[str, Any]:
        """A part with those of its fields that the text sets."""
        from safelight.spec import kinds, parse

        for field in kinds(family)[spec["kind"]].model_fields:
            name = _named(family, spec["kind"], field)
            if field not in (_SAMPLER_FIELDS if family == "sampler" else _GRID_FIELDS) or name in _WORDS:
                value: Any = _untold(self.left.pop(name, None))
            else:
                value = self.number(name)
                # A1111 writes a schedule's 0 for "as the model has it".
                if not value and name.startswith("Schedule") and not self.native:
                    value = None
            if value is None:
                continue
            try:
                parse(spec | {field: value}, family)
            except SpecError as error:
                self.say(name, _told(value), str(error).partition(": ")[2])
            else:
                spec[field] = value
        return spec

    def noise(self) -> None:
        """A temperature, and the churn of a sampler that has none of its own."""
        warm = self.number("Temperature") if self.native else None
        if warm is not None and 0 <= warm <= _WARMEST:
            self.given["temperature"] = warm
        elif warm is not None:
            self.say("Temperature", _told(warm), f"it lies in 0..{_WARMEST}")
        if _SAMPLER_FIELDS["churn"]("") not in self.left:
            return
        found = {field: self.number(_SAMPLER_FIELDS[name]("")) for field, name in _CHURN.items()}
        churn = {field: value for field, value in found.items() if value is not None}
        try:
            self.churned(churn)
        except SpecError as error:
            self.say("Sigma churn", _told(churn.get("amount", "")), str(error).partition(": ")[2])

    def churned(self, churn: dict[str, Any]) -> None:
        """Take a churn over. Raises SpecError where the sampler cannot have it, or the numbers cannot be."""
        from safelight.spec import parse
        from safelight.task import Request

        sampler = self.given.get("sampler", describe(self.model.spec.defaults.sampler, family=False))
        asked = parse({"sampler": sampler, "churn": churn}, "request")
        assert isinstance(asked, Request)
        if churn.get("amount") and asked.solver is not None:
            self.given["churn"] = churn

    def guidance(self) -> None:
        if self.native and (kind := self.left.pop("Guidance", None)) is not None:
            self.say("Guidance", kind, "the text does not hold its fields, the model's own guidance is taken")
            for name in ("CFG scale", "CFG rescale", "CFG interval"):
                self.left.pop(name, None)
            return
        scale = self.number("CFG scale")
        if scale is None:
            return
        if self.model.text is None:
            if scale != 1:
                self.say("CFG scale", _told(scale), "the model knows no prompts, so there is nothing to guide by")
            self.given["mix"] = {"kind": "none"}
        elif not 0 <= scale <= _MOST_SCALE:
            self.say("CFG scale", _told(scale), f"it must lie in 0..{_MOST_SCALE:,}")
        else:
            beside = self.beside() if self.native else {}
            self.given["mix"] = {"kind": "none"} if scale == 1 else {"kind": "cfg", "scale": scale, **beside}

    def beside(self) -> dict[str, Any]:
        """What guidance of ours has beside its scale."""
        rescale, text = self.number("CFG rescale"), self.left.pop("CFG interval", "")
        found: dict[str, Any] = {}
        if rescale is not None and 0 <= rescale <= 1:
            found["rescale"] = rescale
        elif rescale is not None:
            self.say("CFG rescale", _told(rescale), "it lies in 0..1")
        match = re.fullmatch(r"(0|0\.\d+) to (1|0\.\d+)", text)
        if match and float(match[1]) < float(match[2]):
            found["interval"] = [float(match[1]), float(match[2])]
        elif text:
            self.say("CFG interval", text, "it is no LOW to HIGH within 0..1")
        return found

    def seed(self) -> None:
        self.whole("Seed", "seed")
        self.whole("Seed index", "index", least=0, most=2**32 - 1)
        if "seed" in self.given and not self.native:
            self.reports.append(
                f"Seed: {self.given['seed']} is taken as a number, but draws other noise here than there: another picture comes out"
            )
        seed, strength = self.number("Variation seed"), self.number("Variation seed strength")
        if seed is None and strength is None:
            return
        if not strength:
            return
        if seed is None or seed != int(seed) or not 0 <= strength <= 1:
            self.say("Variation seed strength", _told(strength), "it needs a variation seed, and lies in 0..1")
        else:
            self.given["variation"] = {"seed": int(seed), "strength": strength}

    def size(self) -> None:
        text = self.left.pop("Size", None)
        if text is None:
            return
        match = re.fullmatch(r"\s*(\d{1,6})x(\d{1,6})\s*", text)
        height, width = self.model.spec.size
        if match is None:
            self.say("Size", text, "it is no WIDTHxHEIGHT")
            return
        wide, high = int(match[1]), int(match[2])
        stride = self.model.codec.stride
        fit = [max(stride, round(v / stride) * stride) for v in (high, wide)]
        if fit[0] * fit[1] > _FARTHEST * height * width:
            self.say("Size", text, f"this model makes {width}x{height}, and knows nothing so large")
            return
        if fit != [high, wide]:
            self.reports.append(f"Size: {text} is followed nearly: {fit[1]}x{fit[0]} is the nearest multiple of {stride}")
        self.given["size"] = fit

    def emphasis(self) -> None:
        text = self.left.pop("Emphasis", "Original")
        modes = {"original": "a1111", "none": "none", "a1111": "a1111", "comfy": "comfy", "compel": "compel"}
        self.given["emphasis"] = modes.get(text.casefold(), "a1111")
        if text.casefold() not in modes:
            self.say("Emphasis", text, "that mode is not here, 'a1111' is taken")

    def clip(self) -> None:
        skip = self.number("Clip skip")
        # A1111 counts from 1, the last layer; the layers left out are a property of a model here.
        own = 1 + int(getattr(getattr(self.model.text, "spec", None), "skip", 0))
        if skip is not None and skip != own:
            self.say("Clip skip", _told(skip), f"the model's own is {own}, and it was trained with it")

    def source(self) -> None:
        """A picture made from another, which the text does not name."""
        task = self.left.pop("Task", None) if self.native else None
        if task is not None and not (task == "image" and self.picture):
            self.say("Task", task, "the text does not hold its pictures and fields; only a picture with its note does")
        second = any(name in self.left for name in ("Hires upscaler", "Hires upscale", "Hires resize"))
        if second or "Denoising strength" not in self.left:
            if self.picture:
                self.reports.append("the picture given is not used: the text asks for no denoising of one")
            if second:
                self.second()
            return
        strength = self.number("Denoising strength")
        if strength is None:
            return
        if self.picture is None:
            self.say("Denoising strength", _told(strength), "the text does not say which picture it was made from")
        elif not 0 <= strength <= 1:
            self.say("Denoising strength", _told(strength), "it lies in 0..1")
        else:
            self.given["task"] = {"kind": "image", "picture": self.picture, "strength": strength}

    def second(self) -> None:
        """A second pass at a larger size ("hires. fix"): Size is that of the first."""
        name = self.left.get("Hires upscaler", "Latent")
        fields = next((fields for said, fields in names.UPSCALERS.items() if said.casefold() == name.casefold()), None)
        height, width = self.given.get("size") or self.model.spec.size
        target = self.enlarged(height, width)
        if fields is None or target is None:
            why = "there is no such upscaler here" if fields is None else "it says no larger size"
            self.say("Hires upscaler", name, f"{why}; the picture is made in one pass")
            for gone in [name for name in self.left if name.startswith(("Hires", "Denoising strength"))]:
                del self.left[gone]
            return
        strength, steps = self.number("Denoising strength"), self.number("Hires steps")
        for gone in ("Hires upscaler", "Hires upscale", "Hires resize", "First pass size"):
            self.left.pop(gone, None)
        if strength is not None and not 0 < strength <= 1:
            self.say("Denoising strength", _told(strength), "it lies in 0..1, above 0")
            strength = None
        second: dict[str, Any] = {"strength": strength} if strength is not None else {}
        if steps and steps == int(steps) and 1 <= steps <= _MOST_STEPS:
            second["count"] = int(steps)
        second |= {"steps": "exact", **fields}
        self.given |= {"size": target, "task": {"kind": "hires", "first": [height, width], "second": second}}

    def enlarged(self, height: int, width: int) -> list[int] | None:
        """(height, width) of the second pass; None where the text gives none that is larger and can be made."""
        match = re.fullmatch(r"\s*(\d{1,6})x(\d{1,6})\s*", self.left.get("Hires resize", ""))
        try:
            times = _finite(self.left["Hires upscale"]) if "Hires upscale" in self.left else 2.0
        except ValueError:
            return None
        wide, high = (int(match[1]), int(match[2])) if match else (width * times, height * times)
        stride = self.model.codec.stride
        found = [int(v // stride) * stride for v in (high, wide)]
        return found if height * width < found[0] * found[1] <= _FARTHEST**2 * height * width and min(found) > 0 else None

    def made_by(self) -> None:
        name, digits = self.left.get("Model"), self.left.get("Model hash")
        if digits and not self.model.fingerprint.startswith(digits[:10].lower()):
            self.reports.append(
                f"Model: made with {name or 'a model'} ({digits}), another one than this ({self.model.fingerprint[:10]})"
            )
        elif name and not digits and name != getattr(self.model, "name", name):
            self.reports.append(f"Model: made with {name}, another one than this")


def _untold(text: str | None) -> Any:
    """What `_told` wrote."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _finite(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), -float("inf")):
        raise ValueError(text)
    return value


__all__ = [
    "EXACT",
    "GRIDS",
    "SAMPLERS",
    "Infotext",
    "Names",
    "elsewhere",
    "known",
    "of",
    "parse",
    "sampler_and_grid",
    "to_request",
    "write",
]
