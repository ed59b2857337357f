"""A run as one HTML file: the studio's own modules and styles, and everything of the run that they would ask the server for.

It opens from disk, asks nobody for anything, and its content-security policy forbids it to. `SAFELIGHT_BUNDLE` holds the answers by the
paths of the HTTP API, JSON as values and everything else as data: URLs; the modules look there before they would ask the network.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from safelight.draw.pixels import to_bytes, to_image
from safelight.model import Model
from safelight.serve.attention import Heard
from safelight.serve.explain import data_url, explain, source
from safelight.serve.lenses import Lenses
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
_ROOT = "safelight/"


def page(run: Mapping[str, Any], trace: Trace, model: Model, studio: Path | None = None, *, heard: Heard | None = None) -> str:
    """The HTML of a run, with all its pictures, steps, lenses, numbers and, if it was `heard`, attention.

    run: as the API gives it; what it lacks (all of it, for a trace that no server keeps) is told by the trace. studio: the folder of
    index.html, None for the package's. Raises SpecError for a trace without a step, and for a folder that is no studio.
    """
    folder: Traversable = studio if studio is not None else resources.files("safelight") / "studio"
    if not (folder / "index.html").is_file():
        raise SpecError(f"{folder} is no studio: it has no index.html")
    index = (folder / "index.html").read_text()
    about = _run(run, trace, model)
    answers = {"route": f"/run/{about['id']}", **dict(_answers(about, trace, model, heard))}
    styles = "\n".join((folder / name).read_text() for name in _SHEETS.findall(index))
    first = [name for name in _SCRIPTS.findall(index) if 'type="module"' not in _tag(index, name)]
    entry = [name for name in _SCRIPTS.findall(index) if name not in first]
    plain = "".join(f"<script>{_script((folder / name).read_text())}</script>\n" for name in first)
    modules = dict(_modules(folder))
    licences = "\n".join(text.read_text() for text in (folder / "vendor").iterdir() if text.name.endswith(".txt"))
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY, quote=False)}">\n'
        f"<style>{styles}</style>\n"
        f'<script type="text/plain" id="licences">{_script(licences)}</script>\n'
        f'<script type="application/json" id="bundle">{_json(answers)}</script>\n'
        '<script>globalThis.SAFELIGHT_BUNDLE = JSON.parse(document.getElementById("bundle").textContent)</script>\n'
        f"{plain}"
        f'<script type="importmap">{_json({"imports": modules})}</script>\n'
        + "".join(f'<script type="module">import "{_ROOT}{name}"</script>\n' for name in entry)
    )
    bare = _SCRIPTS.sub("", _LINKS.sub("", index))
    bare = re.sub(r"<title>.*?</title>", f"<title>{html.escape(about['title'] or about['prompt'])} · Safelight</title>", bare)
    before, close, after = bare.partition("</head>")
    return before + head + close + after


def _tag(index: str, name: str) -> str:
    """The script tag of a file."""
    found = re.search(rf"<script[^>]*/studio/{re.escape(name)}\"[^>]*>", index)
    return found[0] if found else ""


def _modules(folder: Traversable) -> Iterator[tuple[str, str]]:
    """Every module by a bare name, its imports by bare names too, as data: URLs cannot be relative to each other."""
    for place in ("js", "vendor"):
        for file in (folder / place).iterdir():
            if file.name.endswith(".js"):
                text = _IMPORT.sub(lambda m, place=place: f'{m[1]}"{_ROOT}{_joined(place, m[2])}"', file.read_text())  # type: ignore[misc]
                yield f"{_ROOT}{place}/{file.name}", data_url(text.encode(), "text/javascript")


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
        {"width": pixels.shape[1], "height": pixels.shape[0], **(known[i] if i < len(known) else {}), "url": _png(pixels)}
        for i, pixels in enumerate(made)
    ]
    return told


def _pictures(trace: Trace) -> list[np.ndarray]:
    """The finished pictures, uint8 (H, W, C); none of a run that was stopped."""
    return list(to_bytes(trace.pictures)) if "pictures" in trace.names else []


def _answers(run: Mapping[str, Any], trace: Trace, model: Model, heard: Heard | None) -> Iterator[tuple[str, Any]]:
    """Path -> answer, for everything that a screen of one run asks for."""
    at = f"/v1/runs/{run['id']}"
    yield at, run
    yield f"{at}/tree", {"nodes": [{"id": run["id"], "parent": None, "relation": "", "state": run["state"], "thumb": None}]}
    for i, picture in enumerate(run["pictures"]):
        yield f"{at}/pictures/{i}.png", picture["url"]
    shown = list[str]()
    for i in range(len(trace.x0(trace.steps[0].k))):
        seen, ask = Lenses(trace, model, i, heard), f"?picture={i}"
        geometry = seen.geometry()._asdict()
        if i == 0:
            yield f"{at}/sprites", dict.fromkeys(seen.available, geometry)
        for lens in seen.available:
            yield f"{at}/sprite/{lens}.webp{ask}", data_url(seen.sheet(lens)[0], "image/webp")
        for k in seen.moments:
            header, body = seen.tensors(k)
            yield (
                f"{at}/steps/{k}/tensors.bin{ask}",
                data_url(json.dumps(header).encode() + b"\n" + body, "application/octet-stream"),
            )
        yield f"{at}/numbers{ask}", seen.numbers()
        told = explain(trace, model, i, seen)
        shown += [name for stop in told.values() for name in stop["sources"]]
        yield f"{at}/explain{ask}", told
        if heard is not None:
            yield f"{at}/attention{ask}", heard.json(i)
            for number, token in enumerate(heard.tokens(i)):
                if token.role == "word":
                    yield (
                        f"{at}/sprite/attention.webp{ask}&token={number}",
                        data_url(seen.sheet("attention", number)[0], "image/webp"),
                    )
                    yield f"{at}/attention/{number}.png?step=mean&picture={i}", _png(heard.picture(number, None, i))
    if heard is not None:
        yield f"{at}/attention", heard.json()
    for name in dict.fromkeys(shown):
        yield f"/v1/source/{name}", {"name": name, "source": source(name)}


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


__all__ = ["POLICY", "page"]
