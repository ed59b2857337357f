"""What the verbs that make pictures share: their options, the request that these describe, the run under a bar, and the files."""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safelight.spec import SpecError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from safelight.adapt.lora import LoraUse
    from safelight.assets import Assets
    from safelight.generate import Started, Stepped
    from safelight.model import Model
    from safelight.picture import Note
    from safelight.process import Level
    from safelight.task import Aside, Resolved

# The model that is meant when none is named.
MODEL = "default"
# So many pictures fit a film that one wants to look at, and so many moments a table of steps.
_IN_A_FILM = 12
_MOMENTS = 8
# So many hints one reads.
_HINTS = 8
_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
_NO_WRITER = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")


def options(
    parser: argparse.ArgumentParser, *, model: bool = True, variation: bool = True, film: str = "the denoising as a film"
) -> None:
    """The options of every verb that makes pictures. model: `--model`, for verbs that do not take it by position. variation: those of
    a variation, for verbs that have none of their own.
    """
    asked = parser.add_argument_group("what")
    if model:
        asked.add_argument(
            "--model", default=MODEL, metavar="NAME", help=f"a model file, a run's folder, or a name that ships ({MODEL})"
        )
    asked.add_argument(
        "--negative-prompt", "--negative", metavar="TEXT", help="what guidance leads away from, instead of nothing"
    )
    asked.add_argument("--emphasis", metavar="MODE", help="how brackets weigh words: a1111 (default), comfy, compel, none")
    asked.add_argument("--no-hints", action="store_true", help="do not say what the prompt could be helped by")
    asked.add_argument("--count", type=int, metavar="N", help="pictures for each prompt")
    asked.add_argument("--seed", type=int, metavar="N", help="picture k of a seed is always the same picture (0)")
    asked.add_argument("--index", type=int, metavar="K", help="begin with picture K of the seed (0)")
    asked.add_argument("--size", metavar="HxW", help="in pixels, if not the size the model was trained on")
    how = parser.add_argument_group("how (what is not given is the model's default)")
    how.add_argument("--steps", "--num-inference-steps", type=int, metavar="N", help="steps of the sampler")
    how.add_argument("--sampler", metavar="KIND|FILE", help="see: safelight list sampler; or a file of safelight tune-sampler")
    how.add_argument("--grid", metavar="KIND", help="where the steps lie; see: safelight list grid")
    how.add_argument("--guidance", "--guidance-scale", type=float, metavar="X", help="classifier-free guidance; 1 is none")
    how.add_argument("--temperature", type=float, metavar="X", help="every draw of noise times this; 1 is the model's own (1)")
    how.add_argument(
        "--churn",
        type=float,
        metavar="X",
        help="fresh noise before each step of a one-step sampler; more by --set churn.s_min=...",
    )
    if variation:
        how.add_argument(
            "--variation-seed", "--subseed", type=int, metavar="N", help="go towards the noise of this seed (--seed + 1)"
        )
        how.add_argument(
            "--variation-strength",
            "--subseed-strength",
            type=float,
            metavar="X",
            help="how far: 0 stays, 1 is that seed's (0.1)",
        )
    how.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:W[:T]]",
        help="wear an adapter of any flavour with weight W (1), in the text encoder T; several add up",
    )
    how.add_argument(
        "--embedding",
        action="append",
        default=[],
        metavar="FILE[:WORD]",
        help="know a learned word (textual inversion), in prompts by its own name or WORD",
    )
    how.add_argument(
        "--allow-partial", action="store_true", help="of an adapter take what fits the model, and say what does not"
    )
    how.add_argument(
        "--control",
        action="append",
        default=[],
        metavar="FILE=PICTURE[:W[:FROM:TO]]",
        help="steer by a picture through a ControlNet, T2I- or IP-adapter, with weight W (1), in a part of the steps (0:1)",
    )
    how.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="any field: sampler.eta=1, mix.rescale=0.7"
    )
    how.add_argument("--config", metavar="FILE", help="a request kept by --save-config; flags and --set go over it")
    how.add_argument("--weights", metavar="NAME", help="raw, or the name of an average (ema)")
    how.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, ...; see: safelight doctor")
    placed(how)
    how.add_argument("--micro-batch", type=int, metavar="N", help="pictures made at a time, where memory is short")
    out = parser.add_argument_group("where to")
    out.add_argument("--out", metavar="PATH", help="folder of the pictures (out/VERB), or the one picture's file")
    out.add_argument("--format", choices=("png", "webp", "jpg"), help="of the pictures (png)")
    out.add_argument("--film", "--gif", nargs="?", const="", metavar="FILE", help=f"{film}: .gif, .webp, .apng, .mp4 or .webm")
    out.add_argument("--show-steps", action="store_true", help="also steps.png: x_t and the guess of x_0 along the way")
    out.add_argument(
        "--trace",
        nargs="?",
        const="",
        metavar="FILE",
        help="the whole recording as one .safetensors, to scrub, fork and compare",
    )
    out.add_argument("--save-config", metavar="FILE", help="the request with all defaults filled in, as YAML")
    out.add_argument("--no-metadata", action="store_true", help="nothing in the files but the pictures")


