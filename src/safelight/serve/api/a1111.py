"""The endpoints of A1111's web UI that its clients use, under /sdapi/v1. Masks are white where they paint, as there.

A seed draws other noise here than there: the same numbers give another picture, as they do on another version of theirs. What a request
asks for that is not here (scripts, face restoration, tiling) is refused by name instead of left out in silence.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
from typing import Any

import anyio
import numpy as np
from fastapi import APIRouter
from fastapi import Request as Call
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field

from safelight import device as devices
from safelight.adapt.lora import tagged
from safelight.interop import infotext, names
from safelight.interop.checkpoint import raw_header
from safelight.model import DEFAULT
from safelight.picture import parameters
from safelight.serve.api.answers import png, received
from safelight.serve.api.base import Conflict, Here, Server, TooLarge
from safelight.serve.api.models import known
from safelight.serve.api.openai import guided
from safelight.serve.api.runs import picture_bytes
from safelight.serve.api.studio import Lying, kept, kept_mask
from safelight.serve.runs import LONGEST_PARAMETERS, Ask, Run, digits_of
from safelight.spec import SpecError, parse
from safelight.task import Request

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])

# Runs that came by this API are these, so that its interrupt, which knows no ids, stops no others.
GROUP = "sdapi"
_FILLS = ("blur", "original", "noise", "mean")  # theirs: fill, original, latent noise, latent nothing
_FITS = ("stretch", "crop", "pad")  # theirs: just resize, crop and resize, resize and fill
_UPSCALERS = {"None": None, "Lanczos": Pillow.Resampling.LANCZOS, "Nearest": Pillow.Resampling.NEAREST}
# What is on their request and not here; its value when it asks for nothing.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False, None),  # of a picture: with words alone it is here
    "restore_faces": (False, None),
    "tiling": (False, None),
    "script_name": (None, "", "None"),
    "styles": (None, []),
    "alwayson_scripts": (None, {}),
    "image_cfg_scale": (None, 1.5, 0, 1),
}


class Settings(BaseModel):
    """The options that are kept: which model is used where a request names none."""

    model_config = ConfigDict(extra="ignore")

    sd_model_checkpoint: str | None = Field(None, max_length=200)


class Asked(BaseModel):
    """What a client of A1111 sends; fields that are not listed say nothing of the picture."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prompt: str = Field("", max_length=32_000)
    negative_prompt: str | None = Field("", max_length=32_000)
    seed: int = Field(-1, ge=-(2**63), lt=2**64)
    subseed: int = Field(-1, ge=-(2**63), lt=2**64)
    subseed_strength: float | None = Field(0.0, ge=0, le=1)
    steps: int | None = Field(None, ge=1)
    cfg_scale: float | None = Field(None, ge=0, le=1000)
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    sampler_name: str | None = Field(None, max_length=100)
    sampler_index: str | None = Field(None, max_length=100)
    scheduler: str | None = Field(None, max_length=100)
    batch_size: int = Field(1, ge=1, le=1000)
    n_iter: int = Field(1, ge=1, le=1000)
    eta: float | None = Field(None, ge=0, le=10)
    s_churn: float | None = Field(None, ge=0)
    s_tmin: float | None = Field(None, ge=0)
    s_tmax: float | None = Field(None, ge=0)
    s_noise: float | None = Field(None, ge=0)
    refiner_checkpoint: str | None = Field(None, max_length=200)
    refiner_switch_at: float | None = Field(None, gt=0, lt=1)
    override_settings: Settings | None = None
    override_settings_restore_afterwards: bool | None = True
    send_images: bool = True
    save_images: bool = False


class Txt2img(Asked):
    """The same, of words alone; with enable_hr in two passes, the second at hr_scale times the size, or at hr_resize_x by hr_resize_y."""

    enable_hr: bool | None = False
    hr_scale: float | None = Field(2.0, ge=1, le=16)
    hr_resize_x: int | None = Field(0, ge=0)
    hr_resize_y: int | None = Field(0, ge=0)
    hr_upscaler: str | None = Field(None, max_length=100)
    hr_second_pass_steps: int | None = Field(0, ge=0)
    denoising_strength: float | None = Field(None, ge=0, le=1)


