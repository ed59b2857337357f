"""Pictures that carry themselves: what is written is read, nothing else is in the file, and no file can do harm."""

from __future__ import annotations

import base64
import getpass
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torch import Tensor

from safelight import picture
from safelight.assets import seal
from safelight.generate import Request
from safelight.model import fingerprint, load, save
from safelight.picture import Ancestor, Note, Source
from safelight.spec import SpecError
from tests import small

SUFFIXES = ("png", "webp", "jpg")


def noise(channels: int = 3, height: int = 9, width: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def noted(**fields: Any) -> Note:
    request = {"prompt": ["a cat, é"], "negative": "", "steps": 4, "seed": 1, "count": 1, "size": [9, 7]}
    return Note(**{"request": request, "model": Source(name="m", fingerprint="0123456789abcdef"), "seal": "sha256:0", **fields})


# ---- writing and reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_and_its_note_come_back(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels, note = noise(channels), noted(lineage=[Ancestor(seal="sha256:1")], threads=3, engine={"compile": False})
    note = note.model_copy(update={"seal": seal(pixels)})
    file = picture.write(tmp_path / f"x.{suffix}", pixels, note)
    back, read = picture.read(file)
    assert read == note
    assert picture.parameters(file) is not None and picture.parameters(file).startswith("a cat, é\nSteps: 4, ")  # type: ignore[union-attr]
    assert back.shape == pixels.shape and back.dtype == torch.uint8
    if suffix != "jpg":
        assert torch.equal(back, pixels)
    with Image.open(file) as image:
        assert image.format == picture.FORMATS[f".{suffix}"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
REQUEST = st.fixed_dictionaries(
    {"prompt": st.lists(st.text(), min_size=1, max_size=3), "negative": st.text(), "task": st.just({"kind": "text"})},
    optional={"steps": st.integers(1, 50), "seed": st.integers(), "x": JSON},
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None)
@given(request=REQUEST, engine=st.dictionaries(st.text(), JSON, max_size=2), seals=st.lists(st.text(), max_size=2))
def test_every_note_comes_back(suffix: str, request: dict[str, Any], engine: dict[str, Any], seals: list[str]) -> None:
    """Any text in any place: emoji, right-to-left, quotes, markup, NUL; and A1111's text of it says the prompt exactly."""
    from safelight.interop import infotext

    note = noted(request=request, engine=engine, lineage=[Ancestor(seal=s, request=request) for s in seals])
    file = FOLDER / f"x.{suffix}"
    picture.write(file, noise(), note)
    assert picture.note(file) == note
    found = infotext.parse(picture.parameters(file) or "")
    assert (found.prompt, found.negative) == (request["prompt"][0], request["negative"])


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("notes")


FOLDER = Path()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_picture_and_note_are_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for note in (None, noted()):
        files = [picture.write(tmp_path / f"{name}.{suffix}", noise(), note).read_bytes() for name in ("a", "b")]
        assert files[0] == files[1]


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, body) of every chunk of a PNG."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def segments(data: bytes) -> list[int]:
    """The markers of a JPEG's segments up to the scan."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(data[at + 1])
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return found


def riff(data: bytes) -> list[bytes]:
    """The types of a WebP's chunks."""
    found, at = [], 12
    while at < len(data):
        found.append(data[at : at + 4])
        (length,) = struct.unpack("<I", data[at + 4 : at + 8])
        at += 8 + length + length % 2
    return found


def test_without_a_note_nothing_is_in_the_file_but_the_picture(tmp_path: Path) -> None:
    png, webp, jpeg = (picture.write(tmp_path / f"x.{s}", noise()).read_bytes() for s in SUFFIXES)
    assert [name for name, _ in chunks(png)] == [b"IHDR", b"IDAT", b"IEND"]
    assert riff(webp) == [b"VP8L"]
    assert set(segments(jpeg)) <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, frame: no APP1 (EXIF, XMP), no comment
    for suffix in SUFFIXES:
        assert picture.texts(tmp_path / f"x.{suffix}") == {} and picture.read(tmp_path / f"x.{suffix}")[1] is None


def test_a_png_keeps_latin_1_as_text_and_the_rest_as_international_text(tmp_path: Path) -> None:
    for prompt, kind in (("a cat, é", b"tEXt"), ("кошка", b"iTXt")):
        note = noted(request={"prompt": [prompt], "negative": "", "steps": 4})
        found = dict(reversed([(body.split(b"\0")[0], name) for name, body in
                               chunks(picture.write(tmp_path / "x.png", noise(), note).read_bytes()) if name.endswith(b"Xt")]))  # fmt: skip
        assert found == {b"parameters": kind, b"safelight": b"tEXt"}


def test_jpeg_and_webp_keep_the_parameters_where_a1111_does(tmp_path: Path) -> None:
    """EXIF UserComment, "UNICODE" and UTF-16 of the larger end."""
    for suffix in ("jpg", "webp"):
        with Image.open(picture.write(tmp_path / f"x.{suffix}", noise(), noted())) as image:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0" and comment[8:].decode("utf-16-be").startswith("a cat, é\nSteps: 4")


def test_a_long_note_is_packed_in_a_jpeg_and_one_without_end_is_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        note = noted(lineage=[Ancestor(seal=f"sha256:{k:032x}", request={"prompt": ["a cat"] * 20}) for k in range(400)])
        assert len(note.text()) > 2**16
        assert picture.note(picture.write(tmp_path / f"x.{suffix}", noise(), note)) == note
    endless = noted(engine={"x": np.random.default_rng(0).bytes(200_000).hex()})
    with pytest.raises(SpecError, match=r"does not fit a JPEG .* write .png or .webp"):
        picture.write(tmp_path / "y.jpg", noise(), endless)
    assert not (tmp_path / "y.jpg").exists()


def test_reading_a_note_loads_no_torch(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        picture.write(tmp_path / f"x.{suffix}", noise(), noted())
    code = (
        "import sys; from safelight import picture; from safelight.cli.main import main\n"
        f"assert all(picture.note(f'{tmp_path}/x.' + s) for s in {SUFFIXES!r})\n"
        f"assert main(['inspect', '{tmp_path}/x.png']) == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (noise().float(), "a picture is uint8 (1 or 3, height, width), not float32 (3, 9, 7)"),
        (noise(2), "not uint8 (2, 9, 7)"),
        (noise()[None], "not uint8 (1, 3, 9, 7)"),
        (noise()[:, :0], "not uint8 (3, 0, 7)"),
    ],
)
def test_what_is_no_picture_is_not_written(tmp_path: Path, given: Tensor, line: str) -> None:
    with pytest.raises(SpecError) as error:
        picture.write(tmp_path / "x.png", given)
    assert line in str(error.value) and not list(tmp_path.iterdir())


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"x.tga: '.tga' is no picture format here \(png, webp, jpg\)"):
        picture.write(tmp_path / "x.tga", noise())


