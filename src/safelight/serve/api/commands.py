"""A run as something to type: one line of curl, of our command line, or a few of Python, each of which makes the same bytes again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from safelight.model import ModelSpec, embedded
from safelight.serve.api.base import Conflict, Server
from safelight.serve.runs import Run
from safelight.spec import describe, parse
from safelight.task import Request

# Fields of a request that the command line has flags for.
_FLAGS = ("count", "seed", "index", "steps")
_MODEL_OWN = ("steps", "sampler", "grid", "mix", "bends", "size")


def of(server: Server, run: Run, base: str, picture: int) -> dict[str, Any]:
    """The commands of a run. base: the server's own address. Raises Conflict for a run that was imported without saying how."""
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
        cli += (f" --noise {run.noise!r}" if run.noise else "") + f" --out {picture}.png --picture {picture}"
        python = (
            "import json, urllib.request\n"
            f"body = json.loads({json.dumps(json.dumps(body, ensure_ascii=False), ensure_ascii=False)})\n"
            f"call = urllib.request.Request({f'{base}/v1/runs/{run.parent}/fork?picture={picture}'!r}, json.dumps(body).encode(), "
            '{"Content-Type": "application/json"})\n'
            f'open("{picture}.png", "wb").write(urllib.request.urlopen(call).read())\n'
        )
        return {"curl": curl, "cli": cli, "python": python, "needs": []}
    body = {"model": run.model, "request": request, "record": run.record}
    model = _model(server, run.model)
    return {
        "curl": _curl(f"{base}/v1/runs?picture={picture}", body, token, picture),
        "cli": _cli(request, model, files, server.spec(run.model)),
        "python": _python(request, model, files),
        "needs": needs,
    }


def _curl(url: str, body: Mapping[str, Any], token: str, picture: int) -> str:
    return f"curl -sS -X POST{token} -H 'Content-Type: application/json' -d {_quoted(body)} -o {picture}.png '{url}'"


def _cli(request: Mapping[str, Any], model: str, files: Mapping[str, str], spec: ModelSpec) -> str:
    """`safelight generate` with flags for what differs from the model's and the request's own defaults."""
    usual = {**describe(Request(), family=False), **_own(spec)}
    prompts = [str(p) for p in request.get("prompt") or [""]]
    dashed = any(p.startswith("-") for p in prompts)
    words = ["safelight", "generate", *([""] if dashed else prompts), "--model", model]
    words += ["--set", f"prompt={_json(prompts)}"] if dashed else []
    for name, value in request.items():
        if name == "prompt" or value == usual.get(name):
            continue
        words += [f"--{name}", str(value)] if name in _FLAGS else ["--set", f"{name}={_json(value)}"]
    for file in files.values():
        words += ["--input", file]
    count = len(prompts) * int(request.get("count") or 1)
    return shlex.join([*words, "--no-hints", "--out", "0.png" if count == 1 else "pictures"])


def _own(spec: ModelSpec) -> dict[str, Any]:
    """A model's defaults as a described request has them."""
    return {**describe(spec.defaults, family=False), "size": list(spec.size)}


def _python(request: Mapping[str, Any], model: str, files: Mapping[str, str]) -> str:
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
    return asked.task.inputs


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _quoted(value: Any) -> str:
    return shlex.quote(_json(value))


__all__ = ["of"]
