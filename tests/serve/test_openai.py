"""The official client of OpenAI's API against our server."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from safelight.picture import note
from safelight.serve.settings import Tokens
from tests.serve.live import Running, models, serving


@pytest.fixture(scope="module")
def client(live: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0)


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def png(array: np.ndarray, mode: str) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(array, mode).save(out, "PNG")
    out.name = "picture.png"
    out.seek(0)
    return out


def test_generations(client: openai.OpenAI, live: Running) -> None:
    made = client.images.generate(
        prompt="bag", model="tiny", n=2, size="8x8", response_format="b64_json", extra_body={"seed": 7, "steps": 5}
    )
    assert made.data is not None
    assert [opened(one.b64_json or "").size for one in made.data] == [(8, 8)] * 2
    assert made.size == "8x8"
    assert made.data[0].revised_prompt == "bag"
    again = client.images.generate(prompt="bag", model="tiny", n=2, extra_body={"seed": 7, "steps": 5})
    assert again.data is not None
    assert [one.b64_json for one in again.data] == [one.b64_json for one in made.data]
    run = live.client.get(f"/v1/runs/{made.model_extra['run']}").json()  # type: ignore[index]
    assert (run["seed"], run["request"]["steps"], run["record"]) == (7, 5, "preview")


def test_the_client_makes_and_edits_the_very_files_of_our_own_api(client: openai.OpenAI, live: Running) -> None:
    """Generation, and an edit by a mask: the same bytes as POST /v1/runs gives for the same request."""

    def own(**request: Any) -> bytes:
        body = {"model": "tiny", "record": "preview", "request": {"prompt": "bag", "seed": 7, "steps": 5, **request}}
        answer = live.client.post("/v1/runs?picture=0", json=body)
        assert answer.status_code == 200, answer.text
        return answer.content

    extra = {"seed": 7, "steps": 5}
    made = client.images.generate(prompt="bag", model="tiny", size="8x8", response_format="b64_json", extra_body=extra)
    assert made.data is not None
    assert base64.b64decode(made.data[0].b64_json or "") == own(size=[8, 8])
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    mask = np.full((8, 8, 4), 255, np.uint8)
    mask[2:6, :, 3] = 0
    edited = client.images.edit(image=png(picture, "L"), mask=png(mask, "RGBA"), prompt="bag", model="tiny", extra_body=extra)
    assert edited.data is not None
    brought = live.client.post(
        "/v1/pictures", content=png(picture, "L").getvalue(), headers={"content-type": "image/png"}
    ).json()
    white = np.where(mask[..., 3] == 0, 255, 0).astype(np.uint8)
    marks = live.client.post("/v1/masks", content=png(white, "L").getvalue(), headers={"content-type": "image/png"}).json()
    task = {"kind": "inpaint", "picture": brought["seal"], "mask": marks["seal"]}
    assert base64.b64decode(edited.data[0].b64_json or "") == own(task=task)


def test_the_client_finds_the_models(client: openai.OpenAI) -> None:
    assert {"tiny", "words"} <= {one.id for one in client.models.list()}
    one = client.models.retrieve("tiny")
    assert (one.id, one.object, one.owned_by) == ("tiny", "model", "safelight")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


@pytest.mark.parametrize(("form", "magic"), [("png", b"\x89PNG"), ("webp", b"RIFF"), ("jpeg", b"\xff\xd8\xff")])
def test_files_are_of_the_format_that_is_asked_for(form: Any, magic: bytes, client: openai.OpenAI) -> None:
    made = client.images.generate(prompt="bag", model="tiny", output_format=form, extra_body={"steps": 2})
    assert made.data is not None
    assert (made.output_format, base64.b64decode(made.data[0].b64_json or "")[: len(magic)]) == (form, magic)


def test_the_client_comes_in_with_a_token(tmp_path: Any) -> None:
    token = "a-token-for-tests-that-nobody-guesses"
    models(tmp_path)
    with serving(tmp_path, Tokens(tmp_path, (token,)), devices=()) as server:
        good, bad = (openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0) for key in (token, "sk-no"))
        assert {"tiny", "words"} <= {one.id for one in good.models.list()}
        with pytest.raises(openai.AuthenticationError, match="not valid"):
            bad.images.generate(prompt="bag", model="tiny")


def test_extra_fields_are_followed(client: openai.OpenAI, live: Running) -> None:
    extra = {"seed": 1, "steps": 3, "guidance": 4.5, "negative_prompt": "shoe"}
    made = client.images.generate(prompt="bag", model="tiny", extra_body=extra)
    request = live.client.get(f"/v1/runs/{made.model_extra['run']}").json()["request"]  # type: ignore[index]
    assert (request["seed"], request["steps"], request["negative"], request["mix"]["scale"]) == (1, 3, "shoe", 4.5)


def test_addresses_lead_to_the_pictures(client: openai.OpenAI) -> None:
    made = client.images.generate(prompt="bag", model="tiny", response_format="url", output_format="webp")
    assert made.data is not None
    found = httpx.get(made.data[0].url or "")
    assert found.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(found.content)).format == "WEBP"


@pytest.mark.parametrize("partial", [0, 1, 3])
def test_partial_images_come_while_it_is_made(partial: int, client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="bag", model="tiny", stream=True, partial_images=partial, extra_body={"seed": 2, "steps": 8}
    )
    seen = list(stream)
    assert [e.type for e in seen] == ["image_generation.partial_image"] * partial + ["image_generation.completed"]
    assert [getattr(e, "partial_image_index", None) for e in seen[:-1]] == list(range(partial))
    assert all(opened(e.b64_json).size == (8, 8) for e in seen)
    whole = client.images.generate(prompt="bag", model="tiny", extra_body={"seed": 2, "steps": 8})
    assert whole.data is not None
    assert seen[-1].b64_json == whole.data[0].b64_json
    assert seen[-1].usage.total_tokens == 0  # type: ignore[union-attr]


def test_the_transparent_part_is_painted(client: openai.OpenAI) -> None:
    """OpenAI's masks are the other way round: transparent = painted. What is opaque is kept to the byte."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    mask = np.full((8, 8, 4), 255, np.uint8)
    mask[:, 4:, 3] = 0
    made = client.images.edit(
        image=png(picture, "L"),
        mask=png(mask, "RGBA"),
        prompt="bag",
        model="tiny",
        response_format="b64_json",
        extra_body={"seed": 5},
    )
    assert made.data is not None
    after = np.asarray(opened(made.data[0].b64_json or "").convert("L"))
    assert (after[:, :4] == picture[:, :4]).all()
    assert (after[:, 4:] != picture[:, 4:]).mean() > 0.5


