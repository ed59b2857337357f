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
import webuiapi
from PIL import Image

from safelight.interop import infotext, names
from safelight.serve.settings import Tokens
from tests.serve.live import Running, models, serving

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
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "hr_upscaler: no upscaler 'R-ESRGAN 4x+' (there: Latent,"),
        ({"enable_hr": True, "denoising_strength": 0}, "denoising_strength: 0 leaves nothing to the second pass"),
        ({"enable_hr": True, "hr_resize_x": 90_000}, "size: 90000x90000 is not within"),
        ({"refiner_checkpoint": "v1-5"}, "no model 'v1-5'"),
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


# ---- a client that people use: webuiapi --------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
RIGHT = np.zeros((8, 8), np.uint8)
RIGHT[:, 4:] = 255
PEER = {"prompt": "bag", "seed": 11, "steps": 4, "width": 8, "height": 8, "cfg_scale": 3}


@pytest.fixture
def peer(live: Running) -> webuiapi.WebUIApi:
    """The client as its users make one."""
    host, port = live.address.removeprefix("http://").split(":")
    made = webuiapi.WebUIApi(host=host, port=int(port), sampler="Euler a", steps=4)
    made.set_options({"sd_model_checkpoint": next(t for t in made.util_get_model_names() if t.startswith("tiny."))})
    return made


def own(live: Running, number: int = 0, **request: Any) -> bytes:
    """The file that our own API makes of a request."""
    asked = {"prompt": "bag", "seed": 11, "steps": 4, "size": [8, 8], "mix": {"kind": "cfg", "scale": 3}, **request}
    answer = live.client.post(f"/v1/runs?picture={number}", json={"model": "tiny", "record": "preview", "request": asked})
    assert answer.status_code == 200, answer.text
    return answer.content


def files(made: webuiapi.WebUIApiResult) -> list[bytes]:
    return [base64.b64decode(one) for one in made.json["images"]]


# What the web UI calls Uniform, and takes where a request names no schedule.
UNIFORM = {"kind": "published", "spacing": "linspace", "between": "log"}


def seal(live: Running, array: np.ndarray, where: str = "pictures") -> str:
    data = base64.b64decode(b64(array))
    found: str = live.client.post(f"/v1/{where}", content=data, headers={"content-type": "image/png"}).json()["seal"]
    return found


def test_webuiapi_makes_the_very_files_of_our_own_api(peer: webuiapi.WebUIApi, live: Running) -> None:
    made = peer.txt2img(**PEER, negative_prompt="shoe", sampler_name="DPM++ 2M", scheduler="Karras", batch_size=2)
    same = {"negative": "shoe", "sampler": {"kind": "dpm++2m"}, "grid": names.schedule("Karras"), "count": 2}
    assert files(made) == [own(live, k, **same) for k in range(2)]
    assert [image.size for image in made.images] == [(8, 8)] * 2
    assert (made.info["seed"], made.info["sd_model_name"]) == (11, "tiny")
    assert "Negative prompt: shoe" in made.info["infotexts"][0]
    assert files(peer.txt2img(**PEER)) == [own(live, sampler="euler-ancestral", grid=names.schedule("Uniform"))]


def test_webuiapi_varies(peer: webuiapi.WebUIApi, live: Running) -> None:
    made = peer.txt2img(**PEER, subseed=5, subseed_strength=0.25)
    assert files(made) == [own(live, sampler="euler-ancestral", grid=UNIFORM, variation={"seed": 5, "strength": 0.25})]
    assert (made.info["subseed"], made.info["subseed_strength"]) == (5, 0.25)


@pytest.mark.parametrize(
    ("asked", "size", "second"),
    [
        ({"hr_upscaler": "Lanczos", "denoising_strength": 0.5}, [16, 16], {"strength": 0.5}),
        (
            {"hr_upscaler": "Latent (nearest-exact)", "hr_second_pass_steps": 2, "hr_scale": 1.5},
            [12, 12],
            {"latent": "nearest", "count": 2},
        ),
        ({"hr_upscaler": "Nearest", "hr_resize_x": 20}, [20, 20], {"fit": {"kind": "crop", "filter": "nearest"}}),
        ({"hr_resize_x": 20, "hr_resize_y": 16}, [16, 20], {"latent": "bilinear"}),
    ],
)
def test_webuiapi_makes_two_passes(
    asked: dict[str, Any], size: list[int], second: dict[str, Any], peer: webuiapi.WebUIApi, live: Running
) -> None:
    made = peer.txt2img(**PEER, enable_hr=True, **asked)
    task = {"kind": "hires", "first": [8, 8], "second": {"strength": 0.7, "steps": "exact", **second}}
    assert files(made) == [own(live, sampler="euler-ancestral", grid=names.schedule("Uniform"), size=size, task=task)]
    assert [image.size for image in made.images] == [(size[1], size[0])]


