"""Single files in the layout of latent diffusion: the U-Net, the first stage and the text encoder side by side under prefixes.

A file of guided diffusion (ADM) has the same names for its U-Net of pixels, without a prefix, and nothing else.

    open_file(path)          what a file holds, by names and shapes; only its header is read
    save_file(path, model)   the file of a model, for every tool that reads such files

The architecture is recognised, not told. What no tensor says is as published, and what is said takes precedence: the prediction by the
file's notes (`modelspec.prediction_type`) or by a marker tensor (`v_pred`, `ztsnr`), else by the one weight that tells the two Stable
Diffusion 2 apart; the latents' scale by a tensor `scale_factor`. A file's other tensors are kept and given back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight.codec.kl import KLSpec
from safelight.codec.latent import LatentSpec
from safelight.codec.pixels import PixelsSpec
from safelight.files import atomic
from safelight.guide.cfg import CFG, NoGuidance
from safelight.interop import schedulers
from safelight.interop.checkpoint import Entry, Tensors, write
from safelight.interop.foreign import Beneath, Component, Foreign, Share, theirs, understood
from safelight.interop.maps import clip, unet, vae
from safelight.model import Defaults, Model, ModelSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Eps, V
from safelight.process.augment import Augment
from safelight.spec import Spec, SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.label import LabelSpec
from safelight.text.sdxl import SDXLTextSpec
from safelight.text.tokens import FULL
from safelight.text.vocabulary import layout

UNET, FIRST, EMA = "model.diffusion_model.", "first_stage_model.", "model_ema."
COND, EMBEDDERS = "cond_stage_model.", ("conditioner.embedders.0.", "conditioner.embedders.1.")
NETWORK, CODEC, TEXT = "denoiser.network.", "codec.", "text."
# Buffers of the original training code, markers, and parts that no network here needs: they are kept.
_ASIDE = re.compile(
    r"(betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+|posterior_\w+|logvar|lvlb_weights|scale_factor|v_pred|ztsnr|denoiser\.sigmas"
    r"|(low_scale_model|depth_model|model_ema|loss)\..+)"
)
_PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# The bias that tells what a Stable Diffusion 2 predicts: its standard deviation is above the bar in the published networks of v.
_TELLS, _BAR = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09


class Family(NamedTuple):
    """What its authors published of a kind of model: side of its pictures, key of its scale in maps/vae.py, guidance, scheduler."""

    side: int
    scale: str
    guidance: float
    scheduler: str = "DDIMScheduler"


FAMILIES = {
    "sd1": Family(512, "sd1", 7.5),
    "sd2": Family(512, "sd2", 7.5),
    "sd2-v": Family(768, "sd2", 7.5),
    "sdxl": Family(1024, "sdxl", 5.0, "EulerDiscreteScheduler"),
    "sdxl-refiner": Family(1024, "sdxl", 5.0, "EulerDiscreteScheduler"),
    "upscaler": Family(512, "upscaler", 9.0),
}


class Renamed(Mapping[str, Tensor]):
    """Tensors under other names."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        self.tensors, self.names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def open_file(path: Path) -> Foreign:
    """The model in a single file. Raises SpecError, in one line, for a file of another kind, and for tensors missing or left over."""
    with understood(path):
        return _opened(Tensors([path]), path)


