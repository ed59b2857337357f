"""Write a trained model as one small file: one set of its weights, in half precision, with its spec and its lineage.

    safelight export runs/mine --out mine.safetensors
    safelight export runs/mine --to diffusers --out mine            a folder that diffusers loads
    safelight export runs/mine --to ldm --out mine-ldm.safetensors  a single file, as A1111 and ComfyUI read it
    safelight export runs/mine --weights raw --dtype float32 --out mine-raw.safetensors
    safelight export runs/mine --set steps=20 --set grid=shifted --set mix.scale=3 --out mine.safetensors

RUN is a run's folder (its latest checkpoint) or a model file. What it makes is measured, not assumed: the largest difference that the
precision makes to a weight is printed. A model that came from a published folder or file goes back into that layout as what it was; one
that no class of diffusers is, is written there with the source of its own parts, for `trust_remote_code=True`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.cli.convert import LAYOUTS, written
from safelight.spec import SpecError

if TYPE_CHECKING:
    from safelight.model import Model, ModelSpec

_DTYPES = ("float16", "bfloat16", "float32")


def add(parser: argparse.ArgumentParser) -> None:
    """What is exported, and as what."""
    parser.add_argument("model", metavar="RUN", help="a run's folder or a model file")
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="the file to write, NAME.safetensors, or diffusers' folder"
    )
    parser.add_argument("--to", choices=LAYOUTS, default=LAYOUTS[0], help=f"the layout ({LAYOUTS[0]})")
    parser.add_argument("--weights", metavar="NAME", help="raw, or the name of an average; without it the first average")
    parser.add_argument("--codec", metavar="RUN", help="take the decoder from here: a codec whose latents are the same")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="how it is sampled by default: steps, sampler, grid, mix",
    )
    parser.add_argument("--dtype", choices=(*_DTYPES, "keep"), default=_DTYPES[0], help=f"of the numbers ({_DTYPES[0]})")


def swap(model: Model, source: str) -> dict[str, str]:
    """Give `model` another codec's weights, which must make the very same latents; returns what goes into its lineage.

    Raises SpecError where a number of the encoder or of the scale differs: a denoiser would then paint something else.
    """
    import torch

    from safelight.model import fit, load

    donor = load(source, dtype=None)
    mine, theirs = model.codec.state_dict(), donor.codec.state_dict()
    for name, value in mine.items():
        head = name.split(".")[0]
        decodes = head in ("decoder", "after", "seen")  # `seen` counts training batches
        if not decodes and (name not in theirs or not torch.equal(value, theirs[name])):
            raise SpecError(
                f"--codec {source}: '{name}' differs, so its latents are others; it must be trained with objective.encoder=false"
            )
    fit(model.codec, theirs, f"--codec {source}")
    return {"codec": donor.fingerprint}


def sampled(model: Model, settings: list[str]) -> ModelSpec:
    """The model's spec with other defaults. Raises SpecError for what is none of them, or what its process cannot follow."""
    from pydantic import ValidationError

    from safelight.cli.overrides import assign
    from safelight.model import Defaults
    from safelight.spec import describe, one_line

    found = assign(describe(model.spec.defaults, family=False), settings)
    try:
        defaults = Defaults.model_validate(found)
    except ValidationError as error:
        raise SpecError(f"--set: {one_line(error)}") from None
    defaults.grid(model.process, defaults.steps)
    return model.spec.model_copy(update={"defaults": defaults})


def run(args: argparse.Namespace) -> int:
    """Export, read back, and say what became of the numbers."""
    import torch

    from safelight.model import load, save

    out = Path(args.out)
    if out.suffix != ".safetensors" and args.to != "diffusers":
        raise SpecError(f"--out {out}: a model file is called NAME.safetensors")
    if out.exists():
        raise SpecError(
            f"--out {out}: there is {'a file' if out.is_file() else 'a folder'} already; name another, or delete it first"
        )
    model = load(args.model, args.weights, dtype=None)
    chosen = model.weights
    codec = swap(model, args.codec) if args.codec else {}
    model.spec = sampled(model, args.set)
    # Under the name that they have, so that `--weights ema` goes on meaning the same thing.
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    dtype = None if args.dtype == "keep" else getattr(torch, args.dtype)
    for name, value in state.items():
        if not bool(value.to(dtype or value.dtype).isfinite().all()):
            fix = "; take bfloat16 or float32" if bool(value.isfinite().all()) else ""
            raise SpecError(
                f"'{name}' holds {float(value.abs().max()):.3g}, which is no number of {args.dtype if dtype else value.dtype}{fix}"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    lineage = {**model.lineage, "parent": model.fingerprint, **codec}
    if args.to != "safelight":
        for parameter in model.parameters():
            if dtype is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        model.lineage = {**model.lineage, **codec}
        written(model, out, args.to, {})
        again = {name: value.detach() for name, value in model.named_parameters()}
    else:
        if chosen == "raw":
            save(out, model, lineage=lineage, dtype=dtype)
        else:
            save(out, model, lineage=lineage, averages={chosen: state}, raw=False, dtype=dtype)
        again = load(out, dtype=None).state_dict()
    apart = max(
        (float((again[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-30)))
        for name, value in state.items()
        if name in again
    )
    count = sum(value.numel() for value in state.values())
    size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file())
    print(f"model    {out}: {size / 1e6:.1f} MB, {count:,} numbers of '{chosen}'{f' in {args.dtype}' if dtype else ''}")
    print(f"lost     at most {apart:.1e} of the largest number of a tensor")
    return 0