def test_a_picture_with_holes_needs_no_mask(client: openai.OpenAI) -> None:
    picture = np.full((8, 8, 4), 128, np.uint8)
    picture[..., 3] = 255
    picture[4:, :, 3] = 0
    made = client.images.edit(image=png(picture, "RGBA"), prompt="bag", model="tiny", extra_body={"seed": 5})
    assert made.data is not None
    after = np.asarray(opened(made.data[0].b64_json or "").convert("L"))
    assert (after[:4] == 128).all()
    assert (after[4:] != 128).mean() > 0.5


def test_a_picture_without_a_mask_is_painted_over(client: openai.OpenAI, live: Running) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    none = client.images.edit(image=png(picture, "L"), prompt="bag", model="tiny", extra_body={"strength": 0})
    assert none.data is not None
    assert (np.asarray(opened(none.data[0].b64_json or "")) == picture).all()
    stream = client.images.edit(
        image=[png(picture, "L")], prompt="bag", model="tiny", stream=True, partial_images=1, extra_body={"steps": 8}
    )
    assert [e.type for e in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_variations(client: openai.OpenAI, live: Running, tmp_path: Any) -> None:
    """Of a picture of ours its request is varied; of any other the picture is painted over."""
    run = live.run(seed=11)
    own = io.BytesIO(live.client.get(run["pictures"][0]["url"]).content)
    own.name = "own.png"
    made = client.images.create_variation(image=own, model="tiny", n=2)
    assert made.data is not None
    assert len({one.b64_json for one in made.data}) == 2
    (tmp_path / "made.png").write_bytes(base64.b64decode(made.data[0].b64_json or ""))
    told = note(tmp_path / "made.png")
    assert told is not None
    assert told.request["task"]["kind"] == "vary"
    assert (told.request["seed"], told.request["prompt"]) == (11, ["bag"])
    other = client.images.create_variation(image=png(np.arange(64, dtype=np.uint8).reshape(8, 8), "L"), model="tiny")
    assert other.data is not None
    assert len(other.data) == 1


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"prompt": "bag", "model": "gpt-image-1"}, openai.NotFoundError, "no model 'gpt-image-1'"),
        ({"prompt": "bag", "n": 99}, openai.UnprocessableEntityError, "n: "),
        ({"prompt": "bag", "size": "huge"}, openai.UnprocessableEntityError, "WIDTHxHEIGHT"),
        ({"prompt": "bag", "size": "99999x99999"}, openai.UnprocessableEntityError, "pixels"),
        ({"prompt": "bag", "background": "transparent"}, openai.UnprocessableEntityError, "opaque"),
        ({"prompt": "a hat nobody knows"}, openai.ConflictError, "hat"),
    ],
)
def test_errors_have_their_shape(
    fields: dict[str, Any], error: type[openai.APIStatusError], says: str, client: openai.OpenAI
) -> None:
    with pytest.raises(error, match=says) as caught:
        client.images.generate(**{"model": "tiny", **fields})
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


def test_a_client_that_leaves_stops_its_run(live: Running) -> None:
    body = {"prompt": "bag", "model": "tiny", "steps": 900, "n": 10, "stream": True, "partial_images": 3}
    with live.client.stream("POST", "/v1/images/generations", json=body) as answer:
        next(answer.iter_lines())
    newest = live.client.get("/v1/runs?limit=1").json()["runs"][0]
    assert live.over(newest["id"])["state"] == "stopped"
