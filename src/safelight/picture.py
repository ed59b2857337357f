"""Pictures that carry themselves: a file with the picture, the request that made it, and the chain of pictures before it.

    PNG         text chunks `safelight` (our note, as JSON) and `parameters` (what A1111 and its kin read); tEXt, or iTXt beyond Latin-1
    JPEG, WebP  the note as XMP, attribute `note` of the namespace `urn:safelight`; `parameters` as EXIF UserComment, in UTF-16

A note names pictures by their seals and models by name and fingerprint. It holds no path, no user's or host's name, no time, and
the same picture and note give the same bytes. Reading and writing notes loads no torch.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import Field, ValidationError

from safelight.files import atomic_bytes
from safelight.interop import infotext
from safelight.spec import Spec, SpecError, describe, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from safelight.model import Model
    from safelight.task import Resolved

FORMAT = 1
# Suffix -> Pillow's name of the format.
FORMATS: dict[str, str] = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
KEY = "safelight"
PARAMETERS = "parameters"
_EXIF, _COMMENT = 0x8769, 0x9286  # the Exif directory and its UserComment
# A file, a note and a note unpacked larger than these are no picture's: refused before they are read, in bytes.
_LARGEST_FILE, _LARGEST_NOTE = 1 << 29, 1 << 23
_DEEPEST = 100  # objects in one another: what reads a request recurses
# A JPEG segment holds 64 kB. A longer note is packed.
_PLAIN_XMP = 60_000
_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:safelight="urn:safelight" safelight:note=\'{}\'/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
# As an attribute, as we write it, or as an element, as an editor may have written it anew. Not by an XML parser: entities can explode.
_IN_XMP = re.compile(r"""safelight:note\s*=\s*(?:"([^"]*)"|'([^']*)')|<safelight:note>([^<]*)</safelight:note>""")


class Source(Spec):
    """Which weights: the model's name (of its file, without folders), its file's fingerprint, and the set of weights in it."""

    name: str
    fingerprint: str = ""
    weights: str = ""


class Ancestor(Spec):
    """A picture that another was made from.

    seal: of its pixels as they were used. request, model, index: how it was made itself, None where its file did not say.
    made: the seal it was made with, where its file kept its pixels only nearly (JPEG).
    """

    seal: str
    request: dict[str, Any] | None = None
    model: Source | None = None
    index: int = Field(0, ge=0)
    made: str = ""