# ---- what a note says --------------------------------------------------------------------------------------------------------


def test_a_note_holds_no_path_no_name_and_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that says where and by whom: model files of this machine, the folder, the home, the user, the host, secrets."""
    from safelight.guide.autoguidance import Autoguidance

    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")
    folder = tmp_path / "private place"
    folder.mkdir()
    save(folder / "mine.safetensors", small.model())
    save(folder / "weak.safetensors", small.model(seed=1))
    model = load(folder / "mine.safetensors")
    monkeypatch.chdir(folder)
    mix = Autoguidance(weak=f"{folder}/weak.safetensors:raw")
    asked = Request.model_validate({"prompt": "bag", "mix": mix}).resolve(model)
    (note,) = picture.notes(model, asked, [noise()], parents=[(noise(seed=1), None)])
    assert note.request["mix"]["weak"] == "weak:raw" and note.peers == {"weak:raw": fingerprint(folder / "weak.safetensors")}
    assert (note.model.name, note.model.weights, note.model.fingerprint) == ("mine", "raw", model.fingerprint)
    home, user, host = str(Path.home()), getpass.getuser(), socket.gethostname()
    for suffix in SUFFIXES:
        data = picture.write(tmp_path / f"x.{suffix}", noise(), note).read_bytes()
        text = json.dumps(picture.texts(tmp_path / f"x.{suffix}")) + picture.note(tmp_path / f"x.{suffix}").text()  # type: ignore[union-attr]
        secrets = [str(tmp_path), str(folder), os.getcwd(), "private place", home + "/", host, "hf_avery"]
        for secret in [*secrets, *([user] if len(user) > 4 else [])]:
            assert secret not in text
            assert secret.encode() not in data and secret.encode("utf-16-be") not in data
        assert user not in note.model_dump_json(exclude={"request", "lineage"})


def test_a_prompt_with_slashes_stays(tmp_path: Path) -> None:
    (tmp_path / "cat").touch()
    words = {"prompt": [f"{tmp_path}/cat", "a cat/dog"], "negative": f"{tmp_path}/cat", "task": {"kind": "mix", "x": "cat/dog"}}
    assert picture.nameless(words) == words
    assert picture.nameless({"weak": f"{tmp_path}/cat", "k": ["C:\\nowhere\\x"]}) == {"weak": "cat", "k": ["C:\\nowhere\\x"]}


def test_lineage_is_the_whole_chain_each_ancestor_once() -> None:
    """Of an edit of an edit of a picture, and of a mix of two pictures with a common ancestor; foreign pictures by their seals."""
    model = small.model()
    asked = Request(prompt=("bag",)).resolve(model)

    def made(seed: int, *parents: tuple[Tensor, Note | None]) -> tuple[Tensor, Note]:
        pixels = noise(seed=seed)
        return pixels, picture.notes(model, asked.model_copy(update={"seed": seed}), [pixels], parents=parents)[0]

    photo = noise(seed=9)
    first = made(1, (photo, None))
    second = made(2, first)
    other = made(3, first)
    both = made(4, second, other)
    assert [a.seal for a in both[1].lineage] == [seal(photo), seal(first[0]), seal(second[0]), seal(other[0])]
    assert [a.request and a.request["seed"] for a in both[1].lineage] == [None, 1, 2, 3]
    assert all(a.made == "" for a in both[1].lineage)
    nearly = (first[0] // 2, first[1])  # as from a JPEG: the pixels in use are not those its note seals
    (ancestor,) = [a for a in made(5, nearly)[1].lineage if a.request]
    assert (ancestor.seal, ancestor.made) == (seal(nearly[0]), seal(first[0]))


# ---- pictures of strangers ---------------------------------------------------------------------------------------------------


def test_every_kind_of_picture_is_read_as_it_looks(tmp_path: Path) -> None:
    """Palettes, 16 bits, grey, transparency over white, EXIF orientation, the first frame of several."""
    rgb = np.asarray(noise().permute(1, 2, 0))
    image = Image.fromarray(rgb)
    grey = np.asarray(noise(1)[0])

    def read(name: str, image: Image.Image, **options: Any) -> np.ndarray:
        image.save(tmp_path / name, **options)
        return np.asarray(picture.read(tmp_path / name)[0])

    np.testing.assert_array_equal(read("g.png", Image.fromarray(grey)), grey[None])
    np.testing.assert_array_equal(read("d.png", Image.fromarray(grey.astype(np.uint16) * 257)), grey[None])
    few = image.quantize(4)
    np.testing.assert_array_equal(read("p.png", few), np.asarray(few.convert("RGB")).transpose(2, 0, 1))
    clear = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    clear[:4, :, 3] = 0
    np.testing.assert_array_equal(
        read("a.png", Image.fromarray(clear)), np.where(clear[..., 3:] == 0, 255, rgb).transpose(2, 0, 1)
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    np.testing.assert_array_equal(read("o.png", image, exif=exif), np.rot90(rgb, -1).transpose(2, 0, 1))
    np.testing.assert_array_equal(
        read("m.png", image, save_all=True, append_images=[Image.new("RGB", image.size)]), rgb.transpose(2, 0, 1)
    )


def test_masks_are_white_or_transparent_where_it_is_repainted(tmp_path: Path) -> None:
    """Both polarities mark the same pixels, from grey, colour, palette and transparent files; transparent is kept where white counts."""
    marked = np.zeros((9, 7), bool)
    marked[2:5, 1:6] = True
    white = Image.fromarray(np.where(marked, 255, 0).astype(np.uint8))
    strokes = Image.fromarray(np.dstack([np.full((9, 7, 3), 255, np.uint8), np.where(marked, 255, 0).astype(np.uint8)]))
    wanted = torch.from_numpy(np.where(marked, 255, 0).astype(np.uint8))[None]
    for name, image in {
        "l": white,
        "1": white.convert("1"),
        "rgb": white.convert("RGB"),
        "p": white.convert("P"),
        "s": strokes,
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert torch.equal(picture.read_mask(tmp_path / f"{name}.png"), wanted), name
    hole = Image.fromarray(np.dstack([np.asarray(noise().permute(1, 2, 0)), np.where(marked, 0, 255).astype(np.uint8)]))
    hole.save(tmp_path / "hole.png")
    assert torch.equal(picture.read_mask(tmp_path / "hole.png", alpha=True), wanted)
    with pytest.raises(SpecError, match=r"l.png has no transparency, so it marks nothing to repaint \(transparent = repaint\)"):
        picture.read_mask(tmp_path / "l.png", alpha=True)


def png(*extra: tuple[bytes, bytes], size: tuple[int, int] = (4, 4), after: bool = False) -> bytes:
    """A PNG with further chunks, before or behind its pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (size[0] + 1) * size[1]) if size[0] < 100 else b"")
    more = b"".join(chunk(*one) for one in extra)
    return head + (pixels + more if after else more + pixels) + chunk(b"IEND", b"")


