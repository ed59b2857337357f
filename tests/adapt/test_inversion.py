"""Learned words: files in every layout, the encoder's states against transformers', and an encoder that forgets them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelight import picture
from safelight.adapt.inversion import Inversion, WordUse, learn
from safelight.adapt.lora import wear
from safelight.interop import inversion as files
from safelight.interop.keys import to_theirs
from safelight.interop.maps import clip
from safelight.spec import SpecError
from safelight.text.clip import CLIPText, CLIPTextSpec
from safelight.text.sdxl import SDXLTextSpec
from tests import peers, small
from tests.cli.conftest import cli, words  # noqa: F401

TEXT = CLIPTextSpec(width=16, layers=2, heads=2, length=16, quick=True, masks=False)
WIDE = CLIPTextSpec(width=24, layers=2, heads=2, length=16, projection=24, pad=0, masks=False)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder() -> CLIPText:
    made = peers.stirred(TEXT.build())
    assert isinstance(made, CLIPText)
    return made


def test_the_states_are_those_of_a_table_with_further_rows() -> None:
    """Beside transformers, whose table is really longer: a word of two vectors within a weighted prompt of plain words."""
    ours = encoder()
    n = ours.tower.token.num_embeddings
    transformers = peers.transformers()
    settings = {k: v for k, v in clip.config(TEXT).items() if k not in ("_class_name", "architectures")}
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings)).eval()
    theirs.load_state_dict(to_theirs(clip.keys(TEXT, clip.prefix(theirs.state_dict())), ours.state_dict()))
    learned = rand(2, 16)
    theirs.resize_token_embeddings(n + 2, mean_resizing=False)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[n:] = learned
        with learn(ours, [Inversion("<my cat>", {"0": learned})]):
            assert ours.tokenizer.encode("a <my cat>!")[1:3] == [n, n + 1]
            ids = ours.tokenize(["a photo of <my cat>, red"])
            found = ours.read(["a photo of <my cat>, red"]).tokens
        assert found is not None and (ids >= n).sum() == 2
        assert peers.difference(found, theirs(ids).last_hidden_state) < 1e-5


def test_the_encoder_is_its_own_before_and_after() -> None:
    ours = encoder()
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    plain = ours.read(["a cat-toy"]).tokens
    worn = learn(ours, [Inversion("cat-toy", {"0": rand(3, 16)})])
    with worn:
        assert ours.tokenizer.extra == {
            "cat-toy": tuple(range(len(state["tower.token.weight"]), len(state["tower.token.weight"]) + 3))
        }
        inside = ours.read(["a cat-toy"]).tokens
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    after = ours.read(["a cat-toy"]).tokens
    assert plain is not None and inside is not None and after is not None
    assert torch.equal(after, plain) and (inside - plain).abs().max() > 0.1
    assert ours.tokenizer.extra == {} and "forward" not in ours.tower.token.__dict__
    with pytest.raises(SpecError, match="cannot be merged"):
        worn.merge()


def test_a_word_of_77_vectors_and_words_beside_an_adapter() -> None:
    ours = encoder()
    both = wear(ours, []) | learn(ours, [Inversion("long", {"0": rand(77, 16)}), Inversion("longer", {"0": rand(1, 16)})])
    with both:
        assert len(ours.tokenizer.encode("long")) == 77 and len(ours.tokenizer.encode("longer")) == 1
        cond = ours.read(["long and longer"])
    assert cond.tokens is not None and cond.tokens.shape == (1, 16 * 6, 16)  # 79 tokens in windows of 14


def test_of_two_encoders_each_learns_its_own() -> None:
    ours = SDXLTextSpec.of(TEXT, WIDE, size=(8, 8)).build().eval()
    one = Inversion("<s>", {"clip_g": rand(2, 24, seed=1), "clip_l": rand(2, 16, seed=2)})
    with learn(ours, [one]), torch.no_grad():
        for encoder, name in zip(ours.encoders, ("clip_l", "clip_g"), strict=True):
            n = encoder.tower.token.num_embeddings
            found = encoder.tower.token(torch.tensor([[5, n, n + 1]]))
            assert torch.equal(found[0, 1:], one.vectors[name]) and torch.equal(found[0, 0], encoder.tower.token.weight[5])
    refiner = SDXLTextSpec.of(WIDE, zeros=False, scored=True).build().eval()
    with learn(refiner, [one]):  # it has the second encoder alone: the vectors that are as wide
        assert refiner.encoders[0].tower.token(torch.tensor([[refiner.encoders[0].tower.token.num_embeddings]])).shape == (
            1,
            1,
            24,
        )


@pytest.mark.parametrize("shape, rows", [((16,), 1), ((1, 16), 1), ((4, 16), 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_layout_and_shape_is_read_and_written(
    shape: tuple[int, ...], rows: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """diffusers PR#2914: a shape that one scalar was taken from. [d], [1, d] and [n, d] must all work."""
    value = rand(*shape).to(dtype)
    save_file({"<cat>": value}, tmp_path / "a.safetensors")
    save_file({"emb_params": value}, tmp_path / "b.safetensors")
    first, second = (files.load(tmp_path / f"{n}.safetensors")[0] for n in "ab")
    assert (first.word, second.word) == ("<cat>", "b")
    for found in (first, second):
        assert torch.equal(found.vectors["0"], value.reshape(rows, 16))
    files.save(tmp_path / "b.safetensors", second, "a1111")
    back = load_file(tmp_path / "b.safetensors")["emb_params"]
    assert back.dtype == dtype and torch.equal(back, value.reshape(rows, 16))
    files.save(tmp_path / "c.safetensors", first)
    assert torch.equal(load_file(tmp_path / "c.safetensors")["<cat>"], value.reshape(rows, 16))
    with pytest.raises(SpecError, match="call it <cat>.safetensors"):
        files.save(tmp_path / "d.safetensors", first, "a1111")
    assert files.load(tmp_path / "a.safetensors", "dog")[0].word == "dog"


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_a_file_of_two_encoders_comes_back(names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    begin = {names[0]: rand(2, 16), names[1]: rand(2, 24)}
    save_file(begin, path)
    (found,) = files.load(path)
    files.save(path, found)
    back = load_file(path)
    assert back.keys() == begin.keys() and all(torch.equal(back[name], value) for name, value in begin.items())
    with learn(SDXLTextSpec.of(TEXT, WIDE).build(), [found]):
        pass


def test_what_a_pickle_of_a1111_held() -> None:
    held = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(rand(3, 16))},
        "name": "style",
        "step": 9,
    }
    assert files.is_pickled(held) and not files.is_pickled({"a": rand(2)})
    found = files.of_pickle(held, "file")
    assert found.word == "style" and torch.equal(found.vectors["0"], rand(3, 16))
    assert files.of_pickle(held | {"name": None}, "file").word == "file"
    with pytest.raises(SpecError, match="no single tensor"):
        files.of_pickle({"string_to_param": {}}, "file")


