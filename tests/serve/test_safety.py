"""Policies say what they refuse and why; what they have not seen is not shown."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safelight.serve import safety
from safelight.serve.safety import NudeNet, Policy, Refused, Words, check_picture, check_words, texts
from safelight.spec import describe, kinds, parse
from tests.serve.live import events, models, serving


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("a red apple", None),
        ("a bad apple", "bad"),
        ("A BÀD apple", "bad"),
        ("bad", "bad"),
        ("badge", None),
        ("not,bad!", "bad"),
        ("very  dark\nthing", "dark thing"),
        ("dark, thing", "dark thing"),
        ("dark blue thing", None),
        ("", None),
    ],
)
def test_words_are_whole_words_in_any_dress(text: str, refused: str | None) -> None:
    found = Words(refuse=("bad", "dark thing"), reason="not here").words(text)
    assert (found.what if found else None) == refused
    if found:
        assert found.why == f"'{refused}': not here"


def test_every_text_that_says_what_is_seen_is_looked_at() -> None:
    ends = [{"prompt": "one"}, {"prompt": "two"}]
    request = {"prompt": ["three", "four"], "negative": "five", "task": {"kind": "interpolate", "ends": ends}}
    assert sorted(texts(request)) == ["four", "one", "three", "two"]
    mix = {"task": {"kind": "vary", "of": {"kind": "mix", "expression": '"six"', "captions": ["seven"]}}}
    assert texts(mix) == ['"six"', "seven"]
    with pytest.raises(Refused, match="refused by the safety policy 'words': 'two': this word is not used here"):
        check_words(Words(refuse=("two",)), request)
    check_words(Words(refuse=("five",)), request)  # what shall not be seen may be named


@pytest.mark.parametrize("kind", kinds("safety"))
def test_policies_are_specs(kind: str) -> None:
    policy = parse(kind, "safety")
    assert parse(describe(policy)) == policy
    assert isinstance(policy, Policy)


class Detector:
    """Finds what is told it in pictures that are bright; stands for nudenet's, which is an extra with weights of its own."""

    def detect(self, image: np.ndarray) -> list[dict[str, Any]]:
        assert image.shape[2] == 3
        return [{"class": "BUTTOCKS_EXPOSED", "score": float(image.mean() / 255), "box": [0, 0, 1, 1]}]


def png(light: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), light).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def nudenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", types.SimpleNamespace(NudeDetector=Detector))  # type: ignore[arg-type]
    safety._detector.cache_clear()


def test_pictures_are_refused_by_what_is_found_in_them(nudenet: None) -> None:
    check_picture(NudeNet(), png(100))
    with pytest.raises(Refused, match=r"buttocks exposed \(0\.78 of 1, from 0\.5 on\)") as caught:
        check_picture(NudeNet(), png(200))
    assert caught.value.refusal.what == "BUTTOCKS_EXPOSED"
    check_picture(NudeNet(threshold=0.9), png(200))
    check_picture(NudeNet(labels=("ANUS_EXPOSED",)), png(200))


def test_nothing_unseen_is_shown(nudenet: None, tmp_path: Path) -> None:
    """With a policy that looks at pictures, no frame leaves before the picture was looked at, and none of a refused one."""
    models(tmp_path)
    with serving(tmp_path) as server:
        free = server.run(seed=1, steps=3)
        strict = {"safety": {"kind": "nudenet", "labels": ["BUTTOCKS_EXPOSED"], "threshold": 0.0}}
        assert server.client.put("/v1/settings", json=strict).status_code == 200
        since = next(iter(events(server, 0)))[0] - 1
        for where in ("pictures/0.png", "steps/1/x0.png", "sprite/x0.webp", "export/gif", "export/html"):
            answer = server.client.get(f"/v1/runs/{free['id']}/{where}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "content_policy_violation"), where
        assert server.client.get(f"/v1/pictures/{free['pictures'][0]['seal']}.png").status_code == 403
        assert server.client.post("/v1/images/generations", json={"prompt": "bag", "model": "tiny"}).status_code == 403
        seen = []
        for event in events(server, since):
            seen.append(event)
            if event[1] == "run" and event[2]["state"] == "done" and event[2]["id"] != free["id"]:
                break
        assert all(data["frames"] == {} for _, kind, data in seen if kind == "step")
        loose = {"safety": {"kind": "nudenet", "threshold": 1.0}}
        assert server.client.put("/v1/settings", json=loose).status_code == 200
        assert server.client.get(f"/v1/runs/{free['id']}/steps/1/x0.png").status_code == 200


def test_content_credentials_need_a_certificate(tmp_path: Path) -> None:
    models(tmp_path)
    with serving(tmp_path, devices=()) as server:
        data = server.client.post("/v1/runs/import", files={"files": ("a.png", png(3), "image/png")}).json()
        if not data["runs"]:
            pytest.skip(f"nothing was imported: {data['refused']}")
        answer = server.client.get(f"{data['runs'][0]['pictures'][0]['url']}?credentials=true")
        assert answer.status_code == 422
        assert "--c2pa-cert" in answer.json()["error"]["message"]
