"""Scenes as a source: endless and as a set, the same pictures and captions, and what a run needs of them."""

from __future__ import annotations

import pytest
import torch

from safelight.data import DataError, Stream, load
from safelight.data.composed import REDUCED, ScenesSource, SceneStream, Vocabulary
from safelight.data.scenes.small import SMALL
from safelight.data.scenes.splits import Split
from safelight.spec import SpecError, describe, parse
from safelight.text.clip import CLIPTextSpec

FEW = Vocabulary(concepts=("cat", "banana", "star", "umbrella"), styles=("noto", "flat"))


@pytest.fixture(scope="module")
def stream() -> SceneStream:
    return ScenesSource(vocabulary=FEW, seed=5).stream(torch.device("cpu"))


def test_picture_k_does_not_depend_on_how_it_is_asked_for(stream: SceneStream) -> None:
    """One at a time, in batches, out of order, or as a set: picture k and its caption are the same."""
    together = stream.batch(torch.arange(64, 96))
    alone = torch.cat([stream.batch(torch.tensor([k])) for k in range(64, 96)])
    assert torch.equal(together, alone)
    assert stream.said(torch.arange(64, 96)) == [stream.said(torch.tensor([k]))[0] for k in range(64, 96)]
    kept = stream.first(96)
    assert torch.equal(kept.batch(torch.arange(64, 96)), together)
    assert list(kept.captions[64:]) == stream.said(torch.arange(64, 96))


def test_the_order_never_repeats_a_picture(stream: SceneStream) -> None:
    order = stream.order(seed=3)
    numbers = torch.cat([order.batch(step, 24) for step in range(5)])
    assert torch.equal(numbers, torch.arange(120))
    assert stream.ids[119] == "scene-text-5-119"
    assert torch.equal(stream.actual(numbers), numbers)


def test_captions_are_read_as_the_tokenizer_reads_them(stream: SceneStream) -> None:
    """The table of phrases gives, row by row, what tokenising the captions gives."""
    text = CLIPTextSpec(width=8, layers=1, heads=1).build()
    numbers = torch.arange(300, 428)
    assert torch.equal(stream.reader(text)(numbers), text.tokenize(stream.said(numbers)))


def test_captions_too_long_for_the_model_are_refused(stream: SceneStream) -> None:
    with pytest.raises(DataError, match=r"captions have up to \d+ tokens, the model's text reads 6: widen model.text.length"):
        stream.reader(CLIPTextSpec(width=8, layers=1, heads=1, length=6).build())


def test_what_the_fingerprint_sees() -> None:
    def seal(**fields: object) -> str:
        return ScenesSource(**({"vocabulary": FEW} | fields)).stream(torch.device("cpu")).fingerprint  # type: ignore[arg-type]

    assert seal() == seal()
    assert (
        len(
            {
                seal(),
                seal(seed=1),
                seal(split=Split.ALL),
                seal(vocabulary=Vocabulary(concepts=("cat",))),
                seal(mix=(1, 0, 0, 0, 0, 0)),
            }
        )
        == 5
    )


def test_the_reduced_vocabulary() -> None:
    pack = REDUCED.pack()
    assert len(SMALL) == len(set(SMALL)) == 48 == len(pack.nouns)
    assert len(pack.sprites) == 192


def test_a_source_round_trips() -> None:
    source = ScenesSource(vocabulary=REDUCED, split=Split.HELD, seed=9, count=12)
    assert parse(describe(source), "source") == source


def test_held_out_scenes_are_a_set_of_those_that_can_be_drawn() -> None:
    held = load(ScenesSource(vocabulary=REDUCED, split=Split.HELD, seed=1, count=64))
    assert 0 < held.n <= 64
    assert all(" background" in caption and " style" in caption for caption in held.captions)


def test_refusals() -> None:
    with pytest.raises(DataError, match="have no end: set data.count"):
        load(ScenesSource(vocabulary=FEW))
    with pytest.raises(SpecError, match="unknown concept 'umbrela'; did you mean 'umbrella'"):
        Vocabulary(concepts=("umbrela",)).pack()
    with pytest.raises(SpecError, match="32, 48 or 64 pixels wide"):
        ScenesSource(vocabulary=FEW, size=40).stream(torch.device("cpu"))
    assert isinstance(ScenesSource(vocabulary=FEW).stream(torch.device("cpu")), Stream)


def test_a_mix_of_its_own() -> None:
    """What a stream shows follows its mix, as a set too; one that shows nothing is refused."""
    source = ScenesSource(vocabulary=FEW, seed=5, mix=(0, 0, 0, 1, 0, 0))
    stream = source.stream(torch.device("cpu"))
    said = stream.said(torch.arange(64))
    assert all("corner" in caption for caption in said)
    assert list(load(source.model_copy(update={"count": 64})).captions) == said
    above = ScenesSource(vocabulary=FEW, mix=(0, 0, 0, 0, 0, 1), relations=(0, 0, 1, 0)).stream(torch.device("cpu"))
    scenes, captions = above.scenes(torch.arange(64)), above.said(torch.arange(64))
    assert all(
        (" above " in said or " over " in said) == (there >= 0) for said, there in zip(captions, scenes.relation, strict=True)
    )
    for field, wrong in (("mix", (0, 0, 0, 0, 0, 0)), ("mix", (1, 1, 1, 1, 1, -1)), ("relations", (0, 0, 0, 0))):
        with pytest.raises(SpecError, match=f"{field}: weights are 0 or more and not all 0"):
            parse(describe(source) | {field: wrong}, "source")