def test_a_refiner_makes_the_last_steps(live: Running) -> None:
    asked = {**PEER, "sampler_name": "Euler", "refiner_checkpoint": "tiny", "refiner_switch_at": 0.5, **TINY}
    task = {"kind": "refine", "refiner": "tiny", "switch": 0.5}
    made = call(live, "txt2img", asked)["images"]
    assert [base64.b64decode(one) for one in made] == [own(live, sampler="euler", grid=names.schedule("Uniform"), task=task)]
    for name in ("/etc/passwd", "../tiny", "nobody"):
        asked = {"model": "tiny", "request": {"prompt": "bag", "task": {**task, "refiner": name}}}
        assert live.client.post("/v1/runs", json=asked).status_code in (404, 422)


@pytest.mark.parametrize("task", [{"first": [99_999, 99_999]}, {"second": {"count": 99_999}}], ids=str)
def test_a_pass_beyond_the_limits_is_refused(task: dict[str, Any], live: Running) -> None:
    asked = {"model": "tiny", "request": {"prompt": "bag", "size": [8, 8], "task": {"kind": "hires", **task}}}
    answer = live.client.post("/v1/runs", json=asked)
    assert answer.status_code == 422 and "more than is made here" in answer.text


def test_webuiapi_churns(peer: webuiapi.WebUIApi, live: Running) -> None:
    made = peer.txt2img(**PEER, sampler_name="Euler", scheduler="Karras", s_churn=2.0, s_tmin=0.1, s_tmax=0, s_noise=1.01)
    churn = {"amount": 2.0, "s_min": 0.1, "s_noise": 1.01}
    assert files(made) == [own(live, sampler="euler", grid=names.schedule("Karras"), churn=churn)]
    with pytest.raises(RuntimeError, match="unipc.* looks back on earlier steps"):
        peer.txt2img(**PEER, sampler_name="UniPC", s_churn=2.0)


@pytest.mark.parametrize("masked", [False, True])
def test_webuiapi_edits_as_our_own_api_does(masked: bool, peer: webuiapi.WebUIApi, live: Running) -> None:
    more: dict[str, Any] = {"mask_image": Image.fromarray(RIGHT), "mask_blur": 0, "inpainting_fill": 1} if masked else {}
    made = peer.img2img(
        images=[Image.fromarray(PICTURE)],
        denoising_strength=0.5,
        inpaint_full_res=False,
        sampler_name="DDIM",
        eta=0.0,
        **PEER,
        **more,
    )
    task = {"kind": "image", "picture": seal(live, PICTURE), "strength": 0.5, "fit": "stretch"}
    if masked:
        task |= {"kind": "inpaint", "mask": seal(live, RIGHT, "masks"), "feather": 0, "fill": "original"}
    assert files(made) == [own(live, sampler={"kind": "ddim", "eta": 0.0}, grid=names.schedule("DDIM"), task=task)]
    if masked:
        assert (np.asarray(made.image.convert("L"))[:, :4] == PICTURE[:, :4]).all()


def test_webuiapi_watches_and_interrupts(peer: webuiapi.WebUIApi) -> None:
    answers: list[webuiapi.WebUIApiResult] = []
    thread = threading.Thread(target=lambda: answers.append(peer.txt2img(prompt="bag", steps=900, width=64, height=64)))
    thread.start()
    until = time.monotonic() + 60
    while (now := peer.get_progress())["progress"] == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert 0 < now["progress"] < 1 and now["state"]["sampling_steps"] == 900
    assert peer.interrupt() == {}
    thread.join(60)
    assert answers[0].images == []
    peer.util_wait_for_ready(0.05)
    assert peer.skip() == {}