class Img2img(Asked):
    """The same, from a picture; with a mask only its white part is painted."""

    init_images: list[str] = Field(min_length=1, max_length=1)
    mask: str | None = None
    mask_blur: int | None = Field(4, ge=0, le=512)
    inpainting_fill: int | None = Field(1, ge=0, le=3)
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: int | None = Field(0, ge=0, le=4096)
    inpainting_mask_invert: int | None = Field(0, ge=0, le=1)
    denoising_strength: float | None = Field(0.75, ge=0, le=1)
    resize_mode: int | None = Field(0, ge=0, le=2)
    include_init_images: bool = False


class Made(BaseModel):
    """Pictures as base64 of PNG files with their metadata; info: JSON text with the seeds and infotexts. run: of our own API."""

    images: list[str]
    parameters: dict[str, Any]
    info: str
    run: str


class State(BaseModel):
    """What the server is at."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class Progress(BaseModel):
    """How far the run of this API that is under way is, 0..1."""

    progress: float
    eta_relative: float
    state: State
    current_image: str | None
    textinfo: str | None
    current_task: str | None


class PngInfoAsk(BaseModel):
    """A picture as base64."""

    image: str


class PngInfo(BaseModel):
    """What a picture says of itself: its parameters text, that read field by field, and all its texts."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class Extras(BaseModel):
    """How a picture is enlarged: by upscaling_resize times, or with resize_mode 1 to a size, of which the rest is cut off at the edges.
    upscaler_2 is mixed in by extras_upscaler_2_visibility. Restored faces are not here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    resize_mode: int = Field(0, ge=0, le=1)
    upscaling_resize: float = Field(2, gt=0, le=1000)
    upscaling_resize_w: int = Field(512, ge=1, le=100_000)
    upscaling_resize_h: int = Field(512, ge=1, le=100_000)
    upscaling_crop: bool = True
    upscaler_1: str = Field("None", max_length=100)
    upscaler_2: str = Field("None", max_length=100)
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0


class ExtraSingle(Extras):
    """The same, of one picture as base64."""

    image: str


class Named(BaseModel):
    """A picture as base64, with its file's name."""

    data: str
    name: str = Field("", max_length=1000)


class ExtraBatch(Extras):
    """The same, of several."""

    imageList: list[Named] = Field(min_length=1, max_length=64)


class Enlarged(BaseModel):
    """A picture as base64 of a PNG file."""

    html_info: str = ""
    image: str


class EnlargedAll(BaseModel):
    """Pictures as base64 of PNG files."""

    html_info: str = ""
    images: list[str]


class Sampler(BaseModel):
    """A sampler under the name that it has there."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class Scheduler(BaseModel):
    """A grid under the name that it has there."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class Checkpoint(BaseModel):
    """A model. title is what `sd_model_checkpoint` is set to."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class Bytes(BaseModel):
    """Memory, in bytes."""

    free: int
    used: int
    total: int


class Memory(BaseModel):
    """Main memory, and under the name that it has there the accelerator's."""

    ram: Bytes
    cuda: dict[str, Bytes] = {}


# ---- making ------------------------------------------------------------------------------------------------------------------


@router.post("/txt2img")
async def txt2img(here: Here, call: Call, asked: Txt2img) -> Made:
    """Make pictures of a prompt."""
    task = await anyio.to_thread.run_sync(_passes, here, asked) if asked.enable_hr else {"kind": "text"}
    return await _made(here, call, asked, task)


@router.post("/img2img")
async def img2img(here: Here, call: Call, asked: Img2img) -> Made:
    """Make pictures from a picture, or paint the white part of a mask."""
    task = await anyio.to_thread.run_sync(_task, here, asked)
    return await _made(here, call, asked, task)


def _passes(here: Server, asked: Txt2img) -> dict[str, Any]:
    """The task of two passes. Raises SpecError for an upscaler that is not here."""
    name = asked.hr_upscaler or "Latent"
    if name not in names.UPSCALERS:
        raise SpecError(f"hr_upscaler: no upscaler '{name}' (there: {', '.join(names.UPSCALERS)})")
    strength = 0.75 if asked.denoising_strength is None else asked.denoising_strength
    if not strength:
        raise SpecError("denoising_strength: 0 leaves nothing to the second pass")
    # There a second pass runs all of its steps below the strength.
    second = {"strength": strength, "steps": "exact", "count": asked.hr_second_pass_steps or None, **names.UPSCALERS[name]}
    spec = here.spec(_model(here, asked))
    first = [asked.height or spec.size[0], asked.width or spec.size[1]]
    return {"kind": "hires", "first": first, "second": second}


