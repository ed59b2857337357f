"""Runs: kept over restarts, found, starred, deleted and brought back; their tree, their room, and what is imported."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from safelight import picture
from safelight.serve import runs as module
from safelight.serve.folder import Folder, Missing
from safelight.serve.jobs import Jobs
from safelight.serve.runs import Ask, Prune, Run, Runs
from safelight.spec import SpecError
from tests.serve import bench


@pytest.fixture
def runs(folder: Folder) -> Runs:
    return Runs(folder)


def finished(runs: Runs, pixels: torch.Tensor | None = None, size: int = 1000, **fields: object) -> Run:
    """A run that is done, with a picture and a recording of so many bytes."""
    run = runs.add(bench.ask(), state="done")
    folder = runs.folder.run(run.id)
    folder.mkdir()
    (folder / "trace.safetensors").write_bytes(b"t" * size)
    (folder / "sprite-x0.webp").write_bytes(b"s" * 100)
    made = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8) if pixels is None else pixels
    runs.folder.keep(made)
    name = picture.write(folder / "0.png", made).name
    from safelight.assets import seal

    return runs.pictured(run.id, [(name, seal(made), 8, 8)], finished=time.time(), **fields)


def test_a_run_survives_a_restart_as_it_was(runs: Runs) -> None:
    run = runs.add(Ask(model="tiny", request=bench.ask(seed=2**80, steps=3).request, title="a title", board="b", group="g"))
    again = Runs(Folder(runs.folder.path)).get(run.id)
    assert again == run.model_copy(update={"position": again.position, "eta": again.eta})
    assert (run.seed, run.title, run.prompt, run.board, run.group, run.state) == (2**80, "a title", "shoe", "b", "g", "queued")
    assert run.request == {"prompt": ["shoe"], "seed": 2**80, "steps": 3}  # what was asked, and nothing else
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_runs_are_found_by_words_and_fields(runs: Runs) -> None:
    first = runs.add(bench.ask(prompt=["A red ÄPFEL on 100% wood"]))
    second = runs.add(bench.ask(prompt=["a blue boat"], task="text"))
    third = runs.add(Ask(model="tiny", request=bench.ask().request, kind="attention"))
    runs.change(second.id, star=True, board="boats", title="The 100 boats")

    def ids(**fields: object) -> list[str]:
        return [run.id for run in runs.find(**fields)]  # type: ignore[arg-type]

    assert ids() == [second.id, first.id] and ids(kind="attention,edit") == [third.id]
    assert ids(q="äpfel RED") == [first.id] and ids(q="100%") == [first.id] and ids(q="100_") == []
    assert ids(q="red boat") == [] and ids(q="boats") == [second.id]
    assert ids(star=True) == ids(board="boats") == [second.id] and ids(star=False) == [first.id]
    assert ids(state="queued,done") == [second.id, first.id] and ids(state="done") == []
    assert ids(model="tiny", limit=1) == [second.id] and ids(before=second.id) == [first.id]
    assert ids(q="'; DROP TABLE runs; --") == [] and len(ids()) == 2


def test_runs_are_found_by_seed_and_time_and_boards_are_counted(runs: Runs) -> None:
    made = [runs.add(bench.ask(seed=seed)) for seed in (7, 7, 2**63)]
    for run, board in zip(made, ("b", "a", "b"), strict=True):
        runs.change(run.id, board=board)
    ids = [run.id for run in made]
    assert [r.id for r in runs.find(seed=7)] == ids[1::-1] and [r.id for r in runs.find(seed=2**63)] == ids[2:]
    edge = made[1].created
    assert [r.id for r in runs.find(since=edge)] == ids[:0:-1] and [r.id for r in runs.find(until=edge)] == ids[:1]
    assert runs.boards() == {"a": 1, "b": 2} and list(runs.boards()) == ["a", "b"]
    runs.delete(ids[1])
    assert runs.boards() == {"b": 2}


def test_what_was_deleted_comes_back_for_a_while(runs: Runs) -> None:
    run, other = finished(runs), finished(runs)
    runs.change(run.id, star=True)
    runs.delete(run.id)
    assert [r.id for r in runs.find()] == [other.id]
    with pytest.raises(Missing):
        runs.get(run.id)
    assert runs.restore(run.id).star and runs.picture(run.id, 0).is_file()
    runs.delete(run.id)
    assert runs.purge() == 0 and runs.folder.run(run.id).exists()
    assert runs.purge(after=-1) == 1 and not runs.folder.run(run.id).exists()
    with pytest.raises(Missing):
        runs.restore(run.id)
    kinds = [(event.kind, event.run) for event in runs.events.since(0)]
    assert {kind for kind, id in kinds if id == run.id} == {"gone"}  # pages that were away are still told that it went
    assert ("run", other.id) in kinds


def test_a_picture_that_is_needed_outlives_the_run_that_made_it(folder: Folder) -> None:
    jobs = Jobs(folder)
    pixels = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    made = finished(jobs.runs, pixels)
    child = jobs.enqueue(bench.ask(task={"kind": "image", "picture": made.pictures[0].seal}))
    assert (child.kind, child.parent, child.relation) == ("edit", made.id, "edit")
    jobs.runs.delete(made.id)
    jobs.runs.purge(after=-1)
    assert torch.equal(folder.read(made.pictures[0].seal)[0], pixels)


def test_the_tree_joins_parents_and_children(runs: Runs) -> None:
    root = finished(runs)
    ask = bench.ask()
    left = runs.add(ask.model_copy(update={"parent": root.id, "kind": "fork"}), fork_step=3)
    right = runs.add(ask.model_copy(update={"parent": root.id, "relation": "vary"}))
    leaf = runs.add(ask.model_copy(update={"parent": left.id, "kind": "vary"}))
    finished(runs)
    for id in (root.id, leaf.id):
        nodes = runs.tree(id)
        assert [(n.id, n.parent, n.relation) for n in nodes] == [
            (root.id, None, ""),
            (left.id, root.id, "fork"),
            (right.id, root.id, "vary"),
            (leaf.id, left.id, "vary"),
        ]
        assert nodes[0].thumb == f"/v1/runs/{root.id}/pictures/0.png" and nodes[1].fork_step == 3
    with pytest.raises(Missing):
        runs.add(ask.model_copy(update={"parent": "0" * 12}))


def test_storage_says_what_lies_where(runs: Runs) -> None:
    run = finished(runs)
    runs.folder.keep(torch.zeros(3, 8, 8, dtype=torch.uint8))
    found = runs.storage()
    assert (found.runs, found.traces, found.drawn) == (1, 1000, 100)
    assert found.pictures == runs.picture(run.id, 0).stat().st_size and found.uploads > 0 and found.database > 0
    assert found.total == found.traces + found.drawn + found.pictures + found.uploads + found.database
    assert run.bytes == found.traces + found.drawn + found.pictures and found.free > 0


@pytest.mark.parametrize("whole", [False, True])
def test_prune_takes_the_oldest_and_spares_stars(runs: Runs, whole: bool) -> None:
    made = [finished(runs) for _ in range(4)]
    now = time.time()
    for k, run in enumerate(made):
        runs.folder.db.execute("UPDATE runs SET finished = ? WHERE id = ?", (now - 86400 * (10 - k), run.id))
    runs.change(made[0].id, star=True)
    waiting = runs.add(bench.ask())
    assert runs.prune(Prune(days=100, bytes=None, whole=whole)) == 0
    freed = runs.prune(Prune(days=8.5, bytes=None, whole=whole))

    def recorded() -> list[bool]:
        return [(runs.folder.run(run.id) / "trace.safetensors").exists() for run in made]

    assert freed >= 1100 and recorded() == [True, False, True, True]
    assert runs.prune(Prune(days=None, bytes=3500, whole=whole)) >= 0
    runs.prune(Prune(days=None, bytes=2300, whole=whole))
    assert recorded()[0] and recorded()[3] and not recorded()[1]
    runs.prune(Prune(days=None, bytes=0, whole=whole))
    assert recorded() == [True, False, False, False]
    left = {run.id for run in runs.find()}
    assert left == ({made[0].id, waiting.id} if whole else {waiting.id, *(run.id for run in made)})
    if not whole:  # the history stays: pictures, requests, the tree
        assert runs.picture(made[1].id, 0).is_file() and runs.get(made[1].id).bytes < 1000
        with pytest.raises(Missing, match="pruned"):
            runs.trace(made[1].id)


def test_a_folder_of_pictures_comes_in_with_what_they_say(runs: Runs, tmp_path: Path) -> None:
    there = tmp_path / "old"
    (there / "deep").mkdir(parents=True)

    def image(shade: int) -> Image.Image:
        return Image.new("RGB", (6, 4), (shade, 10, 20))

    ours = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    from safelight.assets import seal
    from safelight.picture import Ancestor, Note, Source

    parent = finished(runs)
    note = Note(
        request={"prompt": ["first", "second"], "count": 1, "seed": 5},
        model=Source(name="tiny", fingerprint="f" * 16),
        index=1,
        count=2,
        seal=seal(ours),
        lineage=(Ancestor(seal=parent.pictures[0].seal),),
    )
    picture.write(there / "ours.png", ours, note)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(
        "parameters", "a castle\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 123, Model: dream"
    )
    image(1).save(there / "a1111.png", pnginfo=chunks)
    image(2).save(there / "deep" / "plain.webp", lossless=True)
    image(3).save(there / "photo.jpg")
    image(2).save(there / "the same.png")
    (there / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (there / "notes.txt").write_text("no picture")
    (there / "link.png").symlink_to(there / "photo.jpg")

    found = runs.import_folder(there)
    assert len(found.runs) == 4 and found.known == 1
    assert len(found.refused) == 1 and found.refused[0].startswith("broken.png: ")
    made = {run.title: run for run in map(runs.get, found.runs)}
    assert {(run.kind, run.state) for run in made.values()} == {("import", "done")}
    mine = made["ours"]
    assert (mine.prompt, mine.model, mine.seed, mine.parent, mine.relation) == ("second", "tiny", 5, parent.id, "import")
    assert mine.request == note.request and picture.note(runs.picture(mine.id, 0)) == note
    assert made["a1111"].prompt == "a castle" and made["a1111"].model == "dream"
    assert made["a1111"].request == {"prompt": ["a castle"], "negative": "fog", "steps": 20, "seed": 123}
    assert made["photo"].pictures[0].width == 6 and made["photo"].pictures[0].height == 4
    assert runs.picture(made["photo"].id, 0).read_bytes() == (there / "photo.jpg").read_bytes()
    again = runs.import_folder(there)
    assert again.runs == () and again.known == 5
    with pytest.raises(SpecError, match="no folder"):
        runs.import_folder(there / "notes.txt")


def test_what_a_task_says_in_words() -> None:
    morph = {"kind": "interpolate", "ends": [{"prompt": "a cat"}, {"prompt": "a dog"}], "frames": 3}
    assert module.prompt_of(bench.ask(prompt=[""], task=morph).request) == "a cat → a dog"
    assert module.prompt_of(bench.ask(prompt=[""], task={"kind": "mix", "expression": '"a" + "b"'}).request) == '"a" + "b"'
    assert module.prompt_of(bench.ask(prompt=["a", "b", "a"]).request) == "a\nb"
