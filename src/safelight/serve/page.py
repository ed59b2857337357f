"""A run as a file of answers: everything of it that the studio's screens would ask a server for.

`recorded` gives the answers by the paths of the HTTP API, JSON as values and everything else as data: URLs. `bound` makes one HTML file
of them with the studio's own modules and styles: it opens from disk, asks nobody for anything, and its content-security policy forbids
it to. `packed` and `example` write and read the run that ships with the studio (`studio/example/run.json.gz`).
"""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from safelight.assets import seal
from safelight.draw.pixels import to_bytes, to_image
from safelight.model import Model
from safelight.serve.attention import Heard
from safelight.serve.explain import data_url, explain, source
from safelight.serve.lenses import Lenses, webp
from safelight.spec import SpecError, describe
from safelight.trace import Trace

# What a page may do: run and draw what is in it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:; base-uri 'none'; form-action 'none'"
)
_IMPORT = re.compile(r"""(\bfrom\s*|\bimport\s*\(?\s*)"(\.\.?/[\w./-]+\.js)\"""")
_LINKS = re.compile(r"<link rel=\"(?:stylesheet|modulepreload)\"[^>]*>\n?")
_SCRIPTS = re.compile(r"<script[^>]*\bsrc=\"/studio/([\w./-]+)\"[^>]*></script>\n?")
_SHEETS = re.compile(r"<link rel=\"stylesheet\" href=\"/studio/([\w./-]+)\">")
_LATER = re.compile(r"[\"']/studio/([\w.-]+\.css)[\"']")
# What would end a data: URL, or be dropped from it; as text it is a fifth smaller than by base64.
_URL = re.compile(r"[%#\x00-\x1f\x7f]")
_ROOT = "safelight/"
# The screens of a recording.
_SCREENS = ("js/microscope.js", "js/explain.js")
# The id of the recorded run that ships with the studio.
EXAMPLE = "example"


class Packing(NamedTuple):
    """What a recording may lose. sheets: quality of the lenses as WebP, 0..100, None for nothing lost; maps: the same of attention,
    which is smooth; half: tensors in half precision, 2 bytes a number; lenses, tensors: these alone, None for all."""

    sheets: int | None = None
    maps: int | None = 90
    half: bool = False
    lenses: tuple[str, ...] | None = None
    tensors: tuple[str, ...] | None = None


def page(run: Mapping[str, Any], trace: Trace, model: Model, studio: Path | None = None, *, heard: Heard | None = None) -> str:
    """The HTML of a run, with all its pictures, steps, lenses, numbers and, if it was `heard`, attention.

    run: as the API gives it; what it lacks (all of it, for a trace that no server keeps) is told by the trace. studio: the folder of
    index.html, None for the package's. Raises SpecError for a trace without a step, and for a folder that is no studio.
    """
    _index(_folder(studio))
    return bound(recorded(run, trace, model, heard=heard), studio)


def recorded(
    run: Mapping[str, Any], trace: Trace, model: Model, *, heard: Heard | None = None, packing: Packing | None = None
) -> dict[str, Any]:
    """Path -> answer, for everything that the screens of one run ask for; arguments as of `page`."""
    about = _run(run, trace, model)
    return dict(_answers(about, trace, model, heard, packing or Packing()))


def packed(answers: Mapping[str, Any]) -> bytes:
    """Answers as a file: JSON, gzipped."""
    text = json.dumps(answers, allow_nan=False, separators=(",", ":"))
    return gzip.compress(text.encode(), 9, mtime=0)


def example() -> dict[str, Any]:
    """The answers of the recorded run that ships with the studio; its id is EXAMPLE."""
    file = resources.files("safelight") / "studio" / "example" / "run.json.gz"
    answers: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return answers