def partners(parser: argparse.ArgumentParser) -> None:
    """The options of a second model and of a map of depth, for the verbs whose task can have them around it."""
    with_ = parser.add_argument_group("together with")
    with_.add_argument("--refiner", metavar="NAME", help="another model of the same latents, which makes the last steps")
    with_.add_argument(
        "--switch", type=float, metavar="X", help="the noise level, 0 to 1, from which they are the refiner's (0.2)"
    )
    with_.add_argument("--depth", metavar="FILE", help="how far away things are, for models that are told it: white is near")
    with_.add_argument("--near-black", action="store_true", help="in --depth black is near")


def partnered(args: argparse.Namespace, task: Mapping[str, Any], assets: Assets) -> dict[str, Any]:
    """A task's fields with what --depth and --refiner put around it, the picture being put at hand."""
    if args.near_black and not args.depth:
        raise SpecError("--near-black says how --depth is read: give one")
    if args.switch is not None and not args.refiner:
        raise SpecError("--switch says where --refiner takes over: give one")
    found = dict(task)
    for pixels, _ in depths(args):
        found = {"kind": "depth", "depth": assets.add(pixels), "invert": args.near_black, "of": found}
    if args.refiner:
        found = {"kind": "refine", "refiner": args.refiner, "of": found}
        found |= {} if args.switch is None else {"switch": args.switch}
    return found


def depths(args: argparse.Namespace) -> list[tuple[Tensor, Note | None]]:
    """The picture of --depth, with its note."""
    from safelight import picture

    return [picture.read(args.depth)] if args.depth else []


def placed(group: argparse._ActionsContainer) -> None:
    """`--memory` and `--dtype`, of every verb that works with a model's pictures."""
    group.add_argument(
        "--memory",
        choices=("auto", "full", "low"),
        default="auto",
        help="low: text encoder and codec leave memory while others work, pictures are decoded one by one; auto: where it would not fit",
    )
    group.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the weights (%(default)s)")


def opened(args: argparse.Namespace, source: str | None = None) -> Model:
    """The model of --model, in the precision of --dtype on --device, laid out as --memory says. source: another than --model.

    What is not honoured is said on stderr.
    """
    from safelight import device as devices
    from safelight.engine.place import place
    from safelight.engine.plan import roomy
    from safelight.model import load, peek

    device = devices.pick(args.device)
    precision = devices.precision(args.dtype, device)
    if precision.note:
        print(f"hint     {precision.note}", file=sys.stderr)
    name, memory = source or args.model, args.memory
    if memory == "auto":
        asked = {"count": getattr(args, "micro_batch", None) or getattr(args, "count", None) or 1}
        asked["size"] = size(getattr(args, "size", None))
        memory = "full" if roomy(peek(name), asked, device=device, dtype=precision.dtype, weights=args.weights) else "low"
        if memory == "low":
            print("hint     memory is short: --memory low is used", file=sys.stderr)
    model = load(name, args.weights, device="cpu" if memory == "low" else device, dtype=precision.dtype)
    place(model, memory, device=device)
    return model


