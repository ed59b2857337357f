"""Pictures: the same bytes from memory and from disk, at any number of workers; files gone bad are replaced and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from safelight.data import Crop, DataError, Order, Pad, Stretch, detect, flip, from_unit, load, memory, to_unit
from safelight.data.decode import as_channels
from tests.data.formats import pictures, png, put

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fashion-1000"


def test_fixture_in_memory_is_the_file():
    p = load(str(FIXTURE))
    raw = detect(FIXTURE).open().array()
    assert (p.n, p.shape, p.in_memory) == (1000, (1, 28, 28), True)
    which = torch.tensor([5, 999, 0, 5])
    assert np.array_equal(p.batch(which).numpy()[:, 0], raw[which.numpy(), :, :, 0])


@pytest.mark.parametrize("fit", [Crop(), Pad(), Stretch()])
def test_batches_do_not_depend_on_workers_or_memory(tmp_path, fit):
    put(tmp_path, pictures(24))
    kept = load(str(tmp_path), channels=3, size=(8, 6), fit=fit, memory="always")
    order = Order(24, 1)
    want = [kept.batch(order.batch(step, 7)) for step in range(8)]
    direct = [fit(e.image, (8, 6)) for e in sorted(pictures(24), key=lambda e: e.id)]
    assert np.array_equal(kept.batch(torch.arange(24)).numpy(), np.stack(direct).transpose(0, 3, 1, 2))
    for workers in (0, 1, 2):
        streamed = load(str(tmp_path), channels=3, size=(8, 6), fit=fit, memory="never", workers=workers)
        assert not streamed.in_memory and streamed.fingerprint == kept.fingerprint
        for step in range(8):
            now = order.batch(step, 7)
            streamed.prefetch(order.batch(step + 1, 7))
            assert torch.equal(streamed.batch(now), want[step]), (workers, step)
        again = load(str(tmp_path), channels=3, size=(8, 6), fit=fit, memory="always", workers=workers)
        assert torch.equal(again.batch(torch.arange(24)), kept.batch(torch.arange(24)))


def test_broken_files_are_quarantined_when_loading(tmp_path):
    put(tmp_path, pictures(12, size=(8, 8)))
    file = tmp_path / "dog" / "0004.png"
    file.write_bytes(file.read_bytes()[:120])
    (tmp_path / "cat" / "0000.png").write_bytes(b"")
    kept = load(str(tmp_path), channels=3, size=8)
    assert kept.n == 10
    assert sorted(s.path for s in kept.quarantined) == ["cat/0000.png", "dog/0004.png"]
    assert all(s.reason for s in kept.quarantined)
    (tmp_path / "metadata.json1").write_text("")
    summary = load(str(tmp_path), channels=3, size=8).summary()
    assert summary.startswith("10 pictures 3x8x8 in memory, 3 different captions; 3 left out (metadata.json1: ")
    assert summary.endswith("did you mean metadata.jsonl?)")
    (tmp_path / "metadata.json1").unlink()
    # From disk, the header shows the empty file; the truncated one is met in its batch.
    streamed = load(str(tmp_path), channels=3, size=8, memory="never", workers=2)
    assert streamed.n == 11 and [s.path for s in streamed.quarantined] == ["cat/0000.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_goes_bad_is_replaced_counted_and_told(tmp_path, workers):
    put(tmp_path, pictures(12, size=(8, 8)))
    p = load(str(tmp_path), channels=3, size=8, memory="never", workers=workers)
    everything = torch.arange(12)
    before = p.batch(everything)
    for name in ("dog/0004", "dog/0007"):
        whole = (tmp_path / f"{name}.png").read_bytes()
        (tmp_path / f"{name}.png").write_bytes(whole[:100])
    bad = [p.ids.index("dog/0004"), p.ids.index("dog/0007")]
    assert bad[1] == bad[0] + 1
    p.prefetch(everything)
    after = p.batch(everything)
    good = bad[1] + 1  # the next one that can be read stands in for both
    for i in range(12):
        assert torch.equal(after[i], before[good if i in bad else i])
    taken = p.actual(everything).tolist()
    assert taken == [good if i in bad else i for i in range(12)]
    assert p.replaced == 2
    assert [s.path for s in p.quarantined] == ["dog/0004", "dog/0007"]
    p.batch(torch.tensor([bad[0]]))
    assert p.replaced == 3 and len(p.quarantined) == 2
    (tmp_path / f"{p.ids[good]}.png").unlink()  # the stand-in goes as well
    assert torch.equal(p.batch(torch.tensor([bad[0]]))[0], before[(good + 1) % 12])
    assert len(p.quarantined) == 3


def test_a_subset_replaces_from_itself(tmp_path):
    """A broken training picture must not be replaced by a held-out one."""
    put(tmp_path, pictures(6, size=(8, 8)))
    p = load(str(tmp_path), channels=3, size=8, memory="never")
    part = p.subset(torch.tensor([0, 2, 4]))
    (tmp_path / f"{part.ids[0]}.png").write_bytes(b"")
    assert torch.equal(part.batch(torch.tensor([0]))[0], p.batch(torch.tensor([2]))[0])


def test_when_nothing_is_left_it_says_so(tmp_path):
    put(tmp_path, pictures(2, size=(8, 8)))
    p = load(str(tmp_path), channels=3, size=8, memory="never")
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no picture can be read any more .*empty file"):
        p.batch(torch.tensor([0]))


def test_repeats_are_visits_but_not_copies(tmp_path):
    (tmp_path / "3_a").mkdir()
    (tmp_path / "1_b").mkdir()
    a, b = pictures(2, size=(4, 4))
    (tmp_path / "3_a" / "x.png").write_bytes(png(a.image))
    (tmp_path / "1_b" / "y.png").write_bytes(png(b.image))
    for how in ("always", "never"):
        p = load(str(tmp_path), channels=3, size=4, memory=how)
        assert p.captions == ["b", "a", "a", "a"]
        got = p.batch(torch.arange(4)).numpy().transpose(0, 2, 3, 1)
        assert np.array_equal(got, np.stack([b.image, a.image, a.image, a.image]))


def test_channels_and_sizes_are_never_guessed_when_they_differ():
    grey = pictures(1, channels=1, size=(8, 8))[0].image
    rgb = pictures(2, size=(8, 8))[1].image
    with pytest.raises(DataError, match="some pictures are grey and some are not"):
        load(memory([grey, rgb]))
    with pytest.raises(DataError, match=r"differ in size \(8x8, but 00001 is 6x8\)"):
        load(memory([rgb, rgb[:, :6]]))
    with pytest.raises(DataError, match="stay on disk need `size` and `channels`"):
        load(memory([rgb, rgb]), memory="never")
    p = load(memory([grey, rgb]), channels=3)
    assert np.array_equal(p.batch(torch.tensor([0]))[0].numpy().transpose(1, 2, 0), as_channels(grey, 3))


def test_fitting():
    image = pictures(1, size=(4, 8))[0].image
    assert np.array_equal(Crop()(image, (4, 4)), image[:, 2:6])
    assert np.array_equal(Crop(filter="nearest")(image, (8, 8)), np.kron(image, np.ones((2, 2, 1), np.uint8))[:, 4:12])
    padded = Pad(fill=7)(image, (8, 8))
    assert np.array_equal(padded[2:6], image)
    assert (padded[:2] == 7).all() and (padded[6:] == 7).all()
    bordered = Pad(fill=0, enlarge=False)(image, (32, 32))
    assert np.array_equal(bordered[14:18, 12:20], image) and bordered.sum() == image.sum()
    flat = np.full((5, 9, 1), 93, np.uint8)
    for fit in (Crop(), Stretch(), Pad(fill=93)):
        assert (fit(flat, (7, 3)) == 93).all() and fit(flat, (7, 3)).shape == (7, 3, 1)


def test_unit_range_round_trips_every_byte():
    every = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(every)
    assert unit[0] == -1 and unit[255] == 1 and torch.equal(unit, every.float() / 127.5 - 1)
    assert torch.equal(from_unit(unit), every)
    assert from_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_flip_is_by_mask():
    x = torch.arange(2 * 3 * 2 * 4, dtype=torch.uint8).view(2, 3, 2, 4)
    got = flip(x, torch.tensor([True, False]))
    assert torch.equal(got[0], x[0].flip(-1)) and torch.equal(got[1], x[1])
    assert torch.equal(flip(got, torch.tensor([True, False])), x)