class Note(Spec):
    """What a picture says of itself: all that making it again takes, and where it comes from.

    request: the resolved request of the run, described. index, count: this is picture `index` of the `count` of the run.
    model: the weights; peers: fingerprints of the further files that the request names. seal: of the picture's own pixels
    (`safelight.assets.seal`). inputs: the seals of the pictures the task needs. lineage: all pictures it descends from, oldest
    first. device, machine, threads, versions, engine: what may change the last bit of a result.
    """

    format: int = FORMAT
    request: dict[str, Any]
    model: Source
    peers: dict[str, str] = {}
    index: int = Field(0, ge=0)
    count: int = Field(1, ge=1)
    seal: str
    inputs: tuple[str, ...] = ()
    lineage: tuple[Ancestor, ...] = ()
    device: str = "cpu"
    machine: str = ""
    threads: int = Field(1, ge=1, le=4096)
    versions: dict[str, str] = {}
    engine: dict[str, Any] = {}

    def text(self) -> str:
        """The note as JSON in ASCII, which every reader of text chunks keeps as it is."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))

    def ancestors(self, seal: str = "") -> tuple[Ancestor, ...]:
        """The lineage of a picture made from this one: its own, and itself. seal: of its pixels as they are used, if not its own."""
        made = self.seal if seal and seal != self.seal else ""
        itself = Ancestor(seal=seal or self.seal, request=self.request, model=self.model, index=self.index, made=made)
        return (*self.lineage, itself)


def notes(
    model: Model,
    request: Resolved,
    pictures: Sequence[Tensor] | Tensor,
    *,
    parents: Sequence[tuple[Tensor, Note | None]] = (),
    engine: Mapping[str, Any] | None = None,
) -> list[Note]:
    """The notes of a finished run, one a picture.

    pictures: uint8 (C, H, W) each, in the order of the run. parents: the pictures it was made from, with their notes, as `read`
    gives them. engine: further settings that may change a result.
    """
    from safelight.assets import seal
    from safelight.model import fingerprint, locate

    lineage: dict[str, Ancestor] = {}
    for pixels, note in parents:
        name = seal(pixels)
        for ancestor in note.ancestors(name) if note is not None else (Ancestor(seal=name),):
            lineage.setdefault(ancestor.seal, ancestor)
    there = dict[str, Path]()
    asked = nameless(describe(request), there)
    common: dict[str, Any] = {
        "request": asked,
        "model": Source(name=model.name, fingerprint=model.fingerprint, weights=model.weights),
        "peers": {name: fingerprint(locate(path)) for name, path in there.items()},
        "count": len(pictures),
        "inputs": request.inputs,
        "lineage": tuple(lineage.values()),
        **facts(model, engine),
    }
    return [Note(**common, index=k, seal=seal(picture)) for k, picture in enumerate(pictures)]


def facts(model: Model, engine: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What of this machine may change the last bit of a picture: `device`, `machine`, `threads`, `versions` and `engine` of a Note."""
    import platform

    import PIL
    import torch

    import safelight
    from safelight import device as devices
    from safelight.engine import place

    versions = {"safelight": safelight.__version__, "torch": str(torch.__version__), "numpy": np.__version__}
    laid = torch.channels_last
    first = next(model.parameters())
    own = {
        "dtype": str(first.dtype).removeprefix("torch."),
        "channels_last": any(
            p.ndim == 4 and p.is_contiguous(memory_format=laid) and not p.is_contiguous() for p in model.parameters()
        ),
        "matmul": torch.get_float32_matmul_precision(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if place.memory_of(model) == "low":
        own["memory"] = "low"
    return {
        "device": model.device.type,
        "machine": devices.title(model.device),
        "threads": torch.get_num_threads(),
        "versions": versions | {"python": platform.python_version(), "pillow": PIL.__version__},
        "engine": own | dict(engine or {}),
    }


def nameless(value: Any, found: dict[str, Path] | None = None, prompt: bool = False) -> Any:
    """A description in which every file of this machine is named without folder and suffix. Prompts stay. found: takes the files."""
    if isinstance(value, Mapping):
        return {k: nameless(v, found, k in ("prompt", "negative", "source")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(v, found, prompt) for v in value]
    return _stem(value, {} if found is None else found) if isinstance(value, str) and not prompt else value


def _stem(name: str, found: dict[str, Path]) -> str:
    """`folder/model.safetensors:ema` -> `model:ema`, if there is such a file; anything else as it stands."""
    if not any(mark in name for mark in ("/", "\\", ".safetensors")) or "\0" in name or len(name) > 4096:
        return name
    for path, colon, rest in ((name, "", ""), name.rpartition(":")):
        try:
            if path and Path(path).exists():
                stem = bare = Path(path).stem
                k = 1
                while any(p != Path(path) and n.partition(":")[0] == stem for n, p in found.items()):  # another file's name
                    k += 1
                    stem = f"{bare}-{k}"
                found[stem + colon + rest] = Path(path)
                return stem + colon + rest
        except OSError:
            continue
    return name


# ---- writing -----------------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], picture: Any, note: Note | None = None) -> Path:
    """Write a picture in the format of its suffix (.png, .webp lossless, .jpg), whole or not at all. Returns the path.

    picture: uint8 tensor or array (C, H, W), C = 1 or 3. note: None leaves nothing in the file but the picture.
    Raises SpecError for a suffix that no writer knows, for what is no picture, and for a note that a JPEG cannot hold.
    """
    target = Path(path)
    atomic_bytes(target, encode(picture, note, format_of(target)))
    return target


def format_of(path: Path) -> str:
    """Pillow's name of a suffix's format. Raises SpecError for a suffix that no writer knows."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"{path}: '{path.suffix}' is no picture format here (png, webp, jpg)")
    return FORMATS[path.suffix.lower()]


def encode(picture: Any, note: Note | None, format: str) -> bytes:
    """The bytes of a picture's file; `write` says what of. The same arguments give the same bytes."""
    image = _image(picture)
    out = io.BytesIO()
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        if note is not None:
            chunks.add_text(PARAMETERS, infotext.write(infotext.of(note.request, note)))
            chunks.add_text(KEY, note.text())
        image.save(out, format, pnginfo=chunks)
        return out.getvalue()
    extra: dict[str, Any] = {}
    if note is not None:
        exif = Image.Exif()
        text = infotext.write(infotext.of(note.request, note))
        exif.get_ifd(_EXIF)[_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
        extra = {"exif": exif.tobytes(), "xmp": _XMP.format(_packed(note.text())).encode()}
    try:
        if format == "WEBP":
            image.save(out, format, lossless=True, **extra)
        else:
            image.save(out, format, quality=95, subsampling=0, **extra)
    except ValueError as error:
        raise SpecError(f"the note does not fit a JPEG ({' '.join(str(error).split())}): write .png or .webp") from None
    return out.getvalue()


def _image(picture: Any) -> Image.Image:
    array = picture.detach().cpu().numpy() if hasattr(picture, "detach") else np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3) or array.size == 0:
        raise SpecError(f"a picture is uint8 (1 or 3, height, width), not {array.dtype} {tuple(array.shape)}")
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def _packed(text: str) -> str:
    """A note as the value of an XML attribute in single quotes, compressed where it is long."""
    plain = html.escape(text, quote=False).replace("'", "&#39;")
    if len(plain) <= _PLAIN_XMP:
        return plain
    return "zlib:" + base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


# ---- reading -----------------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> tuple[Tensor, Note | None]:
    """A picture, uint8 (C, H, W), grey or RGB, and its note if it carries one.

    The first frame, upright by its EXIF orientation, palettes looked up, transparency over white, 16 bits by their high byte
    (data/decode.py). Raises SpecError, in one line, for what is no picture, a damaged or too large one, and a note that is damaged.
    """
    from safelight.assets import seal
    from safelight.data.decode import decode

    pixels, found = _tensor(_pixels(path, decode)), note(path)
    # WebP knows no grey: a picture that was sealed as grey is grey again.
    if found is not None and len(pixels) == 3 and seal(pixels[:1]) == found.seal:
        pixels = pixels[:1]
    return pixels, found


def decoded(data: bytes) -> Tensor:
    """The picture in a file's bytes, uint8 (C, H, W), as `read` gives it. Raises CorruptError for what is none."""
    from safelight.data.decode import decode

    return _tensor(decode(data))


def read_mask(path: str | os.PathLike[str], *, alpha: bool = False) -> Tensor:
    """A mask, uint8 (1, H, W): 255 is repainted, 0 is kept.

    alpha: where the mask is. False: in the brightness, white = repaint, and transparent is kept, as in A1111 and diffusers. True: in
    the transparency, transparent = repaint, as in OpenAI's API; a picture that has none is refused.
    """
    from safelight.data.decode import decode, grey, opacity

    alphas = _pixels(path, opacity)
    if alpha:
        if alphas is None:
            raise SpecError(f"{path} has no transparency, so it marks nothing to repaint (transparent = repaint)")
        return _tensor(255 - alphas)
    light = grey(_pixels(path, decode))
    if alphas is not None:  # from over white, where it was laid, to over black, where nothing is marked
        light = np.clip(light.astype(np.int16) - (255 - alphas.astype(np.int16)), 0, 255).astype(np.uint8)
    return _tensor(light)


def note(path: str | os.PathLike[str]) -> Note | None:
    """The note of a picture file, or None. No pixel is decoded, unless text stands behind them.

    Raises SpecError for a note that cannot be read, OSError for a file that cannot.
    """
    text = texts(path).get(KEY)
    return None if text is None else _noted(text, str(path))


def parameters(path: str | os.PathLike[str]) -> str | None:
    """The `parameters` text of a picture file, ours or a foreign one, or None."""
    return texts(path).get(PARAMETERS)


def texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a picture file carries, by key: `safelight`, `parameters`, and a PNG's others; {} where there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its pixels are not unpacked here
            with Image.open(path, formats=tuple(dict.fromkeys(FORMATS.values()))) as image:
                found = {k: str(v) for k, v in image.info.items() if isinstance(k, str) and isinstance(v, str)}
                if image.format == "PNG" and not {KEY, PARAMETERS} & found.keys():
                    found |= _behind(image)
                found |= {k: v for k, v in _from_exif(image).items() if k not in found}
                return found
    except UnidentifiedImageError:
        return {}
    except OSError as error:
        if error.filename is not None or error.errno is not None:
            raise
        raise SpecError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except Exception as error:  # Pillow's readers raise whatever bad bytes lead to
        raise SpecError(f"{path} is damaged, or more than a picture: {' '.join(str(error).split())[:120]}") from None


def _behind(image: Image.Image) -> dict[str, str]:
    """Texts that stand behind a PNG's pixels, where some editors put them; nothing for pixels that are damaged or too many."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
        return {}
    try:
        return {k: str(v) for k, v in image.text.items()}  # type: ignore[attr-defined]
    except Exception:
        return {}


def _from_exif(image: Image.Image) -> dict[str, str]:
    found: dict[str, str] = {}
    xmp = image.info.get("xmp")
    if isinstance(xmp, bytes) and (match := _IN_XMP.search(xmp.decode("utf-8", "replace"))):
        found[KEY] = _unpacked(html.unescape(next(part for part in match.groups() if part is not None)))
    try:
        comment = image.getexif().get_ifd(_EXIF).get(_COMMENT)
    except Exception:  # a broken EXIF block says nothing about the rest
        comment = None
    if isinstance(comment, bytes) and len(comment) > 8:
        found[PARAMETERS] = _comment(comment)
    elif isinstance(comment, str):
        found[PARAMETERS] = comment
    return found


def _comment(data: bytes) -> str:
    """An EXIF UserComment: eight bytes that name the code, then the text. UTF-16 is written in either order, without saying which."""
    code, body = data[:8], data[8:]
    if code.rstrip(b"\0") != b"UNICODE":
        return body.decode("utf-8", "replace").rstrip("\0")
    big, little = (body.decode(name, "replace") for name in ("utf-16-be", "utf-16-le"))
    if said := next((text for text in (big, little) if "Steps: " in text), ""):
        return said
    return big if sum(map(str.isascii, big)) >= sum(map(str.isascii, little)) else little


def _unpacked(text: str) -> str:
    if not text.startswith("zlib:"):
        return text
    try:
        engine = zlib.decompressobj()
        data = engine.decompress(base64.b64decode(text[5:], validate=True), _LARGEST_NOTE)
    except (ValueError, zlib.error):
        raise SpecError("its note is damaged: it cannot be unpacked") from None
    if engine.unconsumed_tail:
        raise SpecError(f"its note is more than {_LARGEST_NOTE >> 20} MB: no picture's")
    if not engine.eof:
        raise SpecError("its note is damaged: it is cut short")
    return data.decode("utf-8", "replace")


def _noted(text: str, where: str) -> Note:
    if len(text) > _LARGEST_NOTE:
        raise SpecError(f"{where}: its note is more than {_LARGEST_NOTE >> 20} MB: no picture's")
    try:
        found = json.loads(text, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        if _deeper(found, _DEEPEST):
            raise ValueError("nested too deeply")
    except RecursionError:
        raise SpecError(f"{where}: its note is damaged: nested too deeply") from None
    except ValueError as error:
        raise SpecError(f"{where}: its note is damaged: {' '.join(str(error).split())}") from None
    number = found.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise SpecError(f"{where}: its note has format {number}, this version reads up to {FORMAT}: update safelight")
    try:
        return Note.model_validate(found)
    except ValidationError as error:
        raise SpecError(f"{where}: its note is damaged: {one_line(error)}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _deeper(value: Any, most: int) -> bool:
    """Whether objects and lists lie in one another more than `most` deep."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most < 0 or any(_deeper(part, most - 1) for part in parts)


def _pixels(path: str | os.PathLike[str], decode: Any) -> Any:
    """What a decoder makes of a file's bytes, its refusals as one line about the file."""
    from safelight.data.source import CorruptError

    file = Path(path)
    size = file.stat().st_size
    if size > _LARGEST_FILE:
        raise SpecError(f"{path} has {size:,} bytes: more than any picture that is read here ({_LARGEST_FILE:,})")
    try:
        return decode(file.read_bytes())
    except CorruptError as error:
        raise SpecError(f"{path}: {error}") from None


def _tensor(pixels: Any) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


__all__ = [
    "FORMATS",
    "Ancestor",
    "Note",
    "Source",
    "decoded",
    "encode",
    "facts",
    "format_of",
    "nameless",
    "note",
    "notes",
    "parameters",
    "read",
    "read_mask",
    "texts",
    "write",
]