def resolve(
    args: argparse.Namespace,
    model: Model,
    given: Mapping[str, Any],
    assets: Assets | None = None,
    *,
    plain: Mapping[str, Any] | None = None,
) -> Resolved:
    """The request that a config file, the verb, the flags and --set describe, with the model's defaults filled in.

    A later one goes over an earlier: the file's fields (without a file `plain`), what the verb was given, the flags, --set.
    """
    from safelight.cli.fitted import fitted, is_file
    from safelight.cli.overrides import assign, read
    from safelight.guide.cfg import scaled
    from safelight.spec import describe, parse
    from safelight.task import Request

    asked_for: dict[str, Any] = {**(read(args.config) if getattr(args, "config", None) else plain or {}), **given}
    names = ("negative_prompt", "emphasis", "count", "seed", "index", "steps", "sampler", "grid", "temperature", "micro_batch")
    flags = {name.removesuffix("_prompt"): getattr(args, name, None) for name in names} | {
        "size": size(getattr(args, "size", None))
    }
    if isinstance(flags["sampler"], str) and is_file(flags["sampler"]):
        asked_for |= fitted(str(flags.pop("sampler")), model)
    asked_for |= {name: value for name, value in flags.items() if value is not None}
    named = tags(asked_for)
    if worn := loras(args, model, assets, named or asked_for.get("loras") or ()):
        asked_for["loras"] = worn
    if known := learned(args, assets):
        asked_for["words"] = known
    if steered := controls(args, assets):
        asked_for["controls"] = steered
    asked_for |= _noised(args, asked_for)
    asked = parse(asked_for, "request")
    assert isinstance(asked, Request)
    # Whether churn and variation go with the rest is for the end to say: --set may change the rest.
    apart = {name: value for name, value in describe(asked).items() if name in ("churn", "variation")}
    full = describe(asked.model_copy(update=dict.fromkeys(apart)).resolve(model, assets), family=False) | apart
    if args.guidance is not None:
        full["mix"] = scaled(full["mix"], args.guidance)
    changed = assign(full, args.set)
    if args.guidance is not None and changed["mix"] != full["mix"]:
        changed["mix"] = _guided(changed["mix"], args.guidance)
    said = {setting.partition("=")[0].strip().partition(".")[0] for setting in args.set}
    for name in ("size", "sampler"):  # what the task alone knew: --set may have changed the task
        if getattr(asked, name) is None and name not in said and changed[name] == full[name]:
            changed[name] = None
    asked = parse(changed, "request")
    assert isinstance(asked, Request)
    return asked.resolve(model, assets)


def adapter(given: str, assets: Assets) -> tuple[str, LoraUse, bool]:
    """What `FILE[:W[:T]]` says: the file, which is put at hand, how it is worn, and whether W is said.

    Raises SpecError for a file that is missing, and for weights that are none.
    """
    from safelight.adapt.lora import LoraUse

    match = re.fullmatch(r"(.+?)(?::([-+]?[\d.]+))?(?::([-+]?[\d.]+))?", given)
    assert match is not None
    file, weight, text = match.groups()
    use = assets.bring_lora(file)
    try:
        return (
            file,
            LoraUse(name=use.name, hash=use.hash, weight=float(weight or 1), text=float(text) if text else None),
            bool(weight),
        )
    except ValueError:
        raise SpecError(f"{given}: a weight is a number from -10 to 10, as in {file}:0.8") from None