def _enlarged_to(asked: Txt2img, first: list[int]) -> list[int]:
    """(height, width) after the second pass: of two sides that are asked for both, of one its proportions, else by hr_scale."""
    height, width = asked.hr_resize_y or 0, asked.hr_resize_x or 0
    if height and width:
        return [height, width]
    by = height / first[0] if height else width / first[1] if width else 2.0 if asked.hr_scale is None else asked.hr_scale
    return [round(side * by) for side in first]


def _model(here: Server, asked: Asked) -> str:
    """The model that a request names, else the chosen one."""
    named = asked.override_settings.sd_model_checkpoint if asked.override_settings else None
    return checkpoint(here, named or option(here))


def _task(here: Server, asked: Img2img) -> dict[str, Any]:
    seal = kept(here, _bytes(asked.init_images[0], "init_images")).seal
    strength = 0.75 if asked.denoising_strength is None else asked.denoising_strength
    task: dict[str, Any] = {"kind": "image", "picture": seal, "strength": strength, "fit": _FITS[asked.resize_mode or 0]}
    if asked.mask:
        mask = kept_mask(here, _bytes(asked.mask, "mask"), invert=bool(asked.inpainting_mask_invert))
        task |= {"kind": "inpaint", "mask": mask.seal, "feather": asked.mask_blur or 0}
        task["fill"] = _FILLS[1 if asked.inpainting_fill is None else asked.inpainting_fill]
        if asked.inpaint_full_res:
            task["margin"] = asked.inpaint_full_res_padding or 0
    return task


async def _made(here: Server, call: Call, asked: Asked, task: dict[str, Any]) -> Made:
    ask = await anyio.to_thread.run_sync(_asked, here, asked, task)
    run = await anyio.to_thread.run_sync(here.ask, ask)
    done = await here.finished(run.id, call)
    if done.state == "failed":
        raise Conflict(f"run {done.id} failed: {done.error}")
    return await anyio.to_thread.run_sync(_answer, here, asked, done)


def _asked(here: Server, asked: Asked, task: dict[str, Any]) -> Ask:
    """The run that is asked for. Raises SpecError for what is not here."""
    for name, nothing in _NOT_HERE.items():
        value = (asked.model_extra or {}).get(name)
        if value not in nothing:
            raise SpecError(f"{name}: that is not here")
    model = _model(here, asked)
    spec = here.spec(model)
    seed = secrets.randbelow(2**32) if asked.seed == -1 else asked.seed
    variation: dict[str, Any] | None = None
    if asked.subseed_strength:
        subseed = secrets.randbelow(2**32) if asked.subseed == -1 else asked.subseed
        variation = {"seed": subseed, "strength": asked.subseed_strength}
    prompt, loras = tagged(asked.prompt)
    said = f"{prompt} {asked.negative_prompt or ''}"
    words = [name for name, learned in here.learned()[0].items() if any(one.word in said for one in learned)]
    request: dict[str, Any] = {
        "task": task,
        "prompt": [prompt],
        "negative": asked.negative_prompt or "",
        "loras": loras,
        "words": [{"name": name} for name in words],
        "seed": seed,
        "count": asked.batch_size * asked.n_iter,
        "micro_batch": asked.batch_size if asked.n_iter > 1 else None,
        "variation": variation,
    }
    if asked.steps is not None:
        request["steps"] = asked.steps
    if asked.cfg_scale is not None and spec.text is not None:
        request["mix"] = guided(here, model, asked.cfg_scale)
    if isinstance(asked, Txt2img) and asked.enable_hr:
        request["size"] = _enlarged_to(asked, task["first"])
    elif asked.width is not None or asked.height is not None:
        request["size"] = [asked.height or spec.size[0], asked.width or spec.size[1]]
    if asked.refiner_checkpoint not in (None, "", "None"):
        refiner = checkpoint(here, asked.refiner_checkpoint or "")
        request["task"] = {"kind": "refine", "refiner": refiner, "switch": 1 - (asked.refiner_switch_at or 0.8), "of": task}
    named = asked.sampler_name or asked.sampler_index
    if named:
        sampler, grid = infotext.sampler_and_grid(named, asked.scheduler or "")
        if sampler is None:
            raise SpecError(
                f"sampler_name: no sampler '{named}' (there: {', '.join(s.a1111 or s.ours for s in infotext.SAMPLERS)})"
            )
        own = {"eta": asked.eta} if asked.eta is not None and sampler == "ddim" else {}
        request["sampler"] = {"kind": sampler, **infotext.elsewhere(named), **own}
        request["grid"] = grid
    elif asked.scheduler and asked.scheduler.lower() != "automatic":
        request["grid"] = names.schedule(asked.scheduler)
        if request["grid"] is None:
            raise SpecError(
                f"scheduler: no schedule '{asked.scheduler}' (there: {', '.join(g.a1111 or g.ours for g in infotext.GRIDS)})"
            )
    if asked.s_churn:
        # There 0 is no end above.
        ends = {"s_min": asked.s_tmin or None, "s_max": asked.s_tmax or None, "s_noise": asked.s_noise or None}
        request["churn"] = {"amount": asked.s_churn, **{name: value for name, value in ends.items() if value is not None}}
    parsed = parse(request, "request")
    assert isinstance(parsed, Request)
    return Ask(model=model, request=parsed, record="preview", group=GROUP)


