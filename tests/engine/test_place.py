"""Parts that leave memory: the same pictures, less of it, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safelight import device as devices
from safelight import model as files
from safelight import reproduce
from safelight.engine import place as places
from safelight.engine.place import decode, memory_of, place
from safelight.generate import Finished, Request, generate
from safelight.model import Model
from safelight.picture import facts, notes
from tests import small

CPU = torch.device("cpu")
REQUEST = Request(prompt=("shoe", "bag"), steps=3, seed=4)


def pictures(model: Model, request: Request = REQUEST) -> torch.Tensor:
    return torch.cat([event.pictures for event in generate(model, request) if isinstance(event, Finished)])


def test_low_makes_the_same_pictures_and_says_so_in_the_note(tmp_path: Path) -> None:
    files.save(tmp_path / "m.safetensors", small.listening())
    model = files.load(tmp_path / "m.safetensors")
    before = pictures(model)
    assert "memory" not in facts(model)["engine"]
    placed = place(model, "low")
    assert torch.equal(pictures(model), before)
    assert facts(model)["engine"]["memory"] == "low" == memory_of(model)
    placed.end()
    assert memory_of(model) == "full"
    assert torch.equal(pictures(model), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_picture_made_low_is_made_again_low(tmp_path: Path) -> None:
    files.save(tmp_path / "m.safetensors", small.listening())
    model = files.load(tmp_path / "m.safetensors")
    place(model, "low")
    asked = REQUEST.resolve(model)
    made = torch.zeros(1, 8, 8, dtype=torch.uint8)
    note = notes(model, asked, [made, made])[0]
    again = reproduce.prepared(files.load(tmp_path / "m.safetensors"), note)
    assert memory_of(again) == "low"


def test_parts_that_wait_are_there_when_they_are_called_and_are_nothing_else() -> None:
    """What an accelerator does, done from the CPU to the CPU."""
    model = small.listening()
    before = pictures(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.text is not None
    placed = place(model)
    placed.memory = "low"
    placed._ways["text"] = way = places._Waiting(model.text, CPU)
    for module in model.text.modules():
        placed._hooks.append(module.register_forward_pre_hook(places._entering(placed, "text")))
    for module in model.denoiser.modules():
        placed._hooks.append(module.register_forward_pre_hook(places._entering(placed, "denoiser")))
    way.leave()
    words = model.text.embedding.weight
    assert words.untyped_storage().nbytes() == words.element_size()
    assert bool(words.isnan().all())
    assert torch.equal(pictures(model), before)
    assert bool(words.isnan().all())  # it left again, when the denoiser began
    placed.end()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux")
def test_the_pages_of_a_part_that_has_worked_are_given_back(tmp_path: Path) -> None:
    def resident() -> int:
        devices.given_back(CPU)
        return devices.memory(CPU).used

    path = tmp_path / "rows.bin"
    path.write_bytes(os.urandom(40_000_000))
    rows = torch.from_file(str(path), shared=False, size=10_000_000, dtype=torch.int32)
    loose = torch.nn.Parameter(torch.ones(10_000_000))
    start = resident()
    total = rows.sum()
    there = resident()
    assert there - start > 36_000_000
    devices.page_out([rows])
    assert resident() - start < 4_000_000
    assert rows.sum() == total
    devices.spill([loose])
    devices.page_out([rows, loose])
    assert resident() - start < -32_000_000
    assert float(loose.detach().sum()) == 10_000_000


def test_what_was_written_to_is_not_lost_with_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(bytes(400_000))
    rows = torch.from_file(str(path), shared=False, size=100_000, dtype=torch.int32)
    rows.fill_(7)
    devices.page_out([rows])
    assert int(rows.sum()) == 700_000


def test_large_latents_are_decoded_in_tiles_only_when_memory_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    from safelight.codec.kl import KLSpec

    model = small.model(labelled=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.codec = KLSpec(pictures=1, latents=2, widths=(4, 8), blocks=1, patch=2).build().eval()
    sizes: list[tuple[int, ...]] = []
    whole = model.codec.decode
    monkeypatch.setattr(model.codec, "decode", lambda z: sizes.append(tuple(z.shape)) or whole(z))
    z = torch.randn(2, 2, 150, 40)
    with torch.inference_mode():
        plain = decode(model, z)
        place(model, "low")
        tiled = decode(model, z)
    assert sizes[0] == (2, 2, 150, 40)
    assert all(shape[0] == 1 and shape[2] <= max(places.TILE, 2 * 40) for shape in sizes[1:])
    assert len(sizes) > 3
    assert float((tiled - plain).abs().max()) < 1e-5  # the codec's reach is bounded, so tiles are exact but for rounding


def test_dropped_models_are_gone_at_once(tmp_path: Path) -> None:
    import gc
    import weakref

    files.save(tmp_path / "m.safetensors", small.listening())
    gc.collect()
    gc.disable()
    try:
        model = files.load(tmp_path / "m.safetensors")
        place(model, "low")
        pictures(model)
        gone = weakref.ref(model)
        del model
        assert gone() is None  # without a look for cycles
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_run_without_memory_names_the_three_cheapest_switches(tmp_path: Path) -> None:
    """In a process that may take 3 GB of addresses: torch's allocator fails, and one line says what would help."""
    from benchmarks.plan import CASES, ModelSpec, parse

    spec = parse(CASES[0].model, "model")
    assert isinstance(spec, ModelSpec)
    files.save(tmp_path / "m.safetensors", spec.build())
    code = (
        "import resource, sys; from safelight.cli.main import main; import torch; torch.set_num_threads(1);"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        f"sys.exit(main({['generate', 'a cat', '--model', str(tmp_path / 'm.safetensors'), '--device', 'cpu', '--memory', 'full']!r}"
        f" + {['--count', '24', '--size', '512x512', '--steps', '1', '--out', str(tmp_path / 'out')]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200
    )
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2
    assert line.startswith("safelight: generate: there is not enough memory: this takes about ")
    assert [word for word in ("--micro-batch 1 saves", "--memory low saves", "--dtype bf16 saves") if word in line] == [
        "--micro-batch 1 saves",
        "--memory low saves",
        "--dtype bf16 saves",
    ]
    assert "Traceback" not in done.stderr
