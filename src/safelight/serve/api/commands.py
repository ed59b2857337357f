"""A run as something to type: one line of curl, of our command line, or a few of Python, each of which makes the same bytes again."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from safelight.model import ModelSpec, embedded
from safelight.serve.api.base import Conflict, Server
from safelight.serve.runs import Run
from safelight.spec import describe, parse
from safelight.task import Request

# Fields of a request that the command line has flags for.
_FLAGS = ("count", "seed", "index", "steps")
_MODEL_OWN = ("steps", "sampler", "grid", "mix", "bends", "size")


def of(server: Server, run: Run, base: str, picture: int, out: str = "") -> dict[str, Any]:
    """The commands of a run. base: the server's own address. out: where the command line writes a single picture.

    Raises Conflict for a run that was imported without saying how.
    """
    if run.kind == "import" and "steps" not in run.request:
        raise Conflict(f"run {run.id} was imported, and does not say in full how it was made")
    request = {k: v for k, v in run.request.items() if k not in ("family", "kind")}
    inputs = tuple(dict.fromkeys(_inputs(request)))
    files = {seal: f"{seal.removeprefix('sha256:')[:12]}.png" for seal in inputs}
    token = ' -H "Authorization: Bearer $SAFELIGHT_TOKEN"' if server.tokens else ""
    needs = [f"curl -sS{token} -o {name} {base}/v1/pictures/{seal}.png" for seal, name in files.items()]
    if run.kind == "fork" and run.parent is not None and run.fork_step is not None:
        changes = {k: v for k, v in request.items() if k not in ("steps", "grid", "size", "task")}
        body = {"step": run.fork_step, "request": changes, "noise": run.noise, "record": run.record}
        curl = _curl(f"{base}/v1/runs/{run.parent}/fork?picture={picture}", body, token, picture)
        folder = shlex.quote(str(server.folder.path)) if server.settings.local else "FOLDER"
        cli = f"safelight runs fork {run.parent} {run.fork_step} --data {folder} --request {_quoted(changes)}"
        cli += (f" --noise {run.noise!r}" if run.noise else "") + f" --out {out or f'{picture}.png'} --picture {picture}"
        sent = '{"Content-Type": "application/json"' + (
            ', "Authorization": "Bearer " + os.environ["SAFELIGHT_TOKEN"]}' if server.tokens else "}"
        )
        python = (
            f"import json, {'os, ' if server.tokens else ''}urllib.request\n"
            f"body = json.loads({json.dumps(json.dumps(body, ensure_ascii=False), ensure_ascii=False)})\n"
            f"call = urllib.request.Request({f'{base}/v1/runs/{run.parent}/fork?picture={picture}'!r}, json.dumps(body).encode(), {sent})\n"
            f'open("{picture}.png", "wb").write(urllib.request.urlopen(call).read())\n'
        )
        return {"curl": curl, "cli": cli, "python": python, "needs": []}
    body = {"model": run.model, "request": request, "record": run.record}
    model = _model(server, run.model)
    return {
        "curl": _curl(f"{base}/v1/runs?picture={picture}", body, token, picture),
        "cli": _cli(request, model, files, server.spec(run.model), out or "0.png", _worn(server, request)),
        "python": _python(request, model, files, _worn(server, request)),
        "needs": needs,
    }


def together(
    server: Server, runs: Sequence[Run], base: str, axes: Sequence[tuple[str, Sequence[Any]]], prompt: str
) -> dict[str, Any]:
    """One shell line that makes the pictures of a sheet's cells again, byte for byte, and what it needs.

    base: the server's own address. axes: (path, values), the last changing fastest over `runs`. `safelight grid` writes cell (i, j, ...)
    to grid/pictures; where it has no such axes, every cell is a command of its own, and picture k becomes K.png. Raises Conflict as
    `of` does.
    """
    if (whole := _grid(server, runs, axes, prompt)) is not None:
        return {"cli": whole, "needs": []}
    lines, needs = list[str](), dict[str, None]()
    for k, run in enumerate(runs):
        one = of(server, run, base, 0, out=f"{k}.png")
        lines.append(one["cli"])
        needs |= dict.fromkeys(one["needs"])
    return {"cli": " && \\\n".join(lines), "needs": list(needs)}


def _grid(server: Server, runs: Sequence[Run], axes: Sequence[tuple[str, Sequence[Any]]], prompt: str) -> str | None:
    """`safelight grid` for these cells; None where it would not make the same."""
    paths, texts = [path for path, _ in axes], [_axis(path, values) for path, values in axes]
    cells = math.prod(len(values) for _, values in axes)
    first = {k: v for k, v in runs[0].request.items() if k not in ("family", "kind")}
    prompts = first.get("prompt") or [""]
    told = prompt if any(path.startswith("prompt") for path in paths) else str(prompts[0])
    if (
        not axes
        or cells != len(runs)
        or None in texts
        or any("=" in path for path in paths)
        or {"model", "fork", "count", "index"} & set(paths)
    ):
        return None
    if len({run.model for run in runs}) > 1 or any(run.kind == "fork" or run.state != "done" for run in runs):
        return None
    if (
        len(prompts) > 1
        or first.get("count", 1) != 1
        or first.get("index")
        or _inputs(first)
        or _worn(server, first)
        or re.search(r"[{}]|^-", told)
    ):
        return None
    fixed = {k: v for k, v in first.items() if k not in paths and k != "prompt"}
    usual = {**describe(Request(), family=False), **_own(server.spec(runs[0].model))}
    words = ["safelight", "grid", told, "--model", _model(server, runs[0].model)]
    # The rows of the page are the first axis.
    for flag, text in zip(["--x"] if len(axes) == 1 else ["--y", "--x", "--z"], texts, strict=False):
        words += [flag, str(text)]
    for name, value in fixed.items():
        if value != usual.get(name):
            words += [f"--{name}", str(value)] if name in _FLAGS else ["--set", f"{name}={_json(value)}"]
    return shlex.join([*words, "--no-hints", "--yes", "--out", "grid"])


def _axis(path: str, values: Sequence[Any]) -> str | None:
    """An axis as `safelight grid` reads it; None for values that it would read otherwise."""
    said = []
    for value in values:
        text = value if isinstance(value, str) else _json(value)
        plain = re.fullmatch(r"[^\s,\"'\[\](){}\\#:&*!|>%@`]+( [^\s,\"'\[\](){}\\#:&*!|>%@`]+)*", text) is not None
        if isinstance(value, str) and path.startswith("prompt~"):
            if not plain and text:
                return None
        elif isinstance(value, str) and path == "prompt":
            if not plain and not re.fullmatch(r"[^\"'\\\s]+( [^\"'\\\s]+)*", text):
                return None
            text = text if plain else f'"{text}"'
        elif isinstance(value, str):
            # A word that YAML reads as a word stays one; whatever else is quoted.
            text = (
                text
                if re.fullmatch(r"(?!(true|false|null|yes|no|on|off|y|n|nan|inf)$)[a-z][\w+-]*", text, re.I)
                else _json(text)
            )
        if "\\" in text or not text:
            return None
        said.append(text)
    return f"{path}={','.join(said)}" if len(set(said)) == len(said) else None


def _curl(url: str, body: Mapping[str, Any], token: str, picture: int) -> str:
    return f"curl -sS -X POST{token} -H 'Content-Type: application/json' -d {_quoted(body)} -o {picture}.png '{url}'"


def _worn(server: Server, request: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The adapters and learned words of a request: flag, file (of which only a local client is told where), and what stands behind it."""
    found = list[tuple[str, str, str]]()
    for use in request.get("loras") or ():
        weights = [use.get("weight", 1.0)] + ([use["text"]] if use.get("text") is not None else [])
        found.append(("lora", _file(server, "loras", use["name"]), "".join(f":{weight!r}" for weight in weights)))
    for use in request.get("words") or ():
        found.append(("embedding", _file(server, "embeddings", use["name"]), f":{use['word']}" if use.get("word") else ""))
    return found