def _opened(tensors: Tensors, path: Path) -> Foreign:
    if "input_blocks.0.0.weight" in tensors and "time_embed.0.weight" in tensors:
        return _pixels(tensors, path)
    if not any(name.startswith(UNET) for name in tensors):
        raise SpecError(f"{path} is a safetensors file, but not a Safelight model: {_what(tensors)}")
    outside = next(
        (name for name in tensors if not name.startswith((UNET, FIRST, COND, *EMBEDDERS)) and not _ASIDE.fullmatch(name)), None
    )
    if outside is not None:
        raise SpecError(f"{path} has '{outside}', which no part of the model uses")
    network = unet.recognise(Beneath(tensors, UNET).shapes)
    texts = list(_texts(tensors, path))
    network = _numbered(network, texts[-1][1])
    if not any(name.startswith(FIRST) for name in tensors):
        raise SpecError(f"{path} holds a network without its codec: there is no '{FIRST}...' in it")
    codec = vae.recognise({k: v for k, v in Beneath(tensors, FIRST).shapes.items() if not k.startswith("loss.")})
    family = _family(network, codec, texts)
    predicts, zero = _prediction(tensors, family)
    if family == "sd2" and predicts == "v_prediction":
        family = "sd2-v"
    told = FAMILIES[family]
    schedule = schedulers.read(_scheduler(told.scheduler, predicts, zero))
    if family.startswith("sdxl"):
        scored = family == "sdxl-refiner"
        text: CLIPTextSpec | SDXLTextSpec = SDXLTextSpec.of(*(spec for _, spec in texts), zeros=not scored, scored=scored)
    else:
        text = texts[0][1]
    spec = ModelSpec(
        network=network,
        process=schedule.process,
        parameterization=schedule.parameterization,
        codec=codec,
        text=text,
        channels=codec.pictures,
        size=(told.side, told.side),
        augment=Augment(process=schedule.process) if family == "upscaler" else None,
        defaults=Defaults(
            steps=50, sampler=schedule.sampler, grid=schedule.grid, mix=CFG(scale=told.guidance), bends=schedule.bends
        ),
    )
    scaling = {"_class_name": "AutoencoderKL" if isinstance(codec, KLSpec) else "VQModel", "latent_channels": codec.latents}

    def scaled(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        factor = float(tensors["scale_factor"]) if "scale_factor" in tensors else vae.SCALING[told.scale]
        return vae.constants({**scaling, "scaling_factor": factor}, state)

    first = Component(
        "first stage", str(path), Beneath(tensors, FIRST), [Share(CODEC, vae.ldm_keys(codec), scaled)], _loss
    ).checked()
    others = [first]
    for i, (prefix, one) in enumerate(texts):
        inside = TEXT if isinstance(text, CLIPTextSpec) else f"{TEXT}encoders.{i}."
        read = one if isinstance(text, CLIPTextSpec) else text.encoders[i]
        others.append(
            Component(prefix, str(path), Beneath(tensors, prefix), [Share(inside, clip.ldm_keys(read))], clip.ignored).checked()
        )
    share = Share(NETWORK, unet.ldm_keys(network))
    sets = {"raw": [Component("unet", str(path), Beneath(tensors, UNET), [share]).checked(), *others]}
    average = _average(tensors)
    if average:
        sets["ema"] = [Component("unet", f"{path} ({EMA}...)", Renamed(tensors, average), [share]).checked(), *others]
    return Foreign(
        layout="ldm",
        spec=spec,
        origin={"layout": "ldm", "family": family, "notes": tensors.notes},
        sets=sets,
        entries=dict(_entries(tensors, average)),
        others=lambda: _others(tensors, sets, set(average.values())),
    )


def _pixels(tensors: Tensors, path: Path) -> Foreign:
    """A U-Net of pixels, as guided diffusion publishes them: 1000 steps, a learned variance, its deepest resolution 8 pixels wide."""
    network = unet.recognise(tensors.shapes)
    side = 8 * 2 ** (len(network.widths) - 1)
    schedule = schedulers.read(_guided(side))
    names = tuple(map(str, range(network.classes)))
    spec = ModelSpec(
        network=network,
        process=schedule.process,
        parameterization=schedule.parameterization,
        text=LabelSpec(names=names, raw=True) if names else None,
        channels=network.channels,
        size=(side, side),
        defaults=Defaults(steps=250, sampler=schedule.sampler, grid=schedule.grid, mix=NoGuidance(), bends=schedule.bends),
    )
    whole = Component("unet", str(path), Beneath(tensors, ""), [Share(NETWORK, unet.ldm_keys(network))]).checked()
    return Foreign(
        layout="ldm",
        spec=spec,
        origin={"layout": "ldm", "family": "adm", "notes": tensors.notes},
        sets={"raw": [whole]},
        entries={f"raw/{name}": entry for name, entry in tensors.entries.items()},
        others=dict,
    )


def _guided(side: int) -> dict[str, Any]:
    """The schedule that a network of guided diffusion was published with: a cosine at 64 pixels, linear betas above."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "squaredcos_cap_v2" if side == 64 else "linear",
        "clip_sample": True,
        "timestep_spacing": "leading",
    }


def _entries(tensors: Tensors, average: Mapping[str, str]) -> Iterator[tuple[str, Entry]]:
    there = {name: UNET + short for short, name in average.items()}
    for name, entry in tensors.entries.items():
        yield (f"ema/{there[name]}" if name in there else f"raw/{name}"), entry
    for name, entry in tensors.entries.items():
        if average and name.startswith((FIRST, COND, *EMBEDDERS)):
            yield f"ema/{name}", entry


def _others(tensors: Tensors, sets: Mapping[str, Sequence[Component]], averaged: set[str]) -> dict[str, Tensor]:
    prefixes = {"unet": UNET, "first stage": FIRST}
    used = {
        prefixes.get(c.name, c.name) + name
        for c in sets["raw"]
        for share in c.shares
        for key in share.keys
        for name in key.theirs
    }
    return {f"tensors/{name}": tensors[name] for name in tensors if name not in used | averaged}


def _what(tensors: Tensors) -> str:
    """What a file without a U-Net is, as far as its names say."""
    names = list(tensors)
    if any(re.search(r"(lora_(up|down|A|B)|\.lora\.|hada_w|lokr_w)", name) for name in names):
        return "it is an adapter (LoRA), which is put on a model: --lora"
    if any(name.startswith(("controlnet_", "control_model.", "input_hint_block.")) for name in names):
        return "it is a ControlNet, which goes with a model"
    if any(name in ("emb_params", "clip_g") or name.startswith("<") for name in names):
        return "it is a word that was learned (textual inversion), which goes with a model"
    if any(name.startswith(("decoder.up_blocks", "decoder.mid", FIRST)) for name in names):
        return "it is a codec alone; a model has a network too"
    if any(name.startswith(("down_blocks.", "input_blocks.", "transformer_blocks.", "x_embedder.")) for name in names):
        return "it is a network alone; give the folder it is from, with its model_index.json"
    if any(name.startswith(("double_blocks.", "joint_blocks.", "model.diffusion_model.double_blocks.")) for name in names):
        return "its network (a multimodal transformer) has no counterpart here"
    return "its header has no 'safelight' entry, and its tensors have no name that is known here"


def _texts(tensors: Tensors, path: Path) -> Iterator[tuple[str, CLIPTextSpec]]:
    """The text encoders, by prefix."""
    found = False
    for prefix in (COND, *EMBEDDERS):
        shapes = Beneath(tensors, prefix).shapes
        if shapes:
            found, spec = True, clip.recognise(shapes)
            if spec.skip and spec.width == 1024 and spec.layers == 23:  # written without the last block, which nobody reads
                spec = spec.model_copy(update={"skip": 0})
            yield prefix, spec
    if not found:
        raise SpecError(f"{path} holds a network without its text encoder: there is no '{COND}...' in it")


def _numbered(network: UNetSpec, text: CLIPTextSpec) -> UNetSpec:
    """The network with as many numbers behind the pooled text as its embedding has room for, where the text's width says how many."""
    waves, pooled = network.numbers_width, text.gives[1]
    numbers, rest = divmod(network.cond + (waves - 1) * network.numbers - pooled, waves)
    if network.classes or not network.cond or rest or numbers < 1:
        return network
    return network.model_copy(update={"cond": pooled + numbers, "numbers": numbers})


def _family(network: UNetSpec, codec: LatentSpec, texts: Sequence[tuple[str, CLIPTextSpec]]) -> str:
    if network.numbers:
        return "sdxl-refiner" if network.numbers == 5 else "sdxl"
    if network.image == codec.pictures and network.channels == codec.latents:
        return "upscaler"
    return "sd1" if texts[0][1].quick else "sd2"


def _prediction(tensors: Tensors, family: str) -> tuple[str, bool]:
    """What the network predicts, in diffusers' words, and whether its last level is all noise."""
    said = tensors.notes.get("modelspec.prediction_type", "").lower()
    zero = "ztsnr" in tensors
    if said in ("v", "v_prediction", "v-prediction") or "v_pred" in tensors:
        return "v_prediction", zero
    if said or family != "sd2" or UNET + _TELLS not in tensors:
        return "epsilon", zero
    spread = float(tensors[UNET + _TELLS].float().std(correction=0))
    return ("v_prediction" if spread > _BAR else "epsilon"), zero


def _scheduler(name: str, predicts: str, zero: bool) -> dict[str, Any]:
    own = {"clip_sample": False, "set_alpha_to_one": False} if name == "DDIMScheduler" else {"timestep_spacing": "leading"}
    return {
        "_class_name": name,
        **_PUBLISHED,
        **own,
        "steps_offset": 1,
        "prediction_type": predicts,
        "rescale_betas_zero_snr": zero,
    }


def _average(tensors: Tensors) -> dict[str, str]:
    """The averages of the U-Net's weights by their names in it; {} where it has none. They are kept under their names without the dots."""
    if not any(name.startswith(EMA) for name in tensors):
        return {}
    found = {}
    for name in tensors:
        if name.startswith(UNET):
            there = EMA + name.removeprefix("model.").replace(".", "")
            if there not in tensors:
                return {}
            found[name.removeprefix(UNET)] = there
    return found


def _loss(name: str) -> bool:
    return name.startswith("loss.")


def save_file(path: str | os.PathLike[str], model: Model, averages: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
    """Write a model as a single file, whole or not at all. averages: further weight sets; an "ema" is written as the original code does.

    A model that came from such a file gives it back, tensor for tensor. Raises SpecError, in one line, for a model that the layout
    cannot say: another network, codec, text encoder, process or prediction.
    """
    spec = model.spec
    if isinstance(spec.network, UNetSpec) and isinstance(spec.codec, PixelsSpec):
        _save_pixels(path, model, spec.network)
        return
    if not isinstance(spec.network, UNetSpec) or not isinstance(spec.codec, LatentSpec):
        raise SpecError(
            f"a single file holds a U-Net and a codec of latents, not network '{spec.network.kind}' with codec '{spec.codec.kind}'"
        )
    said = model.lineage.get("origin", {})
    state = model.state_dict()
    if isinstance(spec.text, CLIPTextSpec):
        encoders = [(COND, TEXT, spec.text)]
    elif isinstance(spec.text, SDXLTextSpec):
        encoders = [(EMBEDDERS[i], f"{TEXT}encoders.{i}.", one) for i, one in enumerate(spec.text.encoders)]
    else:
        raise SpecError(
            f"a single file holds CLIP's text encoders, not {f'text {spec.text.kind!r}' if spec.text else 'a model without text'}"
        )
    notes, marks = _told(spec)
    _sayable(spec)
    network = Share(NETWORK, unet.ldm_keys(spec.network))
    tensors = {UNET + k: v for k, v in theirs([network], state).items()}
    tensors |= {FIRST + k: v for k, v in theirs([Share(CODEC, vae.ldm_keys(spec.codec))], state).items()}
    for prefix, inside, one in encoders:
        tensors |= {prefix + k: v for k, v in theirs([Share(inside, clip.ldm_keys(one))], state).items()}
    average = (averages or {}).get("ema")
    if average is not None:
        both = {**state, **average}
        tensors |= {f"{EMA}diffusion_model{k.replace('.', '')}": v for k, v in theirs([network], both).items()}
    if said.get("layout") == "ldm":
        notes = said["notes"]
        tensors |= {
            name.removeprefix("tensors/"): value
            for name, value in model.kept.items()
            if name.startswith("tensors/") and (average is not None or not name.startswith(f"tensors/{EMA}"))
        }
    else:
        tensors |= marks | _scale(
            spec.codec, model.codec.state_dict(), _family(spec.network, spec.codec, [(p, s) for p, _, s in encoders])
        )
    with atomic(path) as temporary:
        write(temporary, tensors, notes)


def _save_pixels(path: str | os.PathLike[str], model: Model, network: UNetSpec) -> None:
    """Write a U-Net of pixels as guided diffusion does. Raises SpecError for one that would be read as another model."""
    side = 8 * 2 ** (len(network.widths) - 1)
    text = model.spec.text
    if model.spec.process != schedulers.read(_guided(side)).process or not isinstance(model.spec.parameterization, Eps):
        raise SpecError(
            "a single file of pixels cannot say its process and prediction; this model's are not those of guided diffusion"
        )
    if model.spec.size != (side, side) or not (text is None or (isinstance(text, LabelSpec) and text.raw)):
        raise SpecError(
            f"a single file of pixels is one of {side}x{side} by its network's depth, without words; this model is another"
        )
    tensors = theirs([Share(NETWORK, unet.ldm_keys(network))], model.state_dict())
    _same(network, unet.recognise({name: tuple(value.shape) for name, value in tensors.items()}), "network")
    said = model.lineage.get("origin", {})
    with atomic(path) as temporary:
        write(temporary, tensors, said["notes"] if said.get("layout") == "ldm" else {"format": "pt"})


def _same(mine: Spec, again: Spec, name: str) -> None:
    """Raise SpecError for the first field in which a part would be read as another."""
    for field in type(mine).model_fields:
        if getattr(again, field, None) != getattr(mine, field):
            raise SpecError(f"a single file cannot say {name}.{field} of this model: it would be read with another")


def _sayable(spec: ModelSpec) -> None:
    """Raise SpecError for a network, codec or vocabulary that names and shapes would not say again."""
    network, codec = spec.network, spec.codec
    assert isinstance(network, UNetSpec) and isinstance(codec, LatentSpec)  # as the caller has seen
    with torch.device("meta"):
        parts = (
            ("network", network, unet.recognise, unet.ldm_keys(network), network.build()),
            ("codec", codec, vae.recognise, vae.ldm_keys(codec), codec.build()),
        )
    texts = spec.text.encoders if isinstance(spec.text, SDXLTextSpec) else (spec.text,)
    for name, mine, recognise, keys, module in parts:
        again: Any = recognise({k: tuple(v.shape) for k, v in theirs([Share("", keys)], module.state_dict()).items()})
        if isinstance(again, UNetSpec) and isinstance(texts[-1], CLIPTextSpec):
            again = _numbered(again, texts[-1])
        _same(mine, again, name)
    for text in texts:
        assert isinstance(text, CLIPTextSpec)  # as the caller has seen
        if layout(text.vocabulary) != layout(FULL):
            raise SpecError("a single file brings no vocabulary, and this model's is not the published one of CLIP")


def _told(spec: ModelSpec) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The notes and marker tensors that say how a model's network is to be asked. Raises SpecError for what they cannot say."""
    for zero in (False, True):
        if spec.process == schedulers.read(_scheduler("DDIMScheduler", "epsilon", zero)).process:
            break
    else:
        raise SpecError(f"a single file cannot say its process; this model's '{spec.process.kind}' is not the published one")
    if not isinstance(spec.parameterization, Eps | V):
        raise SpecError(f"a single file predicts 'eps' or 'v', not '{spec.parameterization.kind}'")
    v = isinstance(spec.parameterization, V)
    notes = {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.prediction_type": "v" if v else "epsilon"}
    marks = {name: torch.zeros(0) for name, there in (("v_pred", v), ("ztsnr", zero)) if there}
    return notes, marks


def _scale(codec: LatentSpec, state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The tensor that says the latents' scale, where it is not the published one. Raises SpecError for one a channel, or a shift."""
    said = vae.config(codec, state)
    if said.get("shift_factor") or said.get("latents_mean"):
        raise SpecError(
            "a single file has one scale for all channels of a latent and no shift; this codec has its own for each"
        )
    factor = said["scaling_factor"]
    return {} if abs(factor - vae.SCALING[FAMILIES[family].scale]) < 1e-6 else {"scale_factor": torch.tensor(factor)}