def loras(
    args: argparse.Namespace, model: Model, assets: Assets | None, asked: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What --lora asks for, its files being put at hand. asked: the request's own, which say the weight where the flag says none.

    Raises SpecError for a file that is missing, or does not fit the model.
    """
    from safelight.interop.lora import load

    found = list[dict[str, Any]]()
    for given in getattr(args, "lora", []):
        assert assets is not None
        file, use, weighted = adapter(given, assets)
        before = next((one for one in asked if one["name"] == use.name and not weighted), {})
        told = {**use.model_dump(), **before}
        if args.allow_partial:
            told["partial"] = True
            for name in load(file, model, partial=True)[1].problems:
                print(f"left out {name}", file=sys.stderr)
        found.append(told if told["hash"] else {**told, "hash": use.hash})
    brought = {one["name"] for one in found}
    found += [dict(one) for one in asked if one["name"] not in brought]
    return found


class Steered(NamedTuple):
    """One --control: the control's file, the picture's, and what is said of them, as fields of a `Control`."""

    file: str
    picture: str
    said: dict[str, float]


def steering(args: argparse.Namespace) -> list[Steered]:
    """What --control says. Raises SpecError for what is not FILE=PICTURE, with or without numbers behind it."""
    found = list[Steered]()
    for given in getattr(args, "control", []):
        match = re.fullmatch(r"(.+?)=(.+?)(?::([-+]?\d*\.?\d+)(?::(\d*\.?\d+):(\d*\.?\d+))?)?", given)
        if match is None:
            raise SpecError(f"--control {given}: say FILE=PICTURE, as in canny.safetensors=edges.png:0.8")
        file, picture, *numbers = match.groups()
        names = ("weight", "start", "end")
        found.append(Steered(file, picture, {n: float(v) for n, v in zip(names, numbers, strict=True) if v is not None}))
    return found


def shown(args: argparse.Namespace) -> list[tuple[Tensor, Note | None]]:
    """The pictures of --control, with their notes."""
    from safelight import picture

    return [picture.read(one.picture) for one in steering(args)]


def controls(args: argparse.Namespace, assets: Assets | None) -> list[dict[str, Any]]:
    """What --control asks for, its files and pictures being put at hand. Raises SpecError for one that is missing."""
    from safelight import picture

    found = list[dict[str, Any]]()
    for one in steering(args):
        assert assets is not None
        name, seal = assets.bring_control(one.file), assets.add(picture.read(one.picture)[0])
        found.append({"name": name, "picture": seal, **one.said})
    return found


def at_hand(args: argparse.Namespace) -> set[str]:
    """The names of the adapters and learned words that flags bring, by which a picture's text calls them."""
    files = [re.sub(r"(:[-+]?[\d.]+){1,2}$", "", given) for given in args.lora]
    files += [re.sub(r"(\.safetensors):.*$", r"\1", given) for given in args.embedding]
    return {Path(file).name if Path(file).is_dir() else Path(file).stem for file in files}


def tags(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The adapters that A1111's prompts name, as `<lora:name:0.8>`, which are taken out of `asked`.

    Raises SpecError where its prompts name different ones: a run wears one stack.
    """
    from safelight.adapt.lora import tagged

    prompts = asked.get("prompt", [])
    if asked.get("emphasis", "a1111") != "a1111" or not prompts:
        return []
    read = [tagged(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    if any(uses != read[0][1] for _, uses in read):
        raise SpecError(
            "prompt: its prompts name different adapters, and a run wears the same for all: make them one after the other"
        )
    asked["prompt"] = [prompt for prompt, _ in read]
    return [use.model_dump() for use in read[0][1]]


def learned(args: argparse.Namespace, assets: Assets | None) -> list[dict[str, Any]]:
    """What --embedding asks for, its files being put at hand. A word that no prompt uses is told, on stderr."""
    found = list[dict[str, Any]]()
    for given in getattr(args, "embedding", []):
        match = re.fullmatch(r"(.+?\.safetensors)(?::(.+))?", given)
        if match is None:
            raise SpecError(
                f"--embedding {given}: a learned word is a .safetensors file; of a pickle safelight convert makes one"
            )
        assert assets is not None
        use = assets.bring_word(*match.groups())
        words = [one.word for one in assets.words(use)]
        said = [*(getattr(args, "prompt", None) or ()), getattr(args, "negative_prompt", None) or ""]
        if isinstance(getattr(args, "prompt", None), list) and not any(word in text for word in words for text in said):
            print(f"hint     --embedding {given}: no prompt says {' or '.join(map(repr, words))}", file=sys.stderr)
        found.append(use.model_dump())
    return found


def _noised(args: argparse.Namespace, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of --churn and the variation's flags, over those there are."""
    found: dict[str, Any] = {}
    if (amount := getattr(args, "churn", None)) is not None:
        found["churn"] = {**(asked.get("churn") or {}), "amount": amount}
    seed, strength = getattr(args, "variation_seed", None), getattr(args, "variation_strength", None)
    if hasattr(args, "variation_strength") and (seed, strength) != (None, None):
        before = {"seed": asked.get("seed", 0) + 1, **(asked.get("variation") or {})}
        given = {"seed": seed, "strength": strength}
        found["variation"] = before | {name: value for name, value in given.items() if value is not None}
    return found


def kept(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that --config holds, their parts described in full; {} without one. Raises SpecError for what is no request."""
    from safelight.cli.overrides import read
    from safelight.spec import describe, parse

    if not args.config:
        return {}
    found = read(args.config)
    full = describe(parse(found, "request"), family=False)
    return {name: value for name, value in full.items() if name in found and name != "kind"}


def _guided(mix: Any, scale: float) -> Any:
    """A mix that --set put in the place of another, at the strength of --guidance unless --set says one too."""
    from safelight.spec import kinds

    given = {"kind": mix} if isinstance(mix, str) else mix
    if not isinstance(given, dict) or "scale" in given or given.get("kind") not in kinds("mix"):
        return mix
    if "scale" in kinds("mix")[given["kind"]].model_fields:
        return {**given, "scale": scale}
    if scale != 1:
        raise SpecError(f"--guidance {scale:g}: the mix of --set, '{given['kind']}', has no strength; leave one of them out")
    return mix


class Brought:
    """The pictures that come by --input for what a request names, in every way the commands read one."""

    def __init__(self, files: Sequence[str], assets: Assets) -> None:
        from safelight import picture, reproduce

        self.files = files
        self.parents = [picture.read(file) for file in files]
        self.seals = [{assets.add(pixels) for pixels in reproduce.looks(Path(file))} for file in files]

    def of(self, *requests: Resolved) -> list[tuple[Tensor, Note | None]]:
        """Those that requests are made from, with their notes. A file that is for none of them is told, on stderr."""
        from safelight.assets import seal

        wanted = {name for request in requests for name in request.inputs}
        for file, seals in zip(self.files, self.seals, strict=True):
            if not wanted & seals:
                print(f"hint     --input {file}: nothing that is asked for is made from it", file=sys.stderr)
        return [parent for parent in self.parents if seal(parent[0]) in wanted]


class Made(NamedTuple):
    """What a run left: the pictures, uint8 (C, H, W) each, their files, and lines for the person who asked."""

    pictures: list[Tensor]
    files: list[Path]
    lines: list[str]


def make(
    args: argparse.Namespace,
    model: Model,
    request: Resolved,
    assets: Assets | None = None,
    *,
    parents: Sequence[tuple[Tensor, Note | None]] = (),
    sources: Sequence[str] = (),
    beside: Sequence[Path] = (),
    verb: str = "generate",
) -> Made:
    """Make the pictures of a request under a bar, write them with all that was asked for, and print where everything is.

    parents: the pictures it is made from with their notes, as `picture.read` gives them: the lineage of the new ones. sources: the
    files read, none of which is written over. beside: what the verb itself will write.
    """
    import torch

    from safelight import device as devices
    from safelight.assets import Assets
    from safelight.generate import Finished, Prepared, Started, Stepped, generate

    assets = assets or Assets(device=model.device)
    parents, sources = [*parents, *shown(args)], [*sources, *(one.picture for one in steering(args))]
    out = Where(args, verb, request.total)
    prompts = request.pictures
    files = [out.picture(request.index + k, prompt) for k, prompt in enumerate(prompts)]
    out.spare([*files, *([out.folder / "pictures.png"] if len(files) > 1 else []), *beside], sources)
    hint(args, model, request)
    watched = chosen(prompts, request) if out.film or args.show_steps else []
    watch = Watch(model, watched, request.index)
    records = Records() if out.trace else None
    pictures: list[Any] = []
    ran = 0
    began = time.perf_counter()
    with bar(request) as progress:
        for event in generate(model, request, assets=assets):
            if isinstance(event, Prepared):
                progress.prepared(event.aside)
                continue
            if records:
                records.see(event)
            if isinstance(event, Started):
                progress.began(event)
                watch.part(event.numbers)
                ran += len(event.levels) - 1 if event.part == 0 else 0
            elif isinstance(event, Stepped):
                watch.see(event)
                progress()
            elif isinstance(event, Finished):
                pictures.append(event.pictures.cpu())
    seconds = time.perf_counter() - began

    lines = []
    # A sheet shows what the files hold.
    finished = torch.cat(pictures)
    made, files = write(out, finished, request, model, parents, metadata=not args.no_metadata)
    how = f"{steps(ran, request.steps)} of {request.sampler.kind}, {request.mix.kind}"
    height, width = finished.shape[-2:]
    many = "1 picture" if len(prompts) == 1 else f"{len(prompts)} pictures"
    lines.append(f"{many} of {height}x{width} in {seconds:.1f} s ({how}) on {devices.title(model.device)}")
    lines.append(f"picture  {out.sheet(finished, request) or files[0]}")
    nothing = "none: no step was taken"
    if args.show_steps:
        lines.append(f"steps    {watch.table(out.table, prompts) if ran else nothing}")
    if out.film:
        lines.append(f"film     {watch.film(out.film, prompts) if ran else nothing}")
    if records and out.trace:
        lines += [f"trace    {path}" for path in records.save(out.trace)] or [f"trace    {nothing}"]
    if args.save_config:
        keep(args.save_config, request)
        lines.append(f"config   {args.save_config}")
    print("\n".join(lines))
    return Made(made, files, lines)


def steps(ran: int, asked: int) -> str:
    """`1 step`, `20 steps`, `6 of 20 steps`, `no steps`."""
    many = "no" if not ran else str(ran) if ran >= asked else f"{ran} of {asked}"
    return f"{many} step{'' if many == '1' else 's'}"


def hint(args: argparse.Namespace, model: Model, *requests: Resolved) -> None:
    """Say, on stderr, what the prompts of some requests could be helped by; see `safelight prompt check`."""
    from safelight.prompt.lint import hints, vocabulary_of
    from safelight.task.interpolate import Interpolate
    from safelight.text.label import LabelSpec

    if args.no_hints or isinstance(getattr(model.text, "spec", None), LabelSpec):  # a class is a name, and no caption
        return
    known = vocabulary_of(model)
    said: dict[tuple[str, str, str], None] = {}
    for request in requests:
        ends = request.task.ends if isinstance(request.task, Interpolate) else ()
        own = [(_or(end.prompt, request.prompt[0]), _or(end.negative, request.negative)) for end in ends]
        said |= dict.fromkeys((*w, request.emphasis) for w in own or [(p, request.negative) for p in request.prompt])
    lines = [
        line for prompt, negative, emphasis in said for line in hints(prompt, negative, vocabulary=known, emphasis=emphasis)
    ]
    lines = list(dict.fromkeys(lines))
    for line in lines[:_HINTS]:
        print(f"hint     {line}", file=sys.stderr)
    if len(lines) > _HINTS:
        print(f"hint     and {len(lines) - _HINTS} more: safelight prompt check says all", file=sys.stderr)


def _or(text: str | None, usual: str) -> str:
    return usual if text is None else text


class Where:
    """Where the files of a run go, checked before the work and not after it."""

    def __init__(self, args: argparse.Namespace, verb: str, count: int) -> None:
        from safelight.draw.film import SUFFIXES

        given = Path(args.out) if args.out else Path("out") / verb
        self.one: Path | None = None
        self.number: int | None = None
        if given.suffix.lower() in _SUFFIXES:
            if count > 1:
                raise SpecError(f"--out {given}: that is one file, and {count} pictures are asked for; name a folder")
            if args.format and f".{args.format}" != given.suffix.lower().replace("jpeg", "jpg"):
                raise SpecError(f"--format {args.format}: --out {given} names a file of another format; leave one of them out")
            self.one, given = given, given.parent
        elif given.suffix.lower() in _NO_WRITER:
            raise SpecError(f"--out {given}: '{given.suffix}' is no picture format here (png, webp, jpg)")
        self.folder, self.format = given, args.format or "png"
        stem = f"{self.one.stem}-" if self.one else ""
        self.table = given / f"{stem}steps.png"
        self.film = None if args.film is None else Path(args.film) if args.film else given / f"{stem}steps.gif"
        self.trace = None if args.trace is None else Path(args.trace) if args.trace else given / f"{stem}trace.safetensors"
        if self.film and self.film.suffix.lower() not in SUFFIXES:
            raise SpecError(f"--film {self.film}: '{self.film.suffix}' is no film format here ({', '.join(SUFFIXES)})")
        kept = Path(args.save_config) if args.save_config else None
        table = self.table if args.show_steps else None
        self.further = {"--film": self.film, "--show-steps": table, "--trace": self.trace, "--save-config": kept}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.further.values():
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)

    def spare(self, pictures: Sequence[Path], sources: Sequence[str] = ()) -> None:
        """Raise SpecError where one of `pictures`, or of the further files of the run, would be written over one of `sources`,
        over another of its own, or where a folder is."""
        places = [("--out", path) for path in pictures] + [(flag, path) for flag, path in self.further.items() if path]
        read, taken = {Path(source).resolve() for source in sources}, set[Path]()
        for flag, path in places:
            here = path.resolve()
            if path.is_dir():
                raise SpecError(f"{flag} {path}: that is a folder; name a file")
            if here in read:
                raise SpecError(
                    f"{path} is what the picture is made from and would be written over: name another place by {flag}"
                )
            if here in taken:
                raise SpecError(f"{flag} {path}: another file of this run goes there; name another place")
            taken.add(here)

    def at(self, k: int) -> Where:
        """The same places, for a run whose only picture is number k of many."""
        other = copy.copy(self)
        other.number = k
        other.table = self.table.with_stem(f"{self.table.stem}-{k:04d}")
        other.trace = self.trace and self.trace.with_stem(f"{self.trace.stem}-{k:04d}")
        return other

    def picture(self, k: int, prompt: str) -> Path:
        """The file of picture k of a run."""
        k = k if self.number is None else self.number
        if self.one:
            return self.one
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40]
        return self.folder / "pictures" / f"{k:04d}{'-' if slug else ''}{slug}.{self.format}"

    def sheet(self, pictures: Tensor, request: Resolved) -> Path | None:
        """All pictures on one labelled sheet; None for a single one, which needs none."""
        from safelight.draw.grid import save, sheet

        if len(pictures) == 1:
            return None
        several = len(request.prompt) > 1
        page = sheet(
            pictures,
            columns=request.count if several and request.count > 1 else None,
            rows=request.prompt if several and request.count > 1 and any(request.prompt) else (),
            title="" if several else request.prompt[0],
        )
        return save(self.folder / "pictures.png", page)


def write(
    out: Where,
    finished: Tensor,
    request: Resolved,
    model: Model,
    parents: Sequence[tuple[Tensor, Note | None]],
    *,
    metadata: bool,
) -> tuple[list[Tensor], list[Path]]:
    """Every picture as a file of its own size, with its note unless that is not wanted."""
    import torch

    from safelight import picture
    from safelight.draw.pixels import to_bytes

    pixels = [torch.from_numpy(p).permute(2, 0, 1) if p.ndim == 3 else torch.from_numpy(p)[None] for p in to_bytes(finished)]
    notes = picture.notes(model, request, pixels, parents=parents) if metadata else [None] * len(pixels)
    files = [
        picture.write(out.picture(request.index + k, prompt), pixel, note)
        for k, (pixel, note, prompt) in enumerate(zip(pixels, notes, request.pictures, strict=True))
    ]
    return pixels, files


def size(text: str | None) -> list[int] | None:
    """`32x48` or `32` as [height, width]."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x×,](\d+))?", text)
    if match is None:
        raise SpecError(f"--size {text}: write HEIGHTxWIDTH in pixels, as in 28x28")
    return [int(match[1]), int(match[2] or match[1])]


def keep(path: str, request: Resolved) -> None:
    """Write the request as YAML, for --config."""
    from safelight.cli.overrides import write as write_yaml
    from safelight.spec import describe

    content = {k: v for k, v in describe(request, family=False).items() if k != "kind"}
    write_yaml(path, content, "a request of safelight; use it with --config")


def chosen(prompts: Sequence[str], request: Resolved) -> list[int]:
    """The pictures that film and table show: of one prompt the first few, of several the first of each."""
    firsts = list(range(len(prompts))) if len(request.prompt) == 1 else list(range(0, len(prompts), request.count))
    return firsts[:_IN_A_FILM]


class Records:
    """A recorder a stage: most runs have one."""

    def __init__(self) -> None:
        self.stages: list[Any] = []

    def see(self, event: Any) -> None:
        """Take in an event of `generate`; what is finished belongs to the last stage."""
        from safelight.generate import Finished
        from safelight.trace import Recorder

        stage = len(self.stages) - 1 if isinstance(event, Finished) else event.stage
        while stage >= len(self.stages):
            self.stages.append(Recorder(branches=True))
        if self.stages:
            self.stages[stage].see(event._replace(stage=0) if not isinstance(event, Finished) else event)

    def save(self, path: Path) -> list[Path]:
        """One file a stage: `trace.safetensors`, `trace-2.safetensors`, ... Nothing for a run that took no step."""
        paths = [path if k == 0 else path.with_stem(f"{path.stem}-{k + 1}") for k in range(len(self.stages))]
        for recorder, target in zip(self.stages, paths, strict=True):
            recorder.save(target)
        return paths


class bar:
    """A progress bar with the time left, on stderr and only where a person watches; `with bar(request) as advance`."""

    def __init__(self, request: Resolved) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.parts = -(-request.total // (request.micro_batch or request.total))
        self.total = self.parts * request.steps
        self.task = self.progress.add_task("denoising", total=self.total)
        self.before: Any = None

    def __enter__(self) -> Any:
        self.progress.start()
        return self

    def __call__(self) -> None:
        """A step is done."""
        self.progress.advance(self.task)

    def began(self, event: Started) -> None:
        """A stage begins, and says how many steps it has: a task may take fewer than were asked for, or have several stages."""
        if event.part == 0:
            steps = self.parts * (len(event.levels) - 1)
            self.total = steps if event.stage == 0 else self.total + steps
            self.progress.update(self.task, total=self.total)

    def prepared(self, aside: Aside) -> None:
        """Show how far a task is with what it does before the denoising."""
        if self.before is None:
            self.before = self.progress.add_task("inverting", total=aside.n)
        self.progress.update(self.before, completed=aside.i + 1)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


class Shot(NamedTuple):
    """The watched pictures at one step, decoded; what `draw.film.frames` reads."""

    i: int
    n: int
    before: Tensor
    now: Level
    x: Tensor
    level: Level
    estimate: Guess


class Guess(NamedTuple):
    """The clean pictures as the model sees them."""

    x0: Tensor


class Watch:
    """Keeps the few pictures that are to be shown, step by step, over all parts of a run."""

    def __init__(self, model: Model, pictures: Sequence[int], first: int) -> None:
        self.model, self.pictures, self.first = model, list(pictures), first
        self.rows: list[int] = []
        self.shots: dict[tuple[int, int], list[Shot]] = {}
        # A codec's decoder wants latents at the data's scale; pixels may be scaled when they are drawn.
        self.latent = model.codec.stride > 1

    def part(self, index: tuple[int, ...]) -> None:
        """A micro-batch begins: which of its rows are watched."""
        self.rows = [row for row, k in enumerate(index) if k - self.first in self.pictures]

    def see(self, event: Stepped) -> None:
        """Keep the watched rows of a step."""
        if self.rows:
            s = event.step
            now, level = self._scaled(s.now), self._scaled(s.level)
            before = self._decoded(s.before[self.rows], s.now)
            x = self._decoded(s.x[self.rows], s.level)
            x0 = self._decoded(s.estimate.x0[self.rows])
            self.shots.setdefault((event.stage, s.i), []).append(Shot(s.i, s.n, before, now, x, level, Guess(x0)))

    def _scaled(self, level: Level) -> Level:
        """The level with alpha^2 + sigma^2 = 1, as its latents are decoded."""
        import torch

        if not self.latent:
            return level
        size = torch.hypot(level.alpha, level.sigma)
        return level._replace(alpha=level.alpha / size, sigma=level.sigma / size)

    def _decoded(self, latents: Tensor, level: Level | None = None) -> Tensor:
        import torch

        with torch.inference_mode():
            x = latents.clone()
            if self.latent and level is not None:
                x = x / float(torch.hypot(level.alpha, level.sigma))
            return self.model.codec.decode(x).float().cpu()

    def steps(self) -> Iterator[Shot]:
        """Every step once, with the rows of all parts together."""
        import torch

        size = self.shots[max(self.shots)][0].x.shape[-2:] if self.shots else None
        for i in sorted(self.shots):
            parts = self.shots[i]
            before, x, x0 = (torch.cat(v) for v in zip(*((p.before, p.x, p.estimate.x0) for p in parts), strict=True))
            if x.shape[-2:] != size:  # an earlier stage, of another size: shown at the last one's
                before, x, x0 = (torch.nn.functional.interpolate(v, size, mode="nearest-exact") for v in (before, x, x0))
            yield parts[0]._replace(before=before, x=x, estimate=Guess(x0))

    def film(self, path: Path, prompts: Sequence[str]) -> Path:
        """Write the film; returns its path."""
        from safelight.draw.film import film, frames

        captions = [prompts[k] for k in self.pictures]
        return film(path, frames(self.steps()), captions=captions if any(captions) else ())

    def table(self, path: Path, prompts: Sequence[str]) -> Path:
        """Write the table of moments: for each picture a row of x_t and below it a row of the guesses."""
        from safelight.draw.grid import save

        return save(path, self._page(prompts))

    def _page(self, prompts: Sequence[str]) -> Image:
        import torch

        from safelight.draw.film import shown
        from safelight.draw.grid import sheet

        steps = list(self.steps())
        picks = sorted({round(k * (len(steps) - 1) / max(1, _MOMENTS - 1)) for k in range(_MOMENTS)}) if len(steps) > 1 else [0]
        cells, rows = [], []
        alone = len(self.pictures) == 1
        for row, k in enumerate(self.pictures):
            for name, of in (("x_t", _noisy), ("guess of x_0", _guess)):
                rows.append(name if alone or not prompts[k] or name != "x_t" else prompts[k])
                cells += [of(steps[i], row, shown) for i in picks]
        heads = [f"step {steps[i].i + 1} of {steps[i].n}" for i in picks]
        return sheet(torch.stack(cells), rows=rows, heads=heads, title=prompts[self.pictures[0]] if alone else "")


def _noisy(shot: Shot, row: int, shown: Any) -> Tensor:
    noisy: Tensor = shown(shot.before[row], float(shot.now.alpha), float(shot.now.sigma))
    return noisy


def _guess(shot: Shot, row: int, shown: Any) -> Tensor:
    return shot.estimate.x0[row]