def text(key: str, value: str) -> tuple[bytes, bytes]:
    return b"tEXt", key.encode() + b"\0" + value.encode()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (png(text("safelight", "{")), "its note is damaged: Expecting property name"),
        (png(text("safelight", "[1]")), "its note is damaged: it is no JSON object"),
        (png(text("safelight", "[" * 100_000)), "its note is damaged: nested too deeply"),
        (png(text("safelight", '{"format": 99}')), "its note has format 99, this version reads up to 1: update safelight"),
        (png(text("safelight", '{"request": {}, "model": {"name": "m"}, "seal": 3}')), "its note is damaged: seal: "),
        (png(text("safelight", '{"request": {}, "modell": {}}')), "its note is damaged: unknown field 'modell'; did you mean 'model'?"),
        (png(text("safelight", '{"x": NaN, "request": {}}')), "its note is damaged: "),
        (png(text("safelight", '{"request": ' + '{"of": ' * 500 + "1" + "}" * 501)), "its note is damaged: nested too deeply"),
        (png(text("safelight", '{"engine": {"x": Infinity}}')), "its note is damaged: Infinity is no number of JSON"),
        (png(text("safelight", '"' + "x" * (1 << 23) + '"')), "its note is more than 8 MB: no picture's"),
        (png((b"zTXt", b"safelight\0\0" + zlib.compress(b" " * 100_000_000))), "x.png: Decompressed data too large"),
        (png((b"iTXt", b"safelight\0\1\0\0\0" + zlib.compress(b" " * 100_000_000))), "x.png: Decompressed data too large"),
        (png(size=(100_000, 100_000)), "x.png"),
        (png(size=(12_000, 8_000)), "x.png: 12000x8000 is more than 89,478,485 pixels (a decompression bomb?)"),
        (png()[:43], "x.png"),
        (b"", "x.png: empty file"),
        (b"GIF89a", "x.png"),
        (b"not a picture", "x.png: not a picture, or a format that is not known"),
    ],
    ids=range(18),
)  # fmt: skip
def test_harmful_files_are_answered_in_one_line(tmp_path: Path, data: bytes, line: str) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(SpecError) as error:
        picture.read(tmp_path / "x.png")
    assert line in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_packed_notes_do_not_explode(tmp_path: Path) -> None:
    bomb = "zlib:" + base64.b64encode(zlib.compress(b" " * 40_000_000)).decode()
    short = "zlib:" + base64.b64encode(zlib.compress(bytes(range(256)) * 4)[:-8]).decode()
    for value, line in (
        (bomb, "more than 8 MB"),
        ("zlib:!!!", "cannot be unpacked"),
        ("zlib:AAAA", "cannot be unpacked"),
        (short, "cut short"),
    ):
        out = io.BytesIO()
        Image.new("L", (4, 4)).save(out, "JPEG", xmp=f"<x xmlns:safelight='urn:safelight' safelight:note='{value}'/>".encode())
        (tmp_path / "x.jpg").write_bytes(out.getvalue())
        with pytest.raises(SpecError, match=line):
            picture.note(tmp_path / "x.jpg")


