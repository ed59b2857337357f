"""What A1111's clients send, and what they read of the answers."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safelight.interop import infotext
from tests.serve.live import Running

TINY = {"override_settings": {"sd_model_checkpoint": "tiny"}}


def call(live: Running, where: str, body: dict[str, Any] | None = None) -> Any:
    answer = live.client.get(f"/sdapi/v1/{where}") if body is None else live.client.post(f"/sdapi/v1/{where}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def b64(array: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def opened(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))


def test_txt2img(live: Running) -> None:
    asked = {
        "prompt": "bag",
        "negative_prompt": "shoe",
        "seed": 7,
        "steps": 5,
        "cfg_scale": 3,
        "width": 8,
        "height": 8,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "batch_size": 2,
        "n_iter": 2,
        **TINY,
    }
    made = call(live, "txt2img", asked)
    assert [opened(one).shape for one in made["images"]] == [(8, 8)] * 4
    info = json.loads(made["info"])
    assert info["all_seeds"] == [7] * 4
    read = infotext.parse(info["infotexts"][2])
    assert (read.prompt, read.negative) == ("bag", "shoe")
    expected = {
        "Steps": "5",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "3",
        "Seed": "7",
        "Seed index": "2",
    }
    assert {name: read.settings[name] for name in expected} == expected
    assert call(live, "txt2img", asked)["images"] == made["images"]


def test_a_seed_of_minus_one_is_random_and_told(live: Running) -> None:
    made = [call(live, "txt2img", {"prompt": "bag", "steps": 2, "seed": -1, **TINY}) for _ in range(2)]
    seeds = [json.loads(one["info"])["seed"] for one in made]
    assert seeds[0] != seeds[1]
    again = call(live, "txt2img", {"prompt": "bag", "steps": 2, "seed": seeds[0], **TINY})
    assert again["images"] == made[0]["images"]


def test_a_subseed_varies(live: Running) -> None:
    asked = {"prompt": "bag", "steps": 3, "seed": 1, "subseed": 2, **TINY}
    plain, none, some, all_ = (
        opened(call(live, "txt2img", {**asked, **more})["images"][0])
        for more in ({}, {"subseed_strength": 0}, {"subseed_strength": 0.5}, {"subseed_strength": 1})
    )
    other = opened(call(live, "txt2img", {**asked, "seed": 2})["images"][0])
    assert (plain == none).all()
    assert (plain != some).any()
    assert (all_ == other).all()


@pytest.mark.parametrize("invert", [0, 1])
def test_img2img_paints_where_the_mask_is_white(invert: int, live: Running) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    body = {
        "init_images": ["data:image/png;base64," + b64(picture)],
        "mask": b64(mask),
        "mask_blur": 0,
        "inpainting_mask_invert": invert,
    }
    body |= {"prompt": "bag", "denoising_strength": 1.0, "inpaint_full_res": False, "seed": 3, **TINY}
    after = opened(call(live, "img2img", body)["images"][0])
    kept, painted = (slice(4, 8), slice(0, 4)) if invert else (slice(0, 4), slice(4, 8))
    assert (after[:, kept] == picture[:, kept]).all()
    assert (after[:, painted] != picture[:, painted]).mean() > 0.5


def test_img2img_without_strength_returns_the_picture(live: Running) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    made = call(
        live,
        "img2img",
        {"init_images": [b64(picture)], "prompt": "bag", "denoising_strength": 0, "width": 8, "height": 8, **TINY},
    )
    assert (opened(made["images"][0]) == picture).all()


def test_progress_and_interrupt_touch_this_api_alone(live: Running) -> None:
    other = live.ask(steps=400, size=[64, 64])
    while live.client.get(f"/v1/runs/{other['id']}").json()["state"] != "running":
        time.sleep(0.02)
    call(live, "interrupt", {})
    answers: list[Any] = []
    asked = {"prompt": "bag", "steps": 900, "width": 64, "height": 64, **TINY}
    thread = threading.Thread(target=lambda: answers.append(live.client.post("/sdapi/v1/txt2img", json=asked)))
    thread.start()
    live.client.post(f"/v1/runs/{other['id']}/cancel")
    assert live.over(other["id"])["steps_done"] > 0
    until = time.monotonic() + 30
    while (now := call(live, "progress"))["progress"] == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert 0 < now["progress"] < 1
    assert now["state"]["sampling_steps"] == 900
    assert opened(now["current_image"]).shape[0] >= 8
    call(live, "interrupt", {})
    thread.join(30)
    assert answers[0].status_code == 200
    assert answers[0].json()["images"] == []
    assert call(live, "progress")["state"]["job_count"] == 0


def test_png_info_reads_what_was_written(live: Running) -> None:
    made = call(live, "txt2img", {"prompt": "bag", "steps": 2, "seed": 5, **TINY})
    found = call(live, "png-info", {"image": made["images"][0]})
    assert found["info"] == json.loads(made["info"])["infotexts"][0]
    assert found["parameters"]["Seed"] == "5"
    assert "safelight" in found["items"]


def test_options_choose_the_model(live: Running) -> None:
    titles = {one["model_name"]: one["title"] for one in call(live, "sd-models")}
    assert {"tiny", "words"} <= set(titles)
    before = call(live, "options")["sd_model_checkpoint"]
    live.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": titles["tiny"], "CLIP_stop_at_last_layers": 2})
    assert call(live, "options")["sd_model_checkpoint"] == titles["tiny"]
    made = call(live, "txt2img", {"prompt": "bag", "steps": 2})
    assert json.loads(made["info"])["sd_model_name"] == "tiny"
    live.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": before})


@pytest.mark.parametrize(
    "where",
    [
        "samplers",
        "schedulers",
        "sd-vae",
        "upscalers",
        "embeddings",
        "loras",
        "hypernetworks",
        "memory",
        "cmd-flags",
        "scripts",
        "prompt-styles",
    ],
)
def test_lists_are_there(where: str, live: Running) -> None:
    found = call(live, where)
    if where == "samplers":
        assert {"Euler a", "DPM++ 2M"} <= {one["name"] for one in found}
    if where == "memory":
        assert found["ram"]["total"] > found["ram"]["used"] > 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"sampler_name": "Magic"}, "no sampler 'Magic'"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"steps": 0}, "steps"),
        ({"override_settings": {"sd_model_checkpoint": "v1-5.safetensors [abc]"}}, "no model 'v1-5'"),
    ],
)
def test_what_is_not_here_is_refused_by_name(body: dict[str, Any], says: str, live: Running) -> None:
    answer = live.client.post("/sdapi/v1/txt2img", json={"prompt": "bag", **TINY, **body})
    assert answer.status_code in (404, 422)
    assert says in answer.json()["error"]["message"]
