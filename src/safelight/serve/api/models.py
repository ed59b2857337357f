"""Models and the parts that requests are made of."""

from __future__ import annotations

import functools
from pathlib import Path as File
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel

from safelight.codec import CodecSpec
from safelight.model import DEFAULT, ModelSpec, embedded, peek
from safelight.serve.api import schema
from safelight.serve.api.base import Here, Missing, Server
from safelight.serve.jobs import Loaded, Worker
from safelight.serve.runs import digits_of
from safelight.spec import SpecError, describe, parse

router = APIRouter(tags=["models"])

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")]


class OpenAIModel(BaseModel):
    """What clients of OpenAI's API know of a model. created: seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "safelight"


class ModelCard(OpenAIModel):
    """A model: what it is, how it is sampled unless a request says otherwise, and how it came to be.

    size: (height, width). latent: (C, h, w) at that size. multiple: of which sizes are. conditional: whether it hears prompts. bytes: of
    its file. memory: of its loaded weights, on `devices`. weights: the sets of them
    that the file carries; adapters: what else it carries. lineage: how it was trained. card: Markdown.
    """

    name: str
    title: str
    spec: dict[str, Any]
    defaults: dict[str, Any]
    size: tuple[int, int]
    channels: int
    latent: tuple[int, int, int]
    multiple: int
    conditional: bool
    licence: str
    bytes: int
    parameters: int
    fingerprint: str
    weights: list[str]
    classes: list[str]
    lineage: dict[str, Any]
    loaded: bool
    loading: bool
    memory: int
    devices: list[str]
    card: str
    adapters: list[str]


class Models(BaseModel):
    """The models that can be asked for; default: which one "default" is. workers: the processes that run them. elsewhere: the devices
    whose worker another server of this folder has. object, data: the same list as clients of OpenAI's API read it."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]
    models: list[ModelCard]
    default: str
    workers: list[Worker]
    elsewhere: list[str]


class Part(BaseModel):
    """A kind of a family: what it is, and its fields as JSON Schema; {"x-family": F} stands where a part of that family does."""

    kind: str
    doc: str
    schema_: dict[str, Any]

    model_config = {"serialize_by_alias": True, "populate_by_name": True, "alias_generator": lambda name: name.rstrip("_")}


class Parts(BaseModel):
    """All that requests are made of, from the registry. request: the fields of a request themselves."""

    samplers: list[Part]
    grids: list[Part]
    mixes: list[Part]
    bends: list[Part]
    strengths: list[Part]
    tasks: list[Part]
    fits: list[Part]
    safety: list[Part]
    request: dict[str, Any]


@router.get("/v1/models")
def models(here: Here) -> Models:
    """The models, and where they are loaded."""
    loaded = here.jobs.models()
    cards = []
    for name, file in here.folder.models().items():
        try:
            cards.append(card(name, file, [one for one in loaded if one.name == name]))
        except (SpecError, OSError, RecursionError):  # a file that was damaged or taken away since is no model to choose
            continue
    names = [one.name for one in cards]
    return Models(
        data=[OpenAIModel(id=one.id, created=one.created) for one in cards],
        models=cards,
        default=DEFAULT if DEFAULT in names else names[0] if names else "",
        workers=list(here.jobs.workers()),
        elsewhere=here.supervisor.elsewhere(),
    )


@router.get("/v1/models/{name}")
def model(here: Here, name: Name) -> ModelCard:
    """One model."""
    file = here.folder.model(name)
    name = DEFAULT if name == "default" else name
    return card(name, file, [one for one in here.jobs.models() if one.name == name])


@router.post("/v1/models/{name}/load", status_code=202)
def load(here: Here, name: Name) -> ModelCard:
    """Have a model at hand on every device, as soon as what runs there is done."""
    here.jobs.load(name)
    return model(here, name)


@router.post("/v1/models/{name}/unload", status_code=202)
def unload(here: Here, name: Name) -> ModelCard:
    """Give its memory back, as soon as what runs there is done."""
    here.jobs.unload(name)
    return model(here, name)


@router.get("/v1/samplers")
def samplers() -> Parts:
    """Every sampler, grid, mix, bend and task with the schema of its fields."""
    families = {
        "samplers": "sampler",
        "grids": "grid",
        "mixes": "mix",
        "bends": "bend",
        "strengths": "strength",
        "tasks": "task",
        "fits": "transform",
        "safety": "safety",
    }
    return Parts.model_validate(
        {name: schema.parts(family) for name, family in families.items()} | {"request": schema.request()}
    )


def card(name: str, file: File, loaded: list[Loaded]) -> ModelCard:
    """A model's card, of which what its file says is read once."""
    about = file.stat()
    told = _told(file, about.st_mtime_ns, about.st_size)
    return ModelCard(
        id=name,
        created=int(about.st_mtime),
        name=name,
        title=name.replace("-", " "),
        bytes=about.st_size,
        loaded=any(one.state != "loading" for one in loaded),
        loading=any(one.state == "loading" for one in loaded),
        memory=max((one.bytes for one in loaded), default=0),
        devices=sorted({one.device for one in loaded}),
        **told,
    )


@functools.lru_cache(maxsize=256)
def _told(file: File, _changed: int, _size: int) -> dict[str, Any]:
    header = peek(file)
    spec = parse(header.spec, "model")
    assert isinstance(spec, ModelSpec)
    beside = file.with_suffix(".md")
    text = beside.read_text(encoding="utf-8") if beside.is_file() and not beside.is_symlink() else ""
    first = next(iter(header.weights), "raw")
    stride, channels = _grain(spec.codec, spec.channels)
    return {
        "spec": header.spec,
        "defaults": describe(spec.defaults, family=False),
        "size": spec.size,
        "channels": spec.channels,
        "multiple": stride,
        "latent": (channels, spec.size[0] // stride, spec.size[1] // stride),
        "conditional": spec.text is not None,
        "licence": str(header.lineage.get("licence") or ("Apache-2.0" if file in embedded().values() else "")),
        "parameters": sum(entry.size for tensor, entry in header.tensors.items() if tensor.startswith(f"{first}/")),
        "fingerprint": digits_of(file),
        "weights": list(header.weights),
        "classes": list(getattr(spec.text, "names", ())),
        "lineage": header.lineage,
        "card": text,
        "adapters": sorted({name.partition("/")[0] for name in header.tensors} - set(header.weights)),
    }


def _grain(codec: CodecSpec, channels: int) -> tuple[int, int]:
    """(how many pixels a side's multiple is, channels of the latent), by a codec without its weights."""
    import torch

    with torch.device("meta"):
        built = codec.build()
        return int(built.stride), int(built.channels(channels))


def known(here: Server, name: str | None) -> str:
    """A model's name as clients of other APIs give it; the default where they give none. Raises Missing for one that there is not."""
    if name is None or name in ("", "default"):
        return "default"
    if name not in here.folder.models():
        raise Missing(f"no model '{name[:60]}' (models: {', '.join(here.folder.models())})")
    return name


__all__ = ["card", "known", "router"]