def _answer(here: Server, asked: Asked, run: Run) -> Made:
    files = [picture_bytes(here, run.id, k) for k in range(len(run.pictures))]
    texts = []
    for file in files:
        with Lying(here, file) as path:
            texts.append(parameters(path) or "")
    count, request = len(files), run.request
    varied = request.get("variation") or {}
    seed, own = run.seed, request.get("size") or [0, 0]
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * count,
        "negative_prompt": asked.negative_prompt or "",
        "all_negative_prompts": [asked.negative_prompt or ""] * count,
        "seed": seed,
        "all_seeds": [seed] * count,  # picture k of a seed is (seed, k) here: its number is in the infotext
        "subseed": varied.get("seed", seed),
        "subseed_strength": varied.get("strength", 0),
        "width": own[1],
        "height": own[0],
        "sampler_name": (request.get("sampler") or {}).get("kind"),
        "cfg_scale": (request.get("mix") or {}).get("scale", 1),
        "steps": request.get("steps"),
        "batch_size": asked.batch_size,
        "sd_model_name": run.model,
        "sd_model_hash": run.fingerprint[:10],
        "infotexts": texts,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(run.created)),
        "index_of_first_image": 0,
    }
    told = asked.model_dump(mode="json", exclude={"init_images", "mask"})
    images = [base64.b64encode(file).decode() for file in files] if asked.send_images else []
    return Made(images=images, parameters=told, info=json.dumps(info), run=run.id)


def _bytes(text: str, name: str) -> bytes:
    """What base64 holds, also as a data URL. An address is refused: nothing is fetched."""
    head, comma, body = text.partition(",")
    plain = body if comma and head.startswith("data:") else text
    try:
        return base64.b64decode("".join(plain.split()), validate=True)
    except (binascii.Error, ValueError):
        raise SpecError(f"{name}: pictures come as base64; addresses are not fetched") from None


@router.post("/extra-single-image")
def extra_single(here: Here, asked: ExtraSingle) -> Enlarged:
    """Enlarge a picture."""
    return Enlarged(image=_enlarged(here, asked, asked.image, "image"))


@router.post("/extra-batch-images")
def extra_batch(here: Here, asked: ExtraBatch) -> EnlargedAll:
    """Enlarge several pictures."""
    return EnlargedAll(images=[_enlarged(here, asked, one.data, f"imageList.{k}") for k, one in enumerate(asked.imageList)])