def bound(answers: Mapping[str, Any], studio: Path | None = None) -> str:
    """The HTML of a recorded run's answers. Raises SpecError for a folder that is no studio, and for answers of no run."""
    folder = _folder(studio)
    index = _index(folder)
    about = next((value for path, value in answers.items() if re.fullmatch(r"/v1/runs/[^/?]+", path)), None)
    if about is None:
        raise SpecError("these are no answers of a run: there is no /v1/runs/ID")
    carried = {"route": f"/run/{about['id']}", **answers, **_sources(answers)}
    code = "".join(file.read_text() for file in (folder / "js").iterdir() if file.name.endswith(".js"))
    sheets = dict.fromkeys([*_SHEETS.findall(index), *_LATER.findall(code)])  # those that screens fetch when they open, too
    styles = "\n".join((folder / name).read_text() for name in sheets)
    first = [name for name in _SCRIPTS.findall(index) if 'type="module"' not in _tag(index, name)]
    entry = [name for name in _SCRIPTS.findall(index) if name not in first]
    plain = "".join(f"<script>{_script((folder / name).read_text())}</script>\n" for name in first)
    modules = dict(_modules(folder, entry))
    licences = "\n".join(text.read_text() for text in (folder / "vendor").iterdir() if text.name.endswith(".txt"))
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY, quote=False)}">\n'
        f"<style>{styles}</style>\n"
        f'<script type="text/plain" id="licences">{_script(licences)}</script>\n'
        f'<script type="application/json" id="bundle">{_json(carried)}</script>\n'
        '<script>globalThis.SAFELIGHT_BUNDLE = JSON.parse(document.getElementById("bundle").textContent)</script>\n'
        f"{plain}"
        f'<script type="importmap">{_json({"imports": modules})}</script>\n'
        + "".join(f'<script type="module">import "{_ROOT}{name}"</script>\n' for name in entry)
    )
    bare = _SCRIPTS.sub("", _LINKS.sub("", index))
    title = f"<title>{html.escape(about['title'] or about['prompt'])} · Safelight</title>"
    bare = re.sub(r"<title>.*?</title>", lambda _: title, bare)
    before, close, after = bare.partition("</head>")
    return before + head + close + after


def _folder(studio: Path | None) -> Traversable:
    return studio if studio is not None else resources.files("safelight") / "studio"


def _index(folder: Traversable) -> str:
    if not (folder / "index.html").is_file():
        raise SpecError(f"{folder} is no studio: it has no index.html")
    return (folder / "index.html").read_text()


