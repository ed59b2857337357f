"""Words: what a sum is near to is found without standing in anyone's way, and what the tokenizer knows of a prompt is said."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from safelight.data.scenes.seek import Found
from safelight.task import mix as mixing
from tests.serve.live import Running
from tests.serve.test_api import json_of


def findings(live: Running, kind: str, **body: Any) -> list[dict[str, Any]]:
    found = json_of(live, "/v1/lint", {"model": "words", **body})["findings"]
    return [one for one in found if one["kind"] == kind]


# ---- what is near


def test_the_nearest_word_of_a_word_is_itself(live: Running) -> None:
    for expression in ('"umbrella"', '0.5 * "umbrella"', '"umbrella" + "star" - "star"'):
        near = json_of(live, "/v1/mix", {"expression": expression, "model": "words", "k": 3})["words"]
        assert near[0]["what"] == "umbrella" and near[0]["cosine"] == pytest.approx(1, abs=1e-4) and len(near) == 3
        assert near[0]["cosine"] >= near[1]["cosine"] >= near[2]["cosine"]


def test_a_word_in_a_words_place_is_compared_as_one(live: Running) -> None:
    """The sum is the state of "star" read alone, but for its length."""
    asked = {"expression": '"a red cat"[red] - "a red cat"[red] + "a cat"[cat] - "a cat"[cat] + "star"', "model": "words"}
    json_of(live, "/v1/mix", {**asked, "expression": '"a red cat"[reed]'}, status=422)
    near = json_of(live, "/v1/mix", {**asked, "expression": '0.000001 * "a cat"[cat] + "star"', "lengths": False})["words"]
    assert near[0]["what"] == "star" and near[0]["cosine"] == pytest.approx(1, abs=1e-3)


class _Scenes(NamedTuple):
    """What a model of scenes says of them, as far as a search looks."""

    vocabulary: Any


class _Pack:
    def pack(self) -> None:
        return None


class Endless:
    """A search in place of the real one, that goes on for as long as it may."""

    def __init__(self) -> None:
        self.began, self.ended, self.read = threading.Event(), threading.Event(), 0

    def __call__(self, pack: Any, score: Callable[[list[str]], torch.Tensor], k: int, beam: int) -> list[Any]:
        self.began.set()
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                score([f"caption {self.read} of {id(self)}"])
                self.read += 1
                time.sleep(0.01)
            return []
        finally:
            self.ended.set()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    search = Endless()
    monkeypatch.setattr(mixing, "scenes", lambda model: _Scenes(_Pack()))
    monkeypatch.setattr(mixing, "seek", search)
    return search


def asking(live: Running) -> socket.socket:
    """A client that has asked for captions, and hangs up when it is closed."""
    body = json.dumps({"expression": '"bag" + "shoe"', "model": "words"})
    url = live.client.base_url
    line = socket.create_connection((url.host, url.port or 80))
    head = f"POST /v1/mix HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    line.sendall((head + body).encode())
    return line


def others_are_answered(live: Running) -> None:
    sum_ = {"expression": '"bag" + "shoe"', "model": "words", "captions": False}
    assert live.client.get("/healthz").status_code == 200
    assert json_of(live, "/v1/mix", sum_)["words"]
    assert json_of(live, "/v1/embed", {"texts": ["a cat"], "model": "words"})["vectors"]
    assert json_of(live, "/v1/tokenize", {"prompt": "a cat", "model": "words"})["tokens"]


def test_a_search_ends_when_nobody_waits_and_blocks_nobody(live: Running, endless: Endless) -> None:
    """While a client's search goes on, others are answered and a second search waits; the first client leaves, and it has its turn."""
    first = asking(live)
    assert endless.began.wait(60)
    others_are_answered(live)
    assert not endless.ended.is_set()
    first.close()
    assert endless.ended.wait(60), "the search goes on without anyone to tell"
    endless.began.clear()
    endless.ended.clear()
    second = asking(live)
    assert endless.began.wait(60), "the next search never had its turn"
    second.close()
    assert endless.ended.wait(60)


def test_many_searches_wait_without_holding_threads(live: Running, endless: Endless) -> None:
    """Sixty clients, more than the server has threads, ask for captions at once: in between everyone else is answered. All leave."""
    clients = [asking(live) for _ in range(60)]
    assert endless.began.wait(60)
    others_are_answered(live)
    for client in clients:
        client.close()
    assert endless.ended.wait(60)
    endless.began.clear()
    last = asking(live)
    assert endless.began.wait(60), "clients that left still hold the search"
    last.close()