def _enlarged(here: Server, asked: Extras, text: str, name: str) -> str:
    for field in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(asked, field):
            raise SpecError(f"{field}: that is not here")
    first, second = (_upscaler(asked, field) for field in ("upscaler_1", "upscaler_2"))
    pixels = received(here, _bytes(text, name))
    height, width = pixels.shape[:2]
    wanted = asked.upscaling_resize_w, asked.upscaling_resize_h
    by = asked.upscaling_resize if asked.resize_mode == 0 else max(wanted[0] / width, wanted[1] / height)
    size = max(1, round(width * by)), max(1, round(height * by))
    if size[0] * size[1] > here.limits.decompressed:
        raise SpecError(f"upscaling_resize: {size[0]}x{size[1]} is more than {here.limits.decompressed:,} pixels")
    image = Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if first is not None:
        with here.decoding:
            large = image.resize(size, first)
            if second is not None and asked.extras_upscaler_2_visibility:
                large = Pillow.blend(large, image.resize(size, second), asked.extras_upscaler_2_visibility)
            if asked.resize_mode == 1 and asked.upscaling_crop:
                left, top = (size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2
                large = large.crop((left, top, left + wanted[0], top + wanted[1]))
            image = large
    return base64.b64encode(png(np.asarray(image))).decode()


def _upscaler(asked: Extras, field: str) -> Pillow.Resampling | None:
    chosen = str(getattr(asked, field))
    if chosen not in _UPSCALERS:
        raise SpecError(f"{field}: no upscaler '{chosen}' (there: {', '.join(_UPSCALERS)})")
    return _UPSCALERS[chosen]


# ---- while it is made --------------------------------------------------------------------------------------------------------


@router.get("/progress")
def progress(here: Here, skip_current_image: bool = False) -> Progress:
    """How far the run of this API that is under way is."""
    mine = [run for run in here.jobs.list() if run.group == GROUP and run.state in ("running", "queued")]
    run = mine[0] if mine else None
    part = run.steps_done / run.steps if run is not None and run.steps else 0.0
    image = None
    if run is not None and not skip_current_image and not here.public.safety.looks:
        row = here.folder.db.execute(
            "SELECT data FROM events WHERE run = ? AND kind = 'step' ORDER BY id DESC LIMIT 1", (run.id,)
        ).fetchone()
        frames = json.loads(row["data"])["frames"].get("x0") if row is not None else None
        image = frames[0] if frames else None
    state = State(
        skipped=False,
        interrupted=False,
        stopping_generation=False,
        job=run.id if run is not None else "",
        job_count=len(mine),
        job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(run.created)) if run is not None else "0",
        job_no=0,
        sampling_step=run.steps_done if run is not None else 0,
        sampling_steps=run.steps if run is not None else 0,
    )
    eta = run.eta or 0.0 if run is not None else 0.0
    task = run.id if run is not None else None
    return Progress(progress=part, eta_relative=eta, state=state, current_image=image, textinfo=None, current_task=task)


@router.post("/interrupt")
def interrupt(here: Here) -> dict[str, str]:
    """Stop the runs of this API that are under way; what came by another one is left alone."""
    for run in here.jobs.list():
        if run.group == GROUP and run.state == "running":
            here.jobs.cancel(run.id)
    return {}


@router.post("/skip")
def skip(here: Here) -> dict[str, str]:
    """Stop the run of this API that is under way; those that wait go on."""
    return interrupt(here)


# ---- what there is -----------------------------------------------------------------------------------------------------------


@router.post("/png-info")
def png_info(here: Here, asked: PngInfoAsk) -> PngInfo:
    """What a picture says of how it was made."""
    from safelight.picture import texts

    data = _bytes(asked.image, "image")
    received(here, data)
    with Lying(here, data) as file:
        found = texts(file)
    text = found.get("parameters", "")
    if len(text) > LONGEST_PARAMETERS:
        raise TooLarge(f"image: its parameters are {len(text):,} characters, {LONGEST_PARAMETERS:,} are read")
    read = infotext.parse(text) if text else infotext.Infotext("")
    fields = {"Prompt": read.prompt, "Negative prompt": read.negative, **read.settings} if text else {}
    return PngInfo(info=text, items=dict(found), parameters=fields)


@router.get("/samplers")
def samplers() -> list[Sampler]:
    """The samplers, by their names there."""
    return [
        Sampler(name=s.a1111 or s.ours, aliases=[a for a in (s.ours, s.comfy, *s.aliases) if a], options={})
        for s in infotext.SAMPLERS
    ]


@router.get("/schedulers")
def schedulers() -> list[Scheduler]:
    """The grids, by their names there."""
    return [
        Scheduler(
            name=g.ours,
            label=g.a1111 or g.ours,
            aliases=list(g.aliases) or None,
            default_rho=7.0 if g.ours == "karras" else -1.0,
            need_inner_model=False,
        )
        for g in infotext.GRIDS
    ]


@router.get("/sd-models")
def sd_models(here: Here) -> list[Checkpoint]:
    """The models. Of their files the names alone are told."""
    found = []
    for name, file in here.folder.models().items():
        digits = digits_of(file)
        title = f"{name}.safetensors [{digits[:10]}]"
        found.append(Checkpoint(title=title, model_name=name, hash=digits[:10], sha256=None, filename=file.name, config=None))
    return found


@router.get("/options")
def options(here: Here) -> dict[str, Any]:
    """The options that say something here."""
    name = option(here) or DEFAULT
    digits = digits_of(here.folder.model(name))
    return {
        "sd_model_checkpoint": f"{DEFAULT if name == 'default' else name}.safetensors [{digits[:10]}]",
        "sd_checkpoint_hash": digits,
        "samples_format": "png",
        "emphasis": "Original",
    }