def _file(server: Server, where: Literal["loras", "embeddings"], name: str) -> str:
    file = server.folder.adapters(where).get(name)
    return str(file) if file is not None and server.settings.local else f"{name}.safetensors"


def _cli(
    request: Mapping[str, Any],
    model: str,
    files: Mapping[str, str],
    spec: ModelSpec,
    out: str,
    worn: Sequence[tuple[str, str, str]],
) -> str:
    """`safelight generate` with flags for what differs from the model's and the request's own defaults."""
    usual = {**describe(Request(), family=False), **_own(spec)}
    if files:  # a task with pictures has its own idea of what is usual
        usual = {name: value for name, value in usual.items() if name not in ("size", "sampler")}
    prompts = [str(p) for p in request.get("prompt") or [""]]
    dashed = any(p.startswith("-") for p in prompts)
    words = ["safelight", "generate", *([""] if dashed else prompts), "--model", model]
    words += ["--set", f"prompt={_json(prompts)}"] if dashed else []
    for name, value in request.items():
        if name in ("prompt", "loras", "words") or value == usual.get(name):
            continue
        words += [f"--{name}", str(value)] if name in _FLAGS else ["--set", f"{name}={_json(value)}"]
    for file in files.values():
        words += ["--input", file]
    for flag, file, more in worn:
        words += [f"--{flag}", file + more]
    words += ["--allow-partial"] if any(use.get("partial") for use in request.get("loras") or ()) else []
    count = len(prompts) * int(request.get("count") or 1)
    return shlex.join(
        [*words, "--no-hints", "--out", out if count == 1 else out.removesuffix(".png") if out != "0.png" else "pictures"]
    )