def test_webuiapi_reads_what_was_written(peer: webuiapi.WebUIApi) -> None:
    made = peer.txt2img(**PEER)
    found = peer.png_info(made.image)
    assert found.info == made.info["infotexts"][0]
    assert (found.parameters["Prompt"], found.parameters["Seed"]) == ("bag", "11")


def test_webuiapi_finds_every_list_that_it_knows(peer: webuiapi.WebUIApi, live: Running) -> None:
    assert {"Euler a", "DPM++ 2M"} <= set(peer.util_get_sampler_names())
    assert "karras" in peer.util_get_scheduler_names()
    assert peer.util_get_current_model().startswith("tiny.safetensors [")
    assert peer.get_cmd_flags()["api"] is True
    assert peer.get_memory()["ram"]["total"] > 0
    assert peer.get_scripts() == {"txt2img": [], "img2img": []}
    assert {"Lanczos", "Nearest"} <= {one["name"] for one in peer.get_upscalers()}
    assert {"name": "Latent (bicubic)"} in peer.get_latent_upscale_modes()
    assert peer.get_embeddings()["skipped"] == {}
    for listed in (
        peer.get_sd_vae,
        peer.get_loras,
        peer.get_hypernetworks,
        peer.get_face_restorers,
        peer.get_realesrgan_models,
        peer.get_prompt_styles,
    ):
        assert listed() == [], listed.__name__
    assert peer.refresh_checkpoints() is None
    peer.util_set_model("WORDS")
    assert peer.util_get_current_model().startswith("words.")
    peer.util_set_model("tiny")


@pytest.mark.parametrize(("name", "filter"), [("Lanczos", Image.Resampling.LANCZOS), ("Nearest", Image.Resampling.NEAREST)])
def test_webuiapi_enlarges(name: str, filter: Image.Resampling, peer: webuiapi.WebUIApi) -> None:
    large = peer.extra_single_image(Image.fromarray(PICTURE), upscaler_1=name, upscaling_resize=3)
    expected = np.asarray(Image.fromarray(PICTURE).resize((24, 24), filter))
    assert (np.asarray(large.image.convert("L")) == expected).all()
    several = peer.extra_batch_images([Image.fromarray(PICTURE), Image.fromarray(RIGHT)], upscaler_1=name, upscaling_resize=2)
    assert [image.size for image in several.images] == [(16, 16)] * 2
    fitted = peer.extra_single_image(
        Image.fromarray(PICTURE), upscaler_1=name, resize_mode=1, upscaling_resize_w=24, upscaling_resize_h=16
    )
    assert fitted.image.size == (24, 16)
    whole = peer.extra_single_image(
        Image.fromarray(PICTURE),
        upscaler_1=name,
        resize_mode=1,
        upscaling_resize_w=24,
        upscaling_resize_h=16,
        upscaling_crop=False,
    )
    assert whole.image.size == (24, 24)
    with pytest.raises(RuntimeError, match="pixels"):
        peer.extra_single_image(Image.fromarray(PICTURE), upscaler_1=name, resize_mode=1, upscaling_resize_w=90_000)
    with pytest.raises(RuntimeError, match="upscaler_1: no upscaler"):
        peer.extra_single_image(Image.fromarray(PICTURE), upscaler_1="R-ESRGAN 4x+")
    with pytest.raises(RuntimeError, match="gfpgan_visibility: that is not here"):
        peer.extra_single_image(Image.fromarray(PICTURE), gfpgan_visibility=0.5)


def test_webuiapi_comes_in_with_a_token_as_password(tmp_path: Any) -> None:
    token = "a-token-for-tests-that-nobody-guesses"
    models(tmp_path)
    with serving(tmp_path, Tokens(tmp_path, (token,)), devices=()) as server:
        host, port = server.address.removeprefix("http://").split(":")
        let_in = webuiapi.WebUIApi(host=host, port=int(port), username="anybody", password=token)
        assert let_in.get_cmd_flags()["api_auth"] is True
        with pytest.raises(RuntimeError, match="401"):
            webuiapi.WebUIApi(host=host, port=int(port), username="anybody", password="wrong").txt2img(**PEER)
