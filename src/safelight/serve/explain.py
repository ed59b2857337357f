"""A run explained with its own numbers, in five stops, and the functions that computed them as text.

words -> tokens -> vectors -> noise and its removal -> the loop of steps -> decoding. Everything is worked out from the trace and the
model's own code; nothing is made up for the occasion. docs/lenses.md describes every field.
"""

from __future__ import annotations

import base64
import inspect
import textwrap
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.codec.latent import Latent
from safelight.codec.pixels import Pixels
from safelight.denoise import Denoiser
from safelight.generate import generate
from safelight.guide.cfg import CFG
from safelight.guide.strength import strength
from safelight.model import Model
from safelight.nn.attention import CrossAttention, Heads, attend
from safelight.nn.clip import TextTower
from safelight.noise import Noise
from safelight.sample import trajectory
from safelight.serve.lenses import Lenses, webp
from safelight.spec import SpecError, describe, kinds, nearest
from safelight.task.text import Text
from safelight.text import tokens as vocabulary
from safelight.text.clip import CLIPText
from safelight.text.spans import room, tokens
from safelight.text.tokens import Tokenizer
from safelight.trace import Trace

# As many columns of a matrix of vectors are given.
COLUMNS = 64
_DIGITS = 4


def explain(trace: Trace, model: Model, picture: int = 0, seen: Lenses | None = None) -> dict[str, Any]:
    """The numbers of the five stops for one picture of a run: "tokens", "vectors", "noise", "loop" and "decode", ready for JSON.

    seen: the lenses of that picture, if somebody has them already. Raises SpecError as `Lenses` does.
    """
    seen = seen or Lenses(trace, model, picture)
    prompt = trace.request.pictures[seen.picture]
    return {
        "tokens": _tokens(model, prompt, trace.request.negative, trace.request.emphasis),
        "vectors": _vectors(model, prompt, trace.request.emphasis),
        "noise": _noise(seen),
        "loop": _loop(seen),
        "decode": _decode(seen),
    }


# ---- the five stops --------------------------------------------------------------------------------------------------------------


def _tokens(model: Model, prompt: str, negative: str, emphasis: str) -> dict[str, Any]:
    """Words to tokens: how each word was merged, its ids, and the places of all windows with what fills them.

    ranks: the number of the pair of each merge in the vocabulary's list.
    """
    encoder = model.text
    about: dict[str, Any] = {"prompt": prompt, "negative": negative, "emphasis": emphasis, "reads": "nothing", "limit": None}
    about |= {"length": None, "vocabulary": None, "windows": 0, "words": [], "places": [], "null": [], **_code("generate")}
    if encoder is None:
        return about
    laid, null = (tokens(encoder, text, emphasis, filled=True) for text in (prompt, negative))
    about |= {"reads": "labels", "windows": 1, "places": [t._asdict() for t in laid], "null": [t._asdict() for t in null]}
    if not isinstance(encoder, CLIPText):
        return about
    tokenizer = encoder.tokenizer
    rank = {pair: i for i, pair in enumerate(tokenizer.merges)}
    said = [piece.text for window in encoder.windows([prompt], emphasis)[0].windows for piece in window.pieces]
    for word in dict.fromkeys(word for text in said for word in vocabulary.words(vocabulary.clean(text))):
        merges = list(tokenizer.merging(word))
        ranks = [rank[_joined(*two)] for two in pairwise(merges)]
        about["words"].append({"text": word, "merges": merges, "ranks": ranks, "ids": tokenizer.encode(word)})
    return about | {
        "reads": "tokens",
        "limit": room(encoder),
        "length": encoder.spec.length,
        "vocabulary": tokenizer.size,
        "windows": 1 + max(token.window for token in laid),
        **_code("merging", "words", "spans", "tokenize"),
    }


def _joined(before: list[str], after: list[str]) -> tuple[str, str]:
    """The pair of symbols that a merge joined: the first two of `before` that `after` holds as one."""
    first = next(i for i, (was, now) in enumerate(zip(before, after, strict=False)) if was != now)
    return before[first], before[first + 1]