def _sources(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The functions of ours that the stops of Explain name, as they stand here."""
    stops = [stop for path, told in answers.items() if re.search(r"/explain(\?|$)", path) for stop in told.values()]
    names = dict.fromkeys(name for stop in stops for name in stop["sources"])
    return {f"/v1/source/{name}": {"name": name, "source": source(name)} for name in names}


def _tag(index: str, name: str) -> str:
    """The script tag of a file."""
    found = re.search(rf"<script[^>]*/studio/{re.escape(name)}\"[^>]*>", index)
    return found[0] if found else ""


def _modules(folder: Traversable, entries: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All that is needed of the studio's modules, by bare names, as data: URLs cannot be relative to each other.

    That is what the entries import, and so on. What an entry imports only when it is wanted are the screens: of these, _SCREENS alone.
    """
    waiting, known = [*entries, *_SCREENS], set[str]()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        place, text = name.rpartition("/")[0], (folder / name).read_text()
        always = name not in entries
        waiting += [_joined(place, m[2]) for m in _IMPORT.finditer(text) if always or not m[1].rstrip().endswith("(")]
        bare = _IMPORT.sub(lambda m, place=place: f'{m[1]}"{_ROOT}{_joined(place, m[2])}"', text)  # type: ignore[misc]
        yield f"{_ROOT}{name}", f"data:text/javascript;charset=utf-8,{_URL.sub(_percent, bare)}"


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _joined(place: str, relative: str) -> str:
    """The path from the studio's folder of what a module in `place` imports."""
    parts = [place]
    for part in relative.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _run(run: Mapping[str, Any], trace: Trace, model: Model) -> dict[str, Any]:
    """The run as the API gives it, its gaps filled from the trace."""
    request, steps = trace.request, trace.steps
    if not steps:
        raise SpecError("the trace has no step yet")
    spent = sum(step.milliseconds for step in steps)
    told = {
        "id": "recording",
        "kind": "generate",
        "state": "done" if len(steps) + 1 == len(trace.levels) else "stopped",
        "title": "",
        "prompt": request.prompt[0],
        "model": model.name,
        "fingerprint": model.fingerprint,
        "request": describe(request),
        "record": "branches" if trace.branches else "exact" if trace.about["exact"] else "preview",
        "steps_done": len(steps),
        "steps": len(trace.levels) - 1,
        "ms_per_step": spent / len(steps),
        "error": "",
        "parent": None,
        "relation": "",
        "fork_step": None,
        "group": None,
        "star": False,
        "board": "",
        "seed": request.seed,
        "levels": trace.about["levels"],
    } | dict(run)
    known, made = list(told.get("pictures") or []), _pictures(trace)
    told["pictures"] = [
        {**_size(pixels), **(known[i] if i < len(known) else {}), "url": _png(pixels)} for i, pixels in enumerate(made)
    ]
    return told


def _size(pixels: np.ndarray) -> dict[str, Any]:
    """A picture's seal, width and height. pixels: uint8 (H, W, C)."""
    return {"seal": seal(torch.from_numpy(pixels).movedim(2, 0)), "width": pixels.shape[1], "height": pixels.shape[0]}


def _pictures(trace: Trace) -> list[np.ndarray]:
    """The finished pictures, uint8 (H, W, C); none of a run that was stopped."""
    return list(to_bytes(trace.pictures)) if "pictures" in trace.names else []


def _answers(
    run: Mapping[str, Any], trace: Trace, model: Model, heard: Heard | None, packing: Packing
) -> Iterator[tuple[str, Any]]:
    at = f"/v1/runs/{run['id']}"
    yield at, run
    yield f"{at}/tree", {"nodes": [{"id": run["id"], "parent": None, "relation": "", "state": run["state"], "thumb": None}]}
    for i, picture in enumerate(run["pictures"]):
        yield f"{at}/pictures/{i}.png", picture["url"]
    for i in range(len(trace.x0(trace.steps[0].k))):
        seen, ask = Lenses(trace, model, i, heard, since=run.get("fork_step") or 0), f"?picture={i}"
        geometry = seen.geometry()._asdict()
        lenses = [lens for lens in seen.available if packing.lenses is None or lens in packing.lenses]
        if i == 0:
            yield f"{at}/sprites", dict.fromkeys(lenses, geometry)
        for lens in lenses:
            quality = packing.maps if lens == "attention" else packing.sheets
            yield f"{at}/sprite/{lens}.webp{ask}", _sheet(seen.sheet(lens)[0], quality)
        for k in seen.moments:
            yield f"{at}/steps/{k}/tensors.bin{ask}", _tensors(*seen.tensors(k), packing)
        yield f"{at}/numbers{ask}", seen.numbers()
        told = explain(trace, model, i, seen)
        shown = told["decode"]["pictures"]
        told["decode"]["pictures"] = {name: _sheet(_bytes(url), packing.sheets) for name, url in shown.items()}
        yield f"{at}/explain{ask}", told
        if heard is not None:
            yield f"{at}/attention{ask}", heard.json(i)
            yield f"{at}/attention/at{ask}", _shares(heard, i)
            for number, token in enumerate(heard.tokens(i)):
                if token.role == "word":
                    path = f"{at}/sprite/attention.webp{ask}&token={number}"
                    yield path, _sheet(seen.sheet("attention", number)[0], packing.maps)
                    mean = webp(heard.picture(number, None, i).repeat(3, 2))
                    yield f"{at}/attention/{number}.png?step=mean&picture={i}", _sheet(mean, packing.maps)
    if heard is not None:
        yield f"{at}/attention", heard.json()


def _sheet(data: bytes, quality: int | None) -> str:
    """A sheet as a data: URL, of a lower quality where one is given and that is smaller."""
    if quality is not None:
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(file, "WEBP", quality=quality, method=6)
        data = min(data, file.getvalue(), key=len)
    return data_url(data, "image/webp")


def _bytes(url: str) -> bytes:
    """What a data: URL holds."""
    return base64.b64decode(url.partition(",")[2])


def _tensors(header: Mapping[str, Any], body: bytes, packing: Packing) -> str:
    """What tensors.bin answers, as a data: URL; of half precision with dtype "float16"."""
    sizes = [int(np.prod(one["shape"])) for one in header["tensors"]]
    parts = zip(header["tensors"], np.split(np.frombuffer(body, "<f4"), np.cumsum(sizes)[:-1]), strict=True)
    kept = [(one, values) for one, values in parts if packing.tensors is None or one["name"] in packing.tensors]
    about = {**header, "dtype": "float16" if packing.half else "float32", "tensors": [one for one, _ in kept]}
    values = b"".join(values.astype("<f2" if packing.half else "<f4").tobytes() for _, values in kept)
    return data_url(json.dumps(about).encode() + b"\n" + values, "application/octet-stream")


def _shares(heard: Heard, picture: int) -> dict[str, Any]:
    """What a page answers /attention/at from: of every step, token and place of the map the share of the look, 255 for all of it."""
    maps = np.stack([heard.maps(k, picture).numpy() for k in heard.steps])  # (steps, L, h, w)
    shares = (maps * 255).round().clip(0, 255).astype(np.uint8)
    return {
        "steps": heard.steps,
        "texts": [token.text for token in heard.tokens(picture)],
        "height": maps.shape[2],
        "width": maps.shape[3],
        "shares": data_url(shares.tobytes(), "application/octet-stream"),
    }


def _png(pixels: Any) -> str:
    file = io.BytesIO()
    to_image(pixels).save(file, "PNG", optimize=True)
    return data_url(file.getvalue(), "image/png")


def _json(value: Any) -> str:
    """JSON that can stand within a script element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _script(text: str) -> str:
    """Text that can stand within a script element."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.I)


__all__ = ["EXAMPLE", "POLICY", "Packing", "bound", "example", "packed", "page", "recorded"]
