"""IP-adapters: the names of the published files (`image_proj.*`, `ip_adapter.<number>.to_k_ip`), which hold no config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from safelight.interop.keys import Key, beneath, key, layer
from safelight.nn.ip import FromEmbedding, FromPatches, FromQueries, IPSpec, PictureTokens
from safelight.spec import SpecError

# Heads leave no trace in a file; those of the published resamplers are as wide as this.
_HEAD = 64
# What the families that see something else than CLIP's picture have.
_FACES = ("image_proj.norm.weight", "image_proj.perceiver_resampler.proj_in.weight")


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> IPSpec | None:
    """The adapter of the published names and shapes; None where they are not an IP-adapter's.

    Raises SpecError, in one line, for one that sees what a face recogniser says (FaceID), which has no counterpart here.
    """
    numbers = sorted(
        int(name.split(".")[1]) for name in shapes if name.startswith("ip_adapter.") and name.endswith("to_k_ip.weight")
    )
    if not numbers or not any(name.startswith("image_proj.") for name in shapes):
        return None
    found = [shapes[f"ip_adapter.{n}.to_k_ip.weight"] for n in numbers]
    context = found[0][1]
    return IPSpec(context=context, picture=_picture(shapes, context), widths=tuple(rows for rows, _ in found))


def _picture(shapes: Mapping[str, tuple[int, ...]], context: int) -> PictureTokens:
    if "image_proj.proj.weight" in shapes:
        rows, seen = shapes["image_proj.proj.weight"]
        return FromEmbedding(seen=seen, tokens=rows // context)
    if "image_proj.proj.3.weight" in shapes:
        return FromPatches(seen=shapes["image_proj.proj.0.weight"][0])
    if "image_proj.latents" in shapes:
        _, tokens, width = shapes["image_proj.latents"]
        inner = shapes["image_proj.layers.0.0.to_q.weight"][0]
        if inner % _HEAD:
            raise SpecError(f"'image_proj.layers.0.0.to_q.weight' has {inner} rows, which heads of {_HEAD} do not make")
        depth = len({name.split(".")[2] for name in shapes if name.startswith("image_proj.layers.")})
        mlp = shapes["image_proj.layers.0.1.1.weight"][0] // width
        seen = shapes["image_proj.proj_in.weight"][1]
        return FromQueries(seen=seen, tokens=tokens, width=width, depth=depth, heads=inner // _HEAD, head_width=_HEAD, mlp=mlp)
    if any(name in shapes for name in _FACES):
        raise SpecError("this IP-adapter sees what a face recogniser says of a picture (FaceID): it has no counterpart here")
    raise SpecError("this IP-adapter makes tokens of a picture in a way that has no counterpart here")


def keys(spec: IPSpec) -> list[Key]:
    """The adapter's tensors by the published names; the cross-attentions have odd numbers, the even ones look at the picture itself."""
    found = list(beneath(_tokens(spec.picture), "picture.", "image_proj."))
    for i in range(len(spec.widths)):
        found.append(key(f"kv.{i}.weight", [f"ip_adapter.{2 * i + 1}.to_{x}_ip.weight" for x in "kv"]))
    return found


def _tokens(picture: PictureTokens) -> Iterator[Key]:
    if isinstance(picture, FromEmbedding):
        yield from layer("proj", "proj")
        yield from layer("norm", "norm")
    elif isinstance(picture, FromPatches):
        for ours, theirs in (("up", "proj.0"), ("down", "proj.2"), ("norm", "proj.3")):
            yield from layer(ours, theirs)
    elif isinstance(picture, FromQueries):
        if picture.head_width != _HEAD:
            raise SpecError(f"the published layout of IP-adapters has heads of {_HEAD}, not of {picture.head_width}")
        yield key("latents", "latents", shape=(-1, picture.tokens, picture.width))
        for ours, theirs in (("proj_in", "proj_in"), ("proj_out", "proj_out"), ("norm", "norm_out")):
            yield from layer(ours, theirs)
        for i in range(picture.depth):
            here, there = f"blocks.{i}", f"layers.{i}"
            for ours, theirs in (("norm1", "0.norm1"), ("norm2", "0.norm2"), ("norm3", "1.0")):
                yield from layer(f"{here}.{ours}", f"{there}.{theirs}")
            for ours, theirs in (("q", "0.to_q"), ("kv", "0.to_kv"), ("out", "0.to_out"), ("up", "1.1"), ("down", "1.3")):
                yield from layer(f"{here}.{ours}", f"{there}.{theirs}", bias=False)
    else:
        raise SpecError(f"'{picture.kind}' has no counterpart in the published layout of IP-adapters")