@pytest.mark.parametrize(
    "tensors, says",
    [
        ({"<a>": rand(2, 3, 4)}, r"'<a>' is \(2, 3, 4\) of float32, no vectors of a learned word"),
        ({"<a>": torch.ones(2, 3, dtype=torch.int64)}, "of int64, no vectors"),
        ({"clip_l": rand(2, 16), "clip_g": rand(3, 24)}, "(2 and 3|3 and 2) vectors for one word"),
        ({}, "it has no tensors"),
    ],
)
def test_a_file_that_holds_no_word_is_one_line(tensors: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match=says) as caught:
        files.load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_a_word_of_another_model_and_a_name_that_comes_twice() -> None:
    ours = encoder()
    with pytest.raises(
        SpecError, match="'<a>' has vectors of 24 numbers, the words of the text encoder have 16: another model's"
    ):
        learn(ours, [Inversion("<a>", {"0": rand(2, 24)})])
    with pytest.raises(SpecError, match="two learned words are called '<a>'"):
        learn(ours, [Inversion("<a>", {"0": rand(2, 16)})] * 2)
    with pytest.raises(SpecError, match="no text encoder of CLIP's kind"):
        learn(small.model(), [Inversion("<a>", {"0": rand(2, 16)})])


def test_the_flag_makes_a_word_known_and_a_picture_with_one_is_made_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],  # noqa: F811
    words: Path,  # noqa: F811
) -> None:
    from safelight.model import load

    monkeypatch.chdir(tmp_path)
    model = load(words)
    encoder = next(m for m in model.modules() if isinstance(m, CLIPText))
    save_file({"<cat>": 3 * rand(2, encoder.spec.width)}, "a.safetensors")
    say = ("generate", "a <cat>", "--model", words, "--no-hints")
    for out, more in (("plain.png", ()), ("worn.png", ("--embedding", "a.safetensors"))):
        ran = cli(*say, *more, "--out", out)
        assert ran.code == 0 and not ran.err, ran.err
    assert not torch.equal(picture.read("plain.png")[0], picture.read("worn.png")[0])
    note = picture.note("worn.png")
    assert note is not None and note.request["words"] == [{"name": "a", "word": None, "hash": files.digest("a.safetensors")}]
    ran = cli("reproduce", "worn.png", "--model", words, "--embedding", "a.safetensors")
    assert ran.code == 0 and "identical" in ran.out, ran.err + ran.out
    ran = cli("reproduce", "worn.png", "--model", words)
    assert ran.code == 2 and "learned word 'a' is not at hand: give its file with --embedding" in ran.err
    ran = cli("generate", "a dog", "--model", words, "--no-hints", "--embedding", "a.safetensors:kitty", "--out", "b.png")
    assert ran.code == 0 and "no prompt says 'kitty'" in ran.err
    assert WordUse(name="a").word is None