def _own(spec: ModelSpec) -> dict[str, Any]:
    """A model's defaults as a described request has them."""
    return {**describe(spec.defaults, family=False), "size": list(spec.size)}


def _python(request: Mapping[str, Any], model: str, files: Mapping[str, str], worn: Sequence[tuple[str, str, str]]) -> str:
    lines = [
        "from safelight import picture",
        "from safelight.assets import Assets",
        "from safelight.draw.pixels import to_bytes",
        "from safelight.generate import Finished, generate",
        "from safelight.model import load",
        "from safelight.spec import parse",
        "import torch",
        f"model = load({model!r})",
        f"parents = [{', '.join(f'picture.read({name!r})' for name in files.values())}]",
        "assets = Assets([pixels for pixels, _ in parents])",
        *(f"assets.bring_{'lora' if flag == 'lora' else 'word'}({file!r})" for flag, file, _ in worn),
        f"request = parse({dict(request)!r}, 'request').resolve(model, assets)",
        "made = torch.cat([e.pictures for e in generate(model, request, assets=assets) if isinstance(e, Finished)])",
        "pixels = [torch.from_numpy(p).permute(2, 0, 1).contiguous() for p in to_bytes(made)]",
        "for k, note in enumerate(picture.notes(model, request, pixels, parents=parents)):",
        "    picture.write(f'{k}.png', pixels[k], note)",
    ]
    return "\n".join(lines) + "\n"


def _model(server: Server, name: str) -> str:
    """What a model is called on the command line: its name if it ships, else its file, of which only a local client is told where."""
    if name in embedded() or name == "default":
        return name
    file = server.folder.model(name)
    return str(file) if server.settings.local else file.name


def _inputs(request: Mapping[str, Any]) -> tuple[str, ...]:
    asked = parse(dict(request), "request")
    assert isinstance(asked, Request)
    return asked.inputs


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _quoted(value: Any) -> str:
    return shlex.quote(_json(value))


__all__ = ["of", "together"]
