"""Which models stay: the budget, the number, the order, and that what leaves is gone."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import torch

from safelight import model as files
from safelight.engine.shelf import Shelf, size_of
from safelight.generate import Request, generate
from safelight.model import Model
from tests import small

CPU = torch.device("cpu")


class Thing:
    """Something that can be weakly referred to."""


def put(shelf: Shelf[Thing], name: str, size: int, stamp: int = 0) -> Thing:
    return shelf.get(name, stamp, lambda: size, lambda: (Thing(), size))


def test_the_one_used_longest_ago_leaves_first() -> None:
    shelf: Shelf[Thing] = Shelf(CPU, 100)
    a = put(shelf, "a", 40)
    put(shelf, "b", 40)
    assert put(shelf, "a", 40) is a
    put(shelf, "c", 40)
    assert shelf.sizes() == {"a": 40, "c": 40}
    assert shelf.made == 3
    put(shelf, "huge", 500)  # a single one may be larger than the budget
    assert shelf.sizes() == {"huge": 500}


def test_a_number_is_kept_as_well_as_a_budget() -> None:
    shelf: Shelf[Thing] = Shelf(CPU, 1000, most=2)
    for name in "abcab":
        put(shelf, name, 1)
        assert len(shelf.sizes()) <= 2
    assert list(shelf.sizes()) == ["a", "b"]
    assert shelf.made == 5


def test_of_another_stamp_it_is_made_anew_and_the_old_one_is_gone() -> None:
    shelf: Shelf[Thing] = Shelf(CPU, 100)
    old = weakref.ref(put(shelf, "a", 60, stamp=1))
    new = put(shelf, "a", 60, stamp=2)
    assert old() is None
    assert put(shelf, "a", 60, stamp=2) is new
    shelf.drop(lambda name: name == "a")
    assert shelf.sizes() == {}


def test_a_thing_that_many_ask_for_is_made_once() -> None:
    shelf: Shelf[Thing] = Shelf(CPU, 100)
    gate, found = threading.Event(), []

    def make() -> tuple[Thing, int]:
        gate.wait(5)
        return Thing(), 1

    threads = [threading.Thread(target=lambda: found.append(shelf.get("a", 0, lambda: 1, make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert shelf.made == 1
    assert len({id(thing) for thing in found}) == 1


def test_no_evicted_model_lives_on_and_memory_does_not_grow(tmp_path: Path) -> None:
    """Three models on a shelf for one, each loaded, run and evicted in turn."""
    for k in range(3):
        files.save(tmp_path / f"{k}.safetensors", small.model(seed=k))
    shelf: Shelf[Model] = Shelf(CPU, most=1)
    gone: list[weakref.ref[Model]] = []

    def read(path: Path) -> tuple[Model, int]:
        model = files.load(path)
        gone.append(weakref.ref(model))
        return model, size_of(model)

    gc.collect()
    gc.disable()
    try:
        for turn in range(12):
            path = tmp_path / f"{turn % 3}.safetensors"
            model = shelf.get(path.stem, 0, lambda: 1, lambda path=path: read(path))
            for _ in generate(model, Request(prompt=("shoe",), steps=2)):
                pass
            del model
            assert sum(ref() is not None for ref in gone) == 1
    finally:
        gc.enable()
    assert shelf.made == 12