@router.post("/options")
def set_options(here: Here, asked: Settings) -> None:
    """Choose the model that is used where a request names none. Other options are taken and change nothing."""
    if asked.sd_model_checkpoint is not None:
        name = checkpoint(here, asked.sd_model_checkpoint)
        with here.folder.writing(durable=True) as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('sd_model_checkpoint', ?)", (name,))


def option(here: Server) -> str:
    """The model that was chosen by /options, "" for none."""
    name = here.runs.fact("sd_model_checkpoint")
    return name if name in here.folder.models() else ""


def checkpoint(here: Server, title: str) -> str:
    """A model's name by what clients call it: its name, its file's, or its title with the hash."""
    name = title.partition(" [")[0].strip().removesuffix(".safetensors")
    return known(here, name)


@router.get("/sd-vae")
def vaes() -> list[dict[str, str]]:
    """None: the codec is part of a model here."""
    return []


@router.get("/loras")
def loras(here: Here) -> list[dict[str, Any]]:
    """The adapters in the data folder, which a prompt calls by `<lora:name:weight>`."""
    return [
        {"name": name, "alias": name, "path": path.name, "metadata": raw_header(path).get("__metadata__", {})}
        for name, path in here.folder.adapters().items()
    ]


@router.get("/upscalers")
def upscalers() -> list[dict[str, Any]]:
    """The one that leaves a picture as it is, and those that compute a larger one without a network."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 1 if filter is None else 4}
        for name, filter in _UPSCALERS.items()
    ]


@router.get("/realesrgan-models")
def realesrgan() -> list[dict[str, str]]:
    """None."""
    return []


@router.get("/latent-upscale-modes")
def latent_upscalers() -> list[dict[str, str]]:
    """How a second pass may enlarge latents."""
    return [{"name": name} for name, second in names.UPSCALERS.items() if "latent" in second]


@router.get("/embeddings")
def embeddings(here: Here) -> dict[str, dict[str, Any]]:
    """The named concepts, which a prompt calls by `<name>`, and the learned words in the data folder, by their own."""
    found: dict[str, Any] = {name: {"expression": one.expression} for name, one in here.concepts().items()}
    learned, skipped = here.learned()
    for one in (one for several in learned.values() for one in several):
        vectors = next(iter(one.vectors.values()))
        found[one.word] = {"vectors": len(vectors), "shape": vectors.shape[1]}
    return {"loaded": found, "skipped": {name: {"error": why} for name, why in skipped.items()}}


@router.get("/hypernetworks")
def hypernetworks() -> list[dict[str, str]]:
    """None."""
    return []


@router.get("/face-restorers")
def restorers() -> list[dict[str, str]]:
    """None."""
    return []


@router.get("/prompt-styles")
def styles() -> list[dict[str, str]]:
    """None: presets are the page's."""
    return []


@router.get("/scripts")
def scripts() -> dict[str, list[str]]:
    """None."""
    return {"txt2img": [], "img2img": []}


@router.get("/script-info")
def script_info() -> list[dict[str, str]]:
    """None."""
    return []


@router.get("/extensions")
def extensions() -> list[dict[str, str]]:
    """None: nothing is installed by a request."""
    return []


@router.get("/memory")
def memory() -> Memory:
    """Bytes of main memory, and of the accelerator where there is one."""
    ram, best = devices.memory(devices.pick("cpu")), devices.pick("auto")
    told = Bytes(free=ram.total - ram.used, used=ram.used, total=ram.total)
    if best.type == "cpu":
        return Memory(ram=told)
    there = devices.memory(best)
    return Memory(ram=told, cuda={"system": Bytes(free=there.total - there.used, used=there.used, total=there.total)})


@router.get("/cmd-flags")
def flags(here: Here) -> dict[str, Any]:
    """What its clients read of how the server was started. No path is told."""
    return {
        "api": True,
        "listen": not here.settings.local,
        "port": here.settings.port,
        "api_auth": bool(here.tokens),
        "nowebui": False,
    }


@router.post("/refresh-checkpoints")
def refresh() -> None:
    """Nothing to do: the folder is read whenever it is asked about."""


@router.post("/unload-checkpoint")
def unload(here: Here) -> dict[str, str]:
    """Give the memory of the chosen model back."""
    here.jobs.unload(option(here) or "default")
    return {}


@router.post("/reload-checkpoint")
def reload(here: Here) -> dict[str, str]:
    """Load the chosen model again."""
    here.jobs.load(option(here) or "default")
    return {}


__all__ = ["GROUP", "router"]