def test_neighbouring_sums_read_only_what_is_new(live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a second search among the same captions nothing is embedded but the sum's own texts."""
    from safelight.text.clip import CLIPText

    read: list[str] = []
    vectors = CLIPText.vectors

    def counted(self: CLIPText, prompts: Any, batch: int = 256) -> torch.Tensor:
        read.extend(prompts)
        return vectors(self, prompts, batch)

    monkeypatch.setattr(CLIPText, "vectors", counted)
    monkeypatch.setattr(mixing, "scenes", lambda model: _Scenes(_Pack()))
    captions = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("cat", "dog", "star")]

    def sought(pack: Any, score: Callable[[list[str]], torch.Tensor], k: int, beam: int) -> list[Found]:
        return [Found(c, s) for c, s in zip(captions, score(captions).tolist(), strict=True)]

    monkeypatch.setattr(mixing, "seek", sought)
    first = json_of(live, "/v1/mix", {"expression": '"a red cat" + "a dog"', "model": "words"})
    assert {n["what"] for n in first["captions"]} == set(captions) <= set(read)
    read.clear()
    json_of(live, "/v1/mix", {"expression": '"a red cat" - "a dog"', "model": "words"})
    assert not read


# ---- concepts


def test_a_concept_keeps_its_lengths(live: Running) -> None:
    json_of(live, "/v1/concepts/loose", {"expression": '"bag" + "shoe"', "lengths": False}, "PUT")
    run = live.ask("words", prompt="<loose>", steps=1)
    assert run["request"]["task"]["lengths"] is False
    direct = live.ask("words", prompt="", steps=1, task={"kind": "mix", "expression": '"bag" + "shoe"', "lengths": False})
    seals = [live.over(one["id"])["pictures"][0]["seal"] for one in (run, direct)]
    assert seals[0] == seals[1]
    json_of(live, "/v1/concepts/loose", method="DELETE", status=204)


# ---- prompts


def test_text_beyond_the_first_window_is_told_with_where_to_end(live: Running) -> None:
    prompt = ", ".join(
        f"a red apple {n}" for n in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
    (found,) = findings(live, "tokens", prompt=prompt)
    kept = found["fix"]["prompt"]
    assert prompt.startswith(kept) and not kept.endswith((",", " ")) and found["end"] == len(prompt)
    assert json_of(live, "/v1/tokenize", {"prompt": kept, "model": "words"})["windows"] == 1
    assert json_of(live, "/v1/tokenize", {"prompt": prompt[: found["start"] + 2], "model": "words"})["windows"] == 2
    assert "a window has room for 30" in found["reason"] and kept[-8:] in found["message"]
    assert not findings(live, "tokens", prompt=kept)
    (other,) = findings(live, "tokens", prompt="a cat", negative=prompt)
    assert other["field"] == "negative" and other["fix"]["negative"] == kept
    (cut,) = findings(live, "tokens", prompt=f"({prompt}:1.2)")
    assert cut["fix"] is None  # it would leave half a pair of brackets


def test_words_that_fall_apart_are_told(live: Running) -> None:
    (found,) = findings(live, "pieces", prompt="an umbrellaphantosaur, a cat and an umbrellaphantosaur")
    assert (found["start"], found["end"], found["fix"]) == (3, 21, None) and "'umbrellaphantosaur' falls into" in found[
        "reason"
    ]
    assert not findings(live, "pieces", prompt="a red umbrella and <umbrellaphantosaur-style>")


def test_a_weight_from_1_6_on_is_told(live: Running) -> None:
    (found,) = findings(live, "weight", prompt="a (cat:1.7)")
    assert found["fix"]["prompt"] == "a (cat:1.6)" and not findings(live, "weight", prompt="a (cat:1.6)")


# ---- several runs


def test_an_axis_that_is_there_twice_is_named(live: Running) -> None:
    axes = [{"path": p, "values": [1, 2]} for p in ("seed", "steps", "steps")]
    said = json_of(live, "/v1/grids?dry=1", {"model": "words", "request": {"prompt": "bag"}, "axes": axes}, status=422)
    assert "'steps' is there twice" in said["error"]["message"]


def test_joint_models_are_read_from_their_file_once(live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from safelight.text import joint

    times = list[str]()
    load = joint.load

    def loaded(path: Any, **rest: Any) -> joint.Joint:
        times.append(str(path))
        return load(path, **rest)

    monkeypatch.setattr(joint, "load", loaded)
    for text in ("a cat", "a dog"):
        json_of(live, "/v1/embed", {"texts": [text], "joint": "sprites-clip", "model": "words"})
        json_of(live, "/v1/mix", {"expression": f'"{text}"', "joint": "sprites-clip", "captions": False, "model": "words"})
    assert len(times) <= 1