def test_notes_are_found_where_editors_put_them(tmp_path: Path) -> None:
    """Behind the pixels, compressed, and in XMP written anew as an element; a missing file is the system's own error."""
    note = noted()
    (tmp_path / "x.png").write_bytes(png(text("safelight", note.text()), after=True))
    assert picture.note(tmp_path / "x.png") == note
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("safelight", note.text(), zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "z.png", pnginfo=chunks)
    assert picture.note(tmp_path / "z.png") == note
    packet = f"<rdf xmlns:safelight='urn:safelight'><safelight:note>{note.text().replace('&', '&amp;')}</safelight:note></rdf>"
    Image.new("L", (4, 4)).save(tmp_path / "x.jpg", xmp=packet.encode())
    assert picture.note(tmp_path / "x.jpg") == note
    Image.new("L", (4, 4)).save(tmp_path / "x.gif")
    assert picture.note(tmp_path / "x.gif") is None
    with pytest.raises(FileNotFoundError):
        picture.note(tmp_path / "none.png")


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_foreign_comment_is_read_in_either_byte_order(tmp_path: Path, order: str) -> None:
    # U+4E00 is an N with its bytes turned round
    for prompt in ("кошка и cat", "\u4e00" * 300):
        words = f"{prompt}\nSteps: 20, Sampler: Euler a, Seed: 1"
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + words.encode(order)
        Image.new("L", (4, 4)).save(tmp_path / "x.jpg", exif=exif)
        assert picture.parameters(tmp_path / "x.jpg") == words


def test_two_files_of_one_name_stay_two(tmp_path: Path) -> None:
    """A set of weights keeps its file's name; the next file of that name is told from it by a number."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.safetensors").touch()
    found = dict[str, Path]()
    a, b = (f"{tmp_path}/{folder}/m.safetensors" for folder in "ab")
    assert picture.nameless([a, f"{a}:ema", b, a], found) == ["m", "m:ema", "m-2", "m"]
    assert found == {"m": Path(a), "m:ema": Path(a), "m-2": Path(b)}
