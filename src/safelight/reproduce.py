"""Making a picture again from what its file says, and saying how near it came.

A picture with our note is made again exactly: the same micro-batch of the same run, with the same number of threads. One with
nothing but a `parameters` text, ours or another tool's, is made as nearly as this model can.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safelight import model as files
from safelight import picture
from safelight.assets import Assets, seal
from safelight.data.decode import is_picture
from safelight.draw.pixels import to_bytes
from safelight.engine import place
from safelight.generate import Finished, Stepped, generate
from safelight.interop import infotext
from safelight.model import Model
from safelight.picture import Note
from safelight.spec import SpecError, parse
from safelight.task import Request, Resolved


class Difference(NamedTuple):
    """Between two pictures: the largest difference of a byte, its mean, and the share of pixels that differ at all."""

    largest: int
    mean: float
    share: float

    def __str__(self) -> str:
        return f"{100 * self.share:.3g} % of the pixels differ, by {self.largest} of 255 at most, {self.mean:.3g} on average"


def difference(a: Tensor, b: Tensor) -> Difference | None:
    """How two pictures, uint8 (C, H, W), differ; None for pictures of different shapes."""
    if a.shape != b.shape:
        return None
    apart = (a.int() - b.int()).abs()
    return Difference(int(apart.max()), float(apart.float().mean()), float((apart.amax(0) > 0).float().mean()))


def request_of(
    path: str | os.PathLike[str], model: Model, source: str | None = None, at_hand: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """(request, reports): what a file asks for as fields of a request to `model`, and a line for all that `model` cannot follow.

    path: a picture with our note (its request, for that picture alone where its run made several from words), a picture with a
    `parameters` text, or a .txt that holds one. source: the seal of the picture it was made from, which such a text does not name.
    at_hand: the names of adapters and learned words, without which such a text is followed as far as it goes.
    Raises SpecError when it carries neither.
    """
    file = Path(path)
    if file.suffix.lower() == ".txt":
        return infotext.to_request(infotext.parse(file.read_text(encoding="utf-8")), model, source, at_hand)
    note = picture.note(file)
    if note is None:
        return infotext.to_request(infotext.parse(parameters(file)), model, source, at_hand)
    return alone(note), [] if note.model.fingerprint == model.fingerprint else [another(note, model)]


def alone(note: Note) -> dict[str, Any]:
    """The request of a note's one picture. It comes out equal up to rounding, which another batch may round otherwise.

    Tasks other than from words may look at their neighbours in the run: of those it is the run's whole request.
    """
    asked = dict(note.request)
    if note.count == 1 or (asked.get("task") or {}).get("kind", "text") != "text":
        return asked
    return asked | {"prompt": [prompt_of(note)], "count": 1, "index": asked.get("index", 0) + note.index, "micro_batch": None}


def prompt_of(note: Note) -> str:
    """The prompt of a note's one picture. Raises SpecError when its run has no such picture."""
    prompts, count = note.request.get("prompt") or [""], note.request.get("count") or 1
    if note.index >= len(prompts) * count:
        raise SpecError(f"the note is of picture {note.index}, but its run has {len(prompts) * count}")
    return str(prompts[note.index // count])


def parameters(path: Path) -> str:
    """The `parameters` text of a picture. Raises SpecError, saying what else it carries, when there is none."""
    carried = picture.texts(path)
    if picture.PARAMETERS in carried:
        return carried[picture.PARAMETERS]
    if {"prompt", "workflow"} & carried.keys():
        raise SpecError(f"{path} carries a ComfyUI workflow, which is not read here, and no parameters text")
    raise SpecError(f"{path} carries no note of safelight and no parameters text: nothing says how it was made")


def another(note: Note, model: Model) -> str:
    """The line that says that a model is not the recorded one."""
    made, here = note.model, model
    return f"Model: made with {made.name or 'a model'} ({made.fingerprint or 'no file'}), another one than this ({here.fingerprint})"


# ---- what a note needs -------------------------------------------------------------------------------------------------------


def weights_of(note: Note, given: Sequence[str | os.PathLike[str]], *, device: str | torch.device = "cpu") -> Model:
    """The model that a note names: of the files given the one with its fingerprint, else with its name, else the first that is none
    of the further models that the note names; without any, the model of that name that ships.

    Raises SpecError when there is none. That it has another fingerprint is for the caller to say.
    """
    made, peers = note.model, {peer.partition(":")[0] for peer in note.peers}
    paths = {files.locate(name): Path(name).stem for name in given}
    chosen: str | os.PathLike[str] | None = next((p for p in paths if files.fingerprint(p) == made.fingerprint), None)
    if chosen is None:
        others = [p for p in paths if files.fingerprint(p) not in note.peers.values()]
        chosen = next((p for p in others if p.stem == made.name), None)
        chosen = chosen or next((p for p in others if paths[p] not in peers), None)
    if chosen is None and made.name in files.embedded():
        chosen = made.name
    if chosen is None:
        raise SpecError(
            f"made with the model '{made.name}' ({made.fingerprint or 'never saved'}), which does not ship: give its file with --model"
        )
    return files.load(chosen, _set(made.weights, files.peek(chosen).weights), device=device)


def _set(wanted: str, there: Sequence[str]) -> str | None:
    """The recorded set of weights if the file has it, else the file's default."""
    return wanted if wanted in there else None


def request_for(note: Note, given: Sequence[str | os.PathLike[str]] = ()) -> Request:
    """The request of a note's run, its further files found among those given. Raises SpecError when one is missing."""
    paths = {peer: f"{path}{''.join(peer.partition(':')[1:])}" for peer, path in _peers(note, given).items()}
    found = parse(_placed(note.request, paths), "request")
    assert isinstance(found, Request)
    return found


def _peers(note: Note, given: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """The further files of a note among those given, by the names it has for them (`weak`, or with a set of weights `weak:raw`): of
    that name with the recorded fingerprint, else of that name without being the model's own file, else with that fingerprint.
    """
    digits = {Path(path): files.fingerprint(files.locate(path)) for path in given} if note.peers else {}
    found = dict[str, Path]()
    for peer, recorded in note.peers.items():
        named = [p for p in digits if p.stem == peer.partition(":")[0]]
        same = [p for p in digits if digits[p] == recorded]
        others = [p for p in named if digits[p] != note.model.fingerprint]
        fitting = [*(p for p in named if p in same), *others, *same]
        if not fitting:
            raise SpecError(f"guided by the model '{peer}' ({recorded}), which does not ship: give its file too, with --model")
        found[peer] = fitting[0]
    return found


def _placed(value: Any, paths: Mapping[str, str]) -> Any:
    """A description in which files named without a folder are paths again: the inverse of `picture.nameless`."""
    if isinstance(value, Mapping):
        return {k: v if k in ("prompt", "negative", "source") else _placed(v, paths) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(v, paths) for v in value]
    return paths.get(value, value) if isinstance(value, str) else value


def sources(note: Note, given: Sequence[str | os.PathLike[str]], folder: Path | None = None) -> list[Tensor]:
    """The pictures that a note's task needs, uint8 (C, H, W): found by their seals in the files given, then in a folder's pictures.

    A file is tried as a picture and as a mask. Raises SpecError naming the first that is in none of them, and for a given file that
    cannot be read; what lies in the folder and cannot be read is passed over.
    """
    wanted, found = set(note.inputs), dict[str, Tensor]()
    for path in given:
        _sort_out(looks(Path(path)), wanted, found)
    beside = sorted(p for p in folder.iterdir() if p.is_file() and is_picture(p.name)) if folder is not None else []
    for path in beside:
        if not wanted - found.keys():
            break
        with contextlib.suppress(SpecError, OSError):
            _sort_out(looks(path), wanted, found)
    missing = [name for name in note.inputs if name not in found]
    if missing:
        where = "the files given with --input" if given else "the pictures beside it"
        raise SpecError(f"made from the picture {missing[0]}, which is none of {where}: give its file with --input")
    return list(found.values())


def looks(path: Path) -> Iterator[Tensor]:
    """A file's picture in every way the commands read one."""
    yield picture.read(path)[0]
    yield picture.read_mask(path)
    with contextlib.suppress(SpecError):
        yield picture.read_mask(path, alpha=True)


def _sort_out(looks: Iterable[Tensor], wanted: set[str], found: dict[str, Tensor]) -> None:
    for pixels in looks:
        name = seal(pixels)
        if name in wanted:
            found[name] = pixels


# ---- making it again ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_recorded(note: Note) -> Iterator[None]:
    """A region with the threads and the precision of matrix products that a note recorded, and those of before after it."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(note.threads)
    if (recorded := note.engine.get("matmul")) in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(recorded)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)


def prepared(model: Model, note: Note) -> Model:
    """The model in the recorded precision, memory layout and placement."""
    recorded = note.engine.get("dtype")
    if recorded in ("float32", "float64", "float16", "bfloat16"):  # others are stored in, not computed in
        model.to(getattr(torch, recorded))
    if note.engine.get("memory") == "low":
        place.place(model, "low")
    if note.engine.get("channels_last"):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def again(model: Model, request: Request, assets: Assets, k: int = 0, progress: Any = None) -> tuple[Tensor, Resolved]:
    """Picture k of a request's run, uint8 (C, H, W), and the request as it was resolved; of the run no more is made than its micro-batch.

    progress: called after every step with (step, steps). Raises SpecError for a run that has no picture k.
    """
    asked = request.resolve(model, assets)
    count = len(asked.pictures)
    if k >= count:
        raise SpecError(f"the note is of picture {k}, but its run has {count}")
    part, row = divmod(k, asked.micro_batch or count)
    for event in generate(model, asked, assets=assets, part=part):
        if isinstance(event, Stepped) and progress is not None:
            progress(event.step.i + 1, event.step.n)
        elif isinstance(event, Finished):
            return torch.from_numpy(to_bytes(event.pictures[row : row + 1])[0].transpose(2, 0, 1).copy()), asked
    raise AssertionError("a part ends with its pictures")


def compare(
    path: str | os.PathLike[str], note: Note, model: Model, made: Tensor, given: Sequence[str | os.PathLike[str]] = ()
) -> list[str]:
    """Everything in which a picture's file differs from the picture made again, a line each; none when both are byte-identical."""
    file = Path(path)
    format = picture.format_of(file)
    packed = picture.encode(made, note, format)
    if seal(made) == note.seal and packed == file.read_bytes():
        return []
    kept, lossy = picture.read(file)[0], format == "JPEG"
    lines: list[str] = []
    if seal(made) == note.seal:
        if lossy or seal(kept) == note.seal:
            lines.append("the pixels it was made with are identical; the file is not: written otherwise, or changed since")
        else:
            lines.append("the picture comes out as its note seals it: the file's pixels were changed since")
    elif not lossy and seal(kept) != note.seal:
        lines.append("the file's pixels were changed since it was made: they are not those that its note seals")
    if lossy:
        if seal(made) != note.seal:
            lines.append("the picture comes out otherwise than its note seals it")
        made = picture.decoded(packed)
    return [*lines, *apart(kept, made), *differing(note, model, given)]


def apart(kept: Tensor, made: Tensor) -> list[str]:
    """How a file's pixels differ from those made again, in one line; none when they do not."""
    found = difference(kept, made)
    if found is None:
        return [f"the file is {_shape(kept)}, the picture comes out {_shape(made)}"]
    return [str(found)] if found.largest else []


def _shape(pixels: Tensor) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[2]} {'grey' if len(pixels) == 1 else 'RGB'}"


def differing(note: Note, model: Model, given: Sequence[str | os.PathLike[str]] = ()) -> list[str]:
    """The recorded facts that are others here, a line each: models (the further ones among `given`), versions, device, engine."""
    here = picture.facts(model)
    lines = []
    if note.model.fingerprint != model.fingerprint:
        lines.append(another(note, model))
    for peer, path in _peers(note, given).items():
        if (digits := files.fingerprint(files.locate(path))) != note.peers[peer]:
            lines.append(f"the model '{peer}': {note.peers[peer]} there, {digits} here")
    if note.model.weights != model.weights:
        lines.append(f"weights: '{note.model.weights}' there, '{model.weights}' here")
    for name in ("device", "machine", "threads"):
        if getattr(note, name) != here[name]:
            lines.append(f"{name}: {getattr(note, name)} there, {here[name]} here")
    for part in ("versions", "engine"):
        there: dict[str, Any] = getattr(note, part)
        for name in sorted(there.keys() | here[part].keys()):
            if there.get(name) != here[part].get(name):
                lines.append(f"{name}: {there.get(name, 'not recorded')} there, {here[part].get(name, 'not known')} here")
    return lines


__all__ = [
    "Difference",
    "again",
    "alone",
    "another",
    "apart",
    "as_recorded",
    "compare",
    "difference",
    "differing",
    "looks",
    "parameters",
    "prepared",
    "prompt_of",
    "request_for",
    "request_of",
    "sources",
    "weights_of",
]
