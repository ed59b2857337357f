"""Records the run that ships with the studio, src/safelight/studio/example/run.json.gz: what is shown where there is no run yet.

    python -m scripts.build_example

The trained model of words, its own prompt of the readme, everything recorded; and what Explain sets beside it: the same with a sampler
that adds noise, the same noise with another word, and the picture twice as large. Sheets are packed for the eye, tensors in half
precision; what is made of the run holds only what is looked at.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from safelight.assets import Assets
from safelight.draw.pixels import to_bytes
from safelight.files import atomic_bytes
from safelight.generate import generate
from safelight.model import Model, load
from safelight.serve.attention import hear
from safelight.serve.explain import data_url
from safelight.serve.page import EXAMPLE, Packing, packed, recorded
from safelight.task import Request
from safelight.trace import Recorder, Trace

FILE = Path(__file__).resolve().parents[1] / "src/safelight/studio/example/run.json.gz"
REQUEST: dict[str, Any] = {"prompt": ("three red apples on a blue background",), "seed": 8, "steps": 10}
WHOLE = Packing(sheets=85, maps=70, half=True)
ASIDE = Packing(sheets=80, half=True, lenses=("x0",), tensors=("x0",))
# What a clone and a page that shows it pay for it.
MOST = 300_000


def record(model: Model, assets: Assets, **fields: Any) -> Trace:
    """The recording of a run, with its branches."""
    recorder = Recorder(branches=True)
    for event in generate(model, Request.model_validate({**REQUEST, **fields}), assets=assets):
        recorder.see(event)
    return recorder.trace()


def small(trace: Trace) -> str:
    """The picture of a run as a data: URL, a few hundred bytes to two thousand."""
    file = io.BytesIO()
    Image.fromarray(to_bytes(trace.pictures)[0]).save(file, "WEBP", quality=85, method=6)
    return data_url(file.getvalue(), "image/webp")


def main() -> None:
    model, assets = load("sprites-small"), Assets()
    trace = record(model, assets)
    heard = hear(trace, model)
    assert heard.identical
    # Of no moment in a list of runs: it is older than any.
    answers = recorded({"id": EXAMPLE, "created": 0.0}, trace, model, heard=heard, packing=WHOLE)
    nodes = [{**answers[f"/v1/runs/{EXAMPLE}/tree"]["nodes"][0], "thumb": small(trace)}]

    height, width = model.spec.size
    own = assets.add(torch.from_numpy(to_bytes(trace.pictures)[0]).movedim(2, 0))
    aside: list[tuple[str, str, str, Packing, dict[str, Any]]] = [
        (
            "ancestral",
            "cell",
            "another sampler",
            ASIDE._replace(lenses=("x", "x0")),
            {"sampler": {"kind": "euler-ancestral"}},
        ),
        ("umbrellas", "vary", "another word", ASIDE, {"prompt": ("three red umbrellas on a blue background",)}),
        (
            "large",
            "edit",
            "twice as large",
            ASIDE._replace(sheets=60),
            {"size": (2 * height, 2 * width), "task": {"kind": "image", "picture": own, "strength": 0.35}},
        ),
    ]
    for name, relation, title, packing, fields in aside:
        made = record(model, assets, **fields)
        id = f"{EXAMPLE}-{name}"
        kind = {"cell": "generate"}.get(relation, relation)
        about = {
            "id": id,
            "kind": kind,
            "created": 0.0,
            "parent": EXAMPLE,
            "relation": relation,
            "title": title,
            "record": "preview",
        }
        found, picture = recorded(about, made, model, packing=packing), small(made)
        run = found[f"/v1/runs/{id}"]
        run["pictures"][0]["url"] = found[f"/v1/runs/{id}/pictures/0.png"] = picture
        if relation == "edit":  # looked at, and not explained
            found = {path: told for path, told in found.items() if "/explain" not in path and "/tensors" not in path}
        found[f"/v1/runs/{id}/numbers?picture=0"]["dial"] = False  # its branches are left out
        nodes.append({**nodes[0], "id": id, "parent": EXAMPLE, "relation": relation, "title": title, "thumb": picture})
        answers |= found
    for id in [node["id"] for node in nodes]:
        answers[f"/v1/runs/{id}/tree"] = {"nodes": nodes}

    data = packed(answers)
    print(f"{FILE.name} {len(data):,} bytes, {len(answers)} answers of {', '.join(node['id'] for node in nodes)}")
    assert len(data) <= MOST, f"that is more than {MOST:,}"
    FILE.parent.mkdir(exist_ok=True)
    atomic_bytes(FILE, data)


if __name__ == "__main__":
    main()
