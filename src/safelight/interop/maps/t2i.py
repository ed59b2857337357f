"""T2I-adapters: diffusers' `T2IAdapter`, and the names of the authors' files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safelight.interop.config import refused, whole, wholes
from safelight.interop.keys import Key, layer
from safelight.nn.t2i import T2ISpec
from safelight.spec import SpecError

WHERE = "the config of a T2I-adapter"
CLASS = "T2IAdapter"


def spec(config: Mapping[str, Any]) -> T2ISpec:
    """The adapter of a `T2IAdapter`'s config. Raises SpecError, in one line, for what has no counterpart here."""
    kind = config.get("adapter_type", "full_adapter")
    if kind not in ("full_adapter", "full_adapter_xl", "light_adapter"):
        raise refused(WHERE, "adapter_type", kind, "full_adapter, full_adapter_xl and light_adapter are")
    widths, light = wholes(config, WHERE, "channels", (320, 640, 1280, 1280)), kind == "light_adapter"
    widths = (*widths, widths[-1]) if light else widths
    return T2ISpec(
        channels=whole(config, WHERE, "in_channels", 3),
        unshuffle=whole(config, WHERE, "downscale_factor", 8),
        widths=widths,
        halves=_late(len(widths)) if kind == "full_adapter_xl" else tuple(range(1, len(widths))),
        depth=whole(config, WHERE, "num_res_blocks", 2),
        narrow=light,
    )


def config(spec: T2ISpec) -> dict[str, Any]:
    """A `T2IAdapter`'s config for an adapter of ours. Raises SpecError for one that diffusers' class cannot be."""
    every = tuple(range(1, len(spec.widths)))
    kind = "light_adapter" if spec.narrow else "full_adapter" if spec.halves == every else "full_adapter_xl"
    odd = kind == "full_adapter_xl" and (spec.halves != _late(len(spec.widths)) or len(set(spec.widths[2:])) > 1)
    if odd or (spec.narrow and (spec.halves != every or spec.widths[-1:] != spec.widths[-2:-1])):
        raise SpecError(f"{CLASS} has no counterpart of halves {list(spec.halves)} with widths {list(spec.widths)}")
    return {
        "_class_name": CLASS,
        "in_channels": spec.channels,
        "channels": list(spec.widths[:-1] if spec.narrow else spec.widths),
        "num_res_blocks": spec.depth,
        "downscale_factor": spec.unshuffle,
        "adapter_type": kind,
    }


def _late(levels: int) -> tuple[int, ...]:
    """Where SDXL's adapter halves: at its third resolution alone."""
    return (2,) if levels > 2 else ()


def keys(spec: T2ISpec) -> list[Key]:
    """The adapter's tensors, diffusers' names."""
    return list(_keys(spec, "adapter.conv_in", "adapter.body.{i}", "adapter.body.{i}.resnets.{j}"))


def ldm_keys(spec: T2ISpec) -> list[Key]:
    """The adapter's tensors by the names of the authors' files, where the full one's blocks are one row."""
    if spec.narrow:
        return list(_keys(spec, "", "body.{i}", "body.{i}.body.{j}"))
    return list(_keys(spec, "conv_in", "body.{n}", "body.{n}"))


def _keys(spec: T2ISpec, stem: str, level: str, block: str) -> Iterator[Key]:
    if not spec.narrow:
        yield from layer("stem", stem)
    before = (spec.widths[0], *spec.widths[:-1])
    for i, (inp, out) in enumerate(zip(before, spec.widths, strict=True)):
        first = level.format(i=i, n=i * spec.depth)
        if spec.narrow or inp != out:
            yield from layer(f"levels.{i}.enter", f"{first}.in_conv")
        if spec.narrow:
            yield from layer(f"levels.{i}.leave", f"{first}.out_conv")
        for j in range(spec.depth):
            there = block.format(i=i, j=j, n=i * spec.depth + j)
            yield from layer(f"levels.{i}.blocks.{j}.conv1", f"{there}.block1")
            yield from layer(f"levels.{i}.blocks.{j}.conv2", f"{there}.block2")


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> T2ISpec | None:
    """The adapter of the authors' names and shapes; None where they are not a T2I-adapter's.

    The picture has three channels, but where 64 values a place say that it has one. Patches of 16 are those for SDXL.
    """
    if "body.0.body.0.block1.weight" in shapes:
        levels = len({name.split(".")[1] for name in shapes})
        widths = tuple(shapes[f"body.{i}.out_conv.weight"][0] for i in range(levels))
        depth = len({name.split(".")[3] for name in shapes if name.startswith("body.0.body.")})
        channels, unshuffle = _seen(shapes["body.0.in_conv.weight"][1])
        return T2ISpec(
            channels=channels, unshuffle=unshuffle, widths=widths, halves=tuple(range(1, levels)), depth=depth, narrow=True
        )
    if "conv_in.weight" not in shapes or "body.0.block1.weight" not in shapes or not all(
        name.startswith(("conv_in.", "body.")) for name in shapes
    ):  # fmt: skip
        return None
    channels, unshuffle = _seen(shapes["conv_in.weight"][1])
    blocks = [
        shapes[f"body.{n}.block1.weight"][0] for n in range(len({k.split(".")[1] for k in shapes if k.startswith("body.")}))
    ]
    depth, rest = divmod(len(blocks), 4)
    if rest:
        raise SpecError(f"a T2I-adapter of {len(blocks)} blocks is none of those published, which have four resolutions")
    return T2ISpec(
        channels=channels,
        unshuffle=unshuffle,
        widths=tuple(blocks[::depth]),
        halves=(2,) if unshuffle == 16 else (1, 2, 3),
        depth=depth,
    )


def _seen(values: int) -> tuple[int, int]:
    """(channels, side of a patch) of so many values a place."""
    known = {64: (1, 8), 192: (3, 8), 256: (1, 16), 768: (3, 16)}
    if values not in known:
        raise SpecError(f"a T2I-adapter that sees {values} values a place is none of those published (64, 192, 256, 768)")
    return known[values]