def _vectors(model: Model, prompt: str, emphasis: str) -> dict[str, Any]:
    """Tokens to vectors: what the table says of each token, and what the tower made of it having seen the others."""
    encoder = model.text
    empty: dict[str, Any] = {"tokens": [], "width": 0, "table": [], "encoded": [], "cosines_table": [], "cosines": []}
    empty |= {"norms_table": [], "norms": [], "vector": [], **_code("generate")}
    if encoder is None:
        return empty
    with torch.inference_mode():
        cond = encoder.read([prompt], emphasis)
    vector = [] if cond.vector is None else _rounded(cond.vector[0, :COLUMNS])
    if not isinstance(encoder, CLIPText) or cond.tokens is None:
        return empty | {"vector": vector}
    laid = tokens(encoder, prompt, emphasis, filled=True)
    rows = [i for i, token in enumerate(laid) if token.role != "pad"]
    tower = encoder.tower
    with torch.inference_mode():
        ids = torch.tensor([token.id for token in laid], device=tower.position.device)
        table = (tower.token(ids) + tower.position.repeat(len(ids) // len(tower.position), 1))[rows].float().cpu()
    encoded = cond.tokens[0, rows].float().cpu()
    return {
        "tokens": [laid[i].text for i in rows],
        "width": table.shape[1],
        "table": _rounded(table[:, :COLUMNS]),
        "encoded": _rounded(encoded[:, :COLUMNS]),
        "cosines_table": _rounded(_cosines(table)),
        "cosines": _rounded(_cosines(encoded)),
        "norms_table": _rounded(table.norm(dim=1)),
        "norms": _rounded(encoded.norm(dim=1)),
        "vector": vector,
        **_code("tower", "attend", "cross-attention"),
    }


def _noise(seen: Lenses) -> dict[str, Any]:
    """Noise to picture: the schedule, and the equations of every step with the values at the place that changed most over the run."""
    trace, spec, request = seen.trace, seen.model.spec, seen.trace.request
    mix = request.mix
    assert mix is not None  # a trace's request is resolved
    first, last = min(seen.moments), max(seen.moments)
    moved = (seen.x0(last) - seen.x0(first)).abs()
    place = tuple(int(i) for i in torch.unravel_index(moved.argmax(), moved.shape))
    steps = []
    for k, moment in seen.moments.items():
        level = seen.model.process.at(trace.levels[k].t)
        coeffs = spec.parameterization.coeffs(level, seen.model.process)
        x, x0 = seen.x(k), seen.x0(k)
        terms = {"x": x, "x0": x0, "eps": (x - moment.alpha * x0) / max(moment.sigma, 1e-12), **seen.parts(k)}
        steps.append(
            {
                "k": k,
                "t": moment.t,
                "alpha": moment.alpha,
                "sigma": moment.sigma,
                **{name: float(value) for name, value in coeffs._asdict().items()},
                "scale": strength(mix.scale, mix.interval, level) if isinstance(mix, CFG) else None,
                "terms": {name: {"at": float(v[place]), "rms": float(v.square().mean().sqrt())} for name, v in terms.items()},
            }
        )
    return {
        "process": describe(spec.process),
        "parameterization": describe(spec.parameterization),
        "guidance": describe(mix),
        "place": list(place),
        "formula": "x = alpha x0 + sigma eps",
        "formulas": {
            "network": "x0 = skip x + out F(inp x, noise)",
            "guided": "x0 = null + scale (cond - null)",
            "noise": "eps = (x - alpha x0) / sigma",
        },
        "dial": seen.dial,
        "steps": steps,
        **_code(f"mix/{mix.kind}", "denoise", f"parameterization/{spec.parameterization.kind}", f"process/{spec.process.kind}"),
    }


def _loop(seen: Lenses) -> dict[str, Any]:
    """The step loop: x_next = keep x + toward x0 + rest, the least rest of all that lead to the next level's alpha.

    In terms of the noise, x_next = alpha_next x0 + share eps + rest. The rest is 0 for first-order solvers without noise; for those
    that draw noise it is what they drew (`fresh`), for the others their correction of the path (`correction`); both as rms.
    """
    trace, sampler, solver = seen.trace, seen.trace.request.sampler, seen.trace.request.solver
    assert sampler is not None and solver is not None  # a trace's request is resolved
    steps = []
    for k, moment in seen.moments.items():
        alpha, sigma, _ = trace.levels[k + 1].floats
        x, x0, to, was = seen.x(k), seen.x0(k), seen.x(k + 1), max(moment.sigma, 1e-12)
        eps = (x - moment.alpha * x0) / was
        left = to - alpha * x0
        share = float((left * eps).sum() / eps.square().sum().clamp(min=1e-30))
        rest = float((left - share * eps).square().mean().sqrt())
        steps.append(
            {
                "k": k,
                "alpha": moment.alpha,
                "sigma": moment.sigma,
                "alpha_next": alpha,
                "sigma_next": sigma,
                "keep": share / was,
                "toward": alpha - share * moment.alpha / was,
                "share": share,
                "fresh": rest if solver.stochastic else 0.0,
                "correction": 0.0 if solver.stochastic else rest,
                "moved": float((to - x).square().mean().sqrt()),
                "x": float(x.square().mean().sqrt()),
                "x0": float(x0.square().mean().sqrt()),
            }
        )
    return {
        "sampler": sampler.kind,
        "settings": describe(sampler),
        "stochastic": solver.stochastic,
        "order": sampler.order,
        "calls": sampler.calls,
        "formula": f"x_next = keep x + toward x0 + {'fresh n' if solver.stochastic else 'correction'}",
        "steps": steps,
        **_code(f"sampler/{sampler.kind}", "loop", "random"),
    }


def _decode(seen: Lenses) -> dict[str, Any]:
    """Decoding: the end's latent channel by channel, a linear preview of it and how good that is, and what the decoder makes of it."""
    model = seen.model
    z = seen.x(max(seen.moments) + 1)
    decoded, linear = seen.painted(z)
    return {
        "codec": model.spec.codec.kind,
        "channels": len(z),
        "stride": model.codec.stride,
        "shape": list(z.shape),
        "size": list(decoded.shape[:2]),
        "ranges": [[float(c.min()), float(c.max())] for c in z],
        "means": [float(c.mean()) for c in z],
        "deviations": [float(c.std(correction=0)) for c in z],
        "values": _rounded(z.flatten()),
        "r2": seen.preview.r2,
        "exact": isinstance(model.codec, Pixels),
        "linear": {"weight": _rounded(seen.preview.weights), "bias": _rounded(seen.preview.offset)},
        "note": "the linear preview is an approximation, fitted by least squares on this run's own latents",
        "pictures": {"linear": data_url(webp(linear), "image/webp"), "decoded": data_url(webp(decoded), "image/webp")},
        **_code("decode" if isinstance(model.codec, Latent) else "preview", "preview"),
    }


def _code(name: str, *others: str) -> dict[str, Any]:
    """The names, for `source`, of the functions that did the work of a stop: the first, and all."""
    return {"source": name, "sources": list(dict.fromkeys((name, *others)))}


def _cosines(v: Tensor) -> Tensor:
    """(n, n) from (n, W)."""
    unit = F.normalize(v, dim=1)
    return unit @ unit.T


def _rounded(value: Tensor) -> Any:
    """Nested lists with four digits: for looking at, at a fifth of the room."""
    return (value.double().cpu() * 10**_DIGITS).round().div(10**_DIGITS).tolist()


def data_url(data: bytes, kind: str) -> str:
    """Bytes of a MIME type as a data: URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# ---- our own code ----------------------------------------------------------------------------------------------------------------


def _allowed() -> dict[str, Callable[..., Any] | type]:
    """Every function that may be shown, by name. What is not here cannot be asked for."""
    return {
        "words": vocabulary.words,
        "merging": Tokenizer.merging,
        "tokenize": Tokenizer.__call__,
        "spans": Tokenizer.spans,
        "tower": TextTower.forward,
        "attend": attend,
        "heads": Heads.forward,
        "cross-attention": CrossAttention,
        "start": Text,
        "random": Noise,
        "denoise": Denoiser.forward,
        "loop": trajectory,
        "generate": generate,
        "recompute": Lenses.recompute,
        "preview": Lenses.preview.func,  # type: ignore[attr-defined]
        "decode": Latent.decode,
        **{
            f"{family}/{kind}": found
            for family in ("process", "parameterization", "mix", "bend", "sampler")
            for kind, found in kinds(family).items()
        },
    }


def sources() -> dict[str, str]:
    """The names that `source` knows, each with the first line of what it says of itself."""
    return {name: (inspect.getdoc(found) or name).splitlines()[0] for name, found in _allowed().items()}


def source(name: str) -> str:
    """The text of one of our own functions or classes, by its name in `sources`. Raises SpecError for any other name."""
    allowed = _allowed()
    if name not in allowed:
        raise SpecError(f"no source '{name}'{nearest(name, allowed)} (there are {', '.join(allowed)})")
    return textwrap.dedent(inspect.getsource(allowed[name]))


__all__ = ["COLUMNS", "data_url", "explain", "source", "sources"]
