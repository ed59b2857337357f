"""The parameters text: read as A1111 reads it, never losing a character; every name of a sampler means what the table says."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safelight.generate import Request
from safelight.interop import infotext
from safelight.interop.infotext import EXACT, Infotext, parse, to_request, write
from safelight.interop.names import SCHEDULES, schedule
from safelight.picture import Note, Source
from safelight.spec import SpecError, build, describe, kinds
from safelight.spec import parse as parsed
from tests import small

# Lines that mean something to the format, between lines that mean nothing.
LINES = st.sampled_from(
    [
        *("Negative prompt: dogs", "Steps: 20, Sampler: Euler, Seed: 1", "Negative prompt:", "", " ", '"', "a, b: c", "\\"),
        *("🐈\u200d⬛", "قطة على حصيرة", "שלום, עולם"),
    ]
)
TEXT = st.one_of(st.text(), st.lists(st.one_of(LINES, st.text(max_size=8)), max_size=5).map("\n".join))
KEY = st.from_regex(r"\A\w[\w \-/]{0,12}[\w\-/]\Z").filter(lambda name: name not in EXACT)
INFO = st.builds(Infotext, TEXT, TEXT, st.dictionaries(KEY, TEXT, max_size=5))


@settings(max_examples=400, deadline=None)
@given(INFO)
@example(Infotext("", "", {}))
@example(Infotext("a cat\nNegative prompt: dog", "Negative prompt: x", {"Steps": "20", "Sampler": "Euler", "Seed": "1"}))
@example(Infotext("Steps: 20, Sampler: Euler, Seed: 1", "", {}))
@example(Infotext("\x00\r\n\x85\u2028", "\t", {"ab": "\x00", "cd": '""', "ef": ""}))
def test_what_is_written_is_read(info: Infotext) -> None:
    """Commas, colons, quotes, newlines, emoji, right-to-left text, empty prompts, and prompts that look like the format itself."""
    text = write(info)
    assert parse(text) == info
    assert list(parse(text).settings) == list(info.settings)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_can_be_read_and_written_again(text: str) -> None:
    found = parse(text)
    if not any(name in EXACT or len(name) < 2 or name != name.strip() for name in found.settings):
        assert parse(write(found)) == found


def reading(text: str) -> tuple[str, str, str]:
    """What a person sees in A1111: everything before the negative prompt, that, and the last line."""
    *lines, last = text.strip().split("\n")
    first = next((k for k, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    return "\n".join(lines[:first]), "\n".join(lines[first:]).removeprefix("Negative prompt:").strip(), last


def test_an_ordinary_request_is_an_ordinary_text() -> None:
    info = Infotext("a cat\non a mat, (red:1.2)", "blurry", {"Steps": "20", "Sampler": "Euler", "Lora hashes": "a: 1, b: 2"})
    assert write(info) == (
        'a cat\non a mat, (red:1.2)\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Lora hashes: "a: 1, b: 2"'
    )


def test_what_the_format_cannot_hold_is_shown_sensibly() -> None:
    """The words in their places, with one space more; the exact texts in quoted fields that A1111 passes over."""
    text = write(Infotext("a cat\nNegative prompt: dog\r\n", "Negative prompt: x", {"Steps": "20"}))
    prompt, negative, last = reading(text)
    assert (prompt, negative) == ("a cat\nNegative prompt : dog\n", "Negative prompt : x")
    assert last.startswith("Steps: 20, Safelight prompt: ") and "\n" not in last
    assert parse(text).prompt == "a cat\nNegative prompt: dog\r\n"


@pytest.mark.parametrize("name", ["", "a", "a:b", "a,b", " ab", "ab ", "a\nb", EXACT[0]])
def test_names_that_the_format_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be the name of a setting"):
        write(Infotext("", "", {name: "1"}))


def test_half_a_character_is_refused() -> None:
    with pytest.raises(SpecError, match="half of a character"):
        write(Infotext("\ud800"))


GOLDEN = """masterpiece, (a cat:1.2), [old|new] hat <lora:cats:0.8>
sitting, 8k
Negative prompt: blurry,
low quality
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 965400086, Size: 12x16, Model hash: 45dee52b01, Model: v1-5, \
Denoising strength: 0.45, Clip skip: 2, ENSD: 31337, Hires upscale: 2, Hires upscaler: "4x, sharp", RNG: CPU, \
Face restoration: CodeFormer, Lora hashes: "cats: 0123abcd", Version: v1.9.3"""


def test_a_foreign_text_is_followed_as_far_as_it_can_be_and_the_rest_is_listed() -> None:
    model = small.model()
    info = parse(GOLDEN)
    assert info.prompt == "masterpiece, (a cat:1.2), [old|new] hat <lora:cats:0.8>\nsitting, 8k"
    assert info.negative == "blurry,\nlow quality"
    assert info.settings["Hires upscaler"] == "4x, sharp" and info.settings["Version"] == "v1.9.3"
    given, reports = to_request(info, model)
    assert given == {
        "prompt": ["masterpiece, (a cat:1.2), [old|new] hat \nsitting, 8k"],
        "negative": "blurry,\nlow quality",
        "steps": 28,
        "sampler": {"kind": "dpm++2m"},
        "grid": {"kind": "karras"},
        "mix": {"kind": "cfg", "scale": 7.5},
        "seed": 965400086,
        "size": [16, 12],
        "emphasis": "a1111",
    }
    parsed(given, "request")
    told = {line.split(":")[0] for line in reports}
    assert told == {
        "prompt", "Seed", "Clip skip", "Model", "ENSD", "Hires upscaler", "RNG",
        "Face restoration", "Lora hashes",
    }  # fmt: skip
    assert all("\n" not in line for line in reports)
    assert "prompt: <lora:cats:0.8> is not followed" in reports[0] and "prompt: [old|new] is not followed" in reports[1]


@pytest.mark.parametrize(
    ("line", "fields", "report"),
    [
        ("Sampler: DPM fast", {}, "Sampler: DPM fast is not followed: there is none of that name here, the model's own is taken (ddim)"),
        ("Sampler: DPM2 a Karras", {"sampler": {"kind": "dpm2", "eta": 1.0}, "grid": {"kind": "karras"}},
         "Sampler: DPM2 a Karras is followed nearly: of one step more it leaves out the last level above 0"),
        ("Sampler: DPM++ 2M SDE Heun, Schedule type: SGM Uniform", {"sampler": {"kind": "dpm++2m-sde", "heun": True},
         "grid": {"kind": "published", "spacing": "linspace", "between": "log", "closed": True}}, ""),
        ("Sampler: DDIM", {"grid": {"kind": "published", "offset": 1}}, "nearly, as 'published': where the steps do not divide"),
        ("Sampler: UniPC, Schedule type: Karras", {"sampler": {"kind": "unipc", "b": "bh1"}, "grid": {"kind": "karras"}}, ""),
        ("Sampler: UniPC, UniPC variant: bh2, UniPC order: 2, Schedule type: Karras",
         {"sampler": {"kind": "unipc", "b": "bh2", "k": 2}}, ""),
        ("Sampler: UniPC, UniPC variant: vary_coeff, Schedule type: Karras", {"sampler": {"kind": "unipc", "b": "bh1"}},
         "UniPC variant: vary_coeff is not followed: Input should be 'bh1' or 'bh2'"),
        ("Sampler: DPM++ 3M SDE Karras", {"sampler": {"kind": "dpm++3m-sde", "plain": True}, "grid": {"kind": "karras"}}, ""),
        ("Sampler: DPM++ 3M SDE", {"sampler": {"kind": "dpm++3m-sde", "plain": True}, "grid": {"kind": "exponential"}}, ""),
        ("Sampler: PLMS, Schedule type: Karras", {"sampler": {"kind": "pndm", "runge_kutta": False, "twice": True}}, ""),
        ("Sampler: LMS Karras", {"sampler": {"kind": "lms"}, "grid": {"kind": "karras"}}, ""),
        ("Sampler: LCM, Schedule type: Polyexponential", {"sampler": {"kind": "consistency"}, "grid": {"kind": "exponential"}}, ""),
        ("Sampler: LCM, Schedule type: Beta", {"grid": {"kind": "beta-noise"}}, ""),
        ("Sampler: DDIM, Schedule type: Karras, Sigma churn: 4, Sigma tmin: 0.1, Sigma noise: 1.01",
         {"sampler": {"kind": "ddim"}, "churn": {"amount": 4, "s_min": 0.1, "s_noise": 1.01}}, ""),
        ("Sampler: UniPC, Schedule type: Karras, Sigma churn: 4", {"sampler": {"kind": "unipc", "b": "bh1"}},
         "Sigma churn: 4 is not followed: sampler 'unipc' looks back on earlier steps"),
        ("Sampler: DDIM, Schedule type: Karras, Sigma churn: -4", {"sampler": {"kind": "ddim"}},
         "Sigma churn: -4 is not followed: Input should be greater than or equal to 0"),
        ("Variation seed: 5, Variation seed strength: 0.3", {"variation": {"seed": 5, "strength": 0.3}}, ""),
        ("Sampler: Euler a, Eta: 0.5", {"sampler": {"kind": "euler-ancestral", "eta": 0.5},
         "grid": {"kind": "published", "spacing": "linspace", "between": "log"}}, ""),
        ("Sampler: Heun, Schedule type: Karras, Schedule rho: 5, Schedule max sigma: 0, Sigma churn: 2",
         {"sampler": {"kind": "heun", "churn": 2}, "grid": {"kind": "karras", "rho": 5}}, ""),
        ("Sampler: DPM++ 2M SDE Exponential", {"sampler": {"kind": "dpm++2m-sde"}, "grid": {"kind": "exponential"}}, ""),
        ("Sampler: DPM++ 2M", {"sampler": {"kind": "dpm++2m"}, "grid": {"kind": "karras"}}, ""),
        ("Sampler: DPM++ 2M, Schedule type: Align Your Steps", {"sampler": {"kind": "dpm++2m"}}, "Align Your Steps is not followed"),
        ("Steps: many", {}, "Steps: many is not followed: it is no number"),
        ("Steps: 2.5", {}, "it must be a whole number from 1"),
        ("Steps: 0", {}, "it must be a whole number from 1"),
        ("CFG scale: 1", {"mix": {"kind": "none"}}, ""),
        ("CFG scale: nan", {}, "CFG scale: nan is not followed"),
        ("CFG scale: -3", {}, "it must lie in 0..1,000,000"),
        ("CFG scale: 1e300", {}, "it must lie in 0..1,000,000"),
        ("Steps: 1e300", {}, "it must be a whole number from 1 to 100000"),
        ("Seed index: 4294967296", {}, "it must be a whole number from 0 to 4294967295"),
        ("Sampler: Euler a, Eta: 7", {"sampler": {"kind": "euler-ancestral"}}, "Eta: 7 is not followed: Input should be less"),
        ("Size: 512x768", {}, "this model makes 8x8, and knows nothing so large"),
        ("Size: wide", {}, "it is no WIDTHxHEIGHT"),
        ("Emphasis: No norm", {"emphasis": "a1111"}, "Emphasis: No norm is not followed"),
        ("Emphasis: None", {"emphasis": "none"}, ""),
        ("Clip skip: 1", {}, ""),
        ("Model: other, Model hash: 0123456789", {}, "Model: made with other (0123456789), another one than this"),
        ("Variation seed strength: 0.3", {}, "it needs a variation seed"),
        ("Variation seed: 5, Variation seed strength: 0", {}, ""),
    ],
)  # fmt: skip
def test_each_field(line: str, fields: dict[str, Any], report: str) -> None:
    given, reports = to_request(parse(f"x\n{line}, Version: v1.9.3, User: nobody, Batch size: 1"), small.model())
    assert {k: v for k, v in given.items() if k in fields} == fields
    assert fields or given.keys() == {"prompt", "negative", "emphasis"}
    parsed(given, "request")
    text = "\n".join(reports)
    assert report in text and bool(reports) == bool(report)


def test_a_variation_of_an_edit_is_both() -> None:
    text = "x\nSteps: 4, Seed: 3, Denoising strength: 0.5, Variation seed: 5, Variation seed strength: 0.3"
    given, reports = to_request(parse(text), small.model(), "sha256:" + "0" * 32)
    image = {"kind": "image", "picture": "sha256:" + "0" * 32, "strength": 0.5}
    assert given["task"] == image and given["variation"] == {"seed": 5, "strength": 0.3}
    assert not any("ariation" in line or "Denoising" in line for line in reports)
    parsed(given, "request")


def test_an_unconditional_model_has_nothing_to_guide_by() -> None:
    given, reports = to_request(parse("Steps: 3, CFG scale: 7, Seed: 1"), small.model(labelled=False))
    assert given["mix"] == {"kind": "none"} and any("nothing to guide by" in line for line in reports)


# ---- names -------------------------------------------------------------------------------------------------------------------

NOTE = Note(request={}, model=Source(name=""), seal="", versions={"safelight": "1"})


ODD: dict[str, Any] = {
    "eta": 0.25, "churn": 3.0, "rho": 5.5, "shift": 2.0, "s_max": 20.0, "k": 2, "form": "rotation", "correct": 1, "spread": 0.5,
    "gamma": 0.3, "base": "t", "brownian": True, "r": 0.25, "plain": True, "last": 2, "b": "bh1", "runge_kutta": False, "tau": 0.5,
    "tau_min": 0.1, "tau_max": 7.0, "times": 2, "size": 0.1, "snr": 0.05, "power": 2.0, "entries": 50, "a": 0.5, "start": 0.9,
    "inner": {"kind": "heun", "churn": 2.0}, "predictor": {"kind": "ddim", "eta": 0.5}, "s": [9.0, 1.0, 0.1],
    "heun": True, "lower": True, "euler_last": True, "midpoint": True, "free_noise": True, "stride": True, "twice": True, "slope": "v",
    "uncorrected": [1, 3], "spacing": "linspace", "offset": 2, "closed": True, "between": "log", "above": -5.0, "whole": True,
    "curve": {"kind": "karras", "s_max": 9.0}, "told": "rounded", "end": "ratio", "pure": True, "boundary": 3.0, "steps": 30,
}  # fmt: skip
UNFIT = {("beta", "b"), ("beta-noise", "b"), ("even", "last"), ("leading", "start"), ("tuned", "s")}


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in ("sampler", "grid") for k in kinds(f)])
def test_every_sampler_and_grid_survives_a_text(family: str, kind: str) -> None:
    """What is written for a registered part is read as that part, its fields with it, also for parts without a foreign name."""
    model = small.model()
    for fields in ({}, ODD):
        fitting = {k: v for k, v in fields.items() if k in kinds(family)[kind].model_fields and (kind, k) not in UNFIT}
        part = build({"kind": kind} | fitting, family)
        info = infotext.of(Request.model_validate({"prompt": "bag", family: part}).resolve(model), NOTE)
        asked = Request.model_validate({"prompt": "bag", family: part}).resolve(model)
        given, reports = to_request(parse(write(info)), model)
        assert build(given[family], family) == part and not reports
        assert Request.model_validate(given).resolve(model) == asked
        # What is usual is not told.
        told = [name for name in info.settings if name.startswith(("Sampler ", "Schedule ", "UniPC", "Eta", "Sigma"))]
        assert fields or not [name for name in told if name != "Schedule type"], told


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.75},
        {"variation": {"seed": 3, "strength": 0.25}},
        {"sampler": "ddim", "churn": {"amount": 3.5, "s_min": 0.1, "s_max": 20.0, "s_noise": 1.003}},
        {"sampler": "dpm++2s", "churn": {"amount": 1.0}, "temperature": 0.0, "variation": {"seed": -1, "strength": 1.0}},
    ],
    ids=str,
)
def test_the_noise_of_a_run_survives_a_text(fields: dict[str, Any]) -> None:
    model = small.model()
    asked = Request.model_validate({"prompt": "bag", **fields}).resolve(model)
    given, reports = to_request(parse(write(infotext.of(asked, NOTE))), model)
    assert Request.model_validate(given).resolve(model) == asked and not reports


def test_the_churn_of_a_request_and_that_of_a_sampler_are_one_text() -> None:
    model = small.model()
    by = {"amount": 3.0, "s_max": 9.0}, {"kind": "heun", "churn": 3.0, "churn_max": 9.0}
    texts = [
        write(infotext.of(Request.model_validate({"prompt": "bag", **one}).resolve(model), NOTE))
        for one in ({"sampler": "heun", "churn": by[0]}, {"sampler": by[1]})
    ]
    assert texts[0] == texts[1] and "Sigma churn: 3, Sigma tmax: 9" in texts[0]
    # Which makes the same picture: tests/sample/test_churn.py.
    assert to_request(parse(texts[0]), model)[0]["sampler"] == by[1]


def test_texts_of_ours_tell_number_seed_and_emphasis() -> None:
    asked = Request.model_validate({"prompt": ["bag", "shoe"], "count": 2, "seed": 7, "index": 4, "emphasis": "comfy"})
    note = NOTE.model_copy(update={"index": 3, "count": 4})
    given, reports = to_request(parse(write(infotext.of(asked.resolve(small.model()), note))), small.model())
    assert (given["prompt"], given["seed"], given["index"], given["emphasis"], reports) == (["shoe"], 7, 7, "comfy", [])


@pytest.mark.parametrize("mix", [{"rescale": 0.7}, {"interval": [0.1, 1]}, {"rescale": 1, "interval": [0, 0.55]}, {"scale": 1}])
def test_texts_of_ours_tell_all_of_classifier_free_guidance(mix: dict[str, Any]) -> None:
    asked = Request.model_validate({"prompt": "bag", "mix": {"kind": "cfg", "scale": 3} | mix}).resolve(small.model())
    given, reports = to_request(parse(write(infotext.of(asked, NOTE))), small.model())
    again = Request.model_validate(given).resolve(small.model())
    assert (again.mix == asked.mix or (mix == {"scale": 1} and again.mix.kind == "none")) and not reports


def test_texts_of_ours_say_what_they_do_not_hold() -> None:
    asked = {"prompt": "bag", "mix": "perpendicular", "bends": ["threshold"]}
    text = write(infotext.of(Request.model_validate(asked).resolve(small.model()), NOTE))
    _, reports = to_request(parse(text), small.model())
    assert [line.split(" is not followed")[0] for line in reports] == ["Guidance: perpendicular", "Bends: threshold"]
    bad = "bag\nCFG scale: 3, CFG rescale: 2, CFG interval: 0.8 to 0.2, Version: safelight 1"
    assert [line.split(":")[0] for line in to_request(parse(bad), small.model())[1]] == ["CFG rescale", "CFG interval"]


def test_the_description_is_enough() -> None:
    """`of` takes a request or its JSON."""
    asked = Request.model_validate({"prompt": "bag"}).resolve(small.model())
    assert infotext.of(asked) == infotext.of(describe(asked))
    text = write(infotext.of(asked))
    assert text.startswith("bag\nSteps: 6, Sampler: DDIM, Schedule type: Uniform, CFG scale: 2, Seed: 0, Size: 8x8")


@pytest.mark.parametrize("text", ["a" * 200_000, "a " * 100_000, "[" + "1" * 200_000, " " * 200_000 + "x", "a: " * 60_000])
def test_long_lines_are_read_in_time(text: str) -> None:
    began = time.process_time()
    parse(text)
    assert time.process_time() - began < 5  # the first took 6 minutes


@pytest.mark.parametrize(
    "part", [{"task": "text"}, {"mix": "cfg"}, {"sampler": "ddim"}, {"grid": "karras"}, {"bends": ["threshold"]}, {"count": "1"},
             {"index": "1"}, {"prompt": "shoe"}],
    ids=lambda part: next(iter(part)),
)  # fmt: skip
def test_what_is_no_description_is_refused_in_one_line(part: dict[str, Any]) -> None:
    asked = describe(Request(prompt=("shoe",)).resolve(small.model()))
    with pytest.raises(SpecError, match=rf"^request\.{next(iter(part))}: not as a picture's note holds it"):
        infotext.of(asked | part)


def test_a_grid_with_a_name_there_is_written_by_it() -> None:
    """Noise levels that A1111 has a schedule for are told by its name, and read as the very grid."""
    model = small.model()
    for name, spec in SCHEDULES["A1111"].items():
        asked = Request.model_validate({"prompt": "bag", "grid": spec}).resolve(model)
        info = infotext.of(asked, NOTE)
        assert schedule(info.settings["Schedule type"]) == spec, name
        given, reports = to_request(parse(write(info)), model)
        assert Request.model_validate(given).resolve(model).grid == asked.grid and not reports


def test_adapters_and_learned_words_are_told_as_a1111_tells_them_and_read_again() -> None:
    loras = [{"name": "style", "weight": 0.8, "hash": "0123456789ab"}, {"name": "light", "weight": -0.5, "text": 0.0}]
    words = [{"name": "toy", "hash": "ba9876543210"}]
    model = small.model()
    asked = parsed({"prompt": "shoe", "loras": loras, "words": words}, "request")
    text = write(infotext.of(asked.resolve(model)))  # type: ignore[attr-defined]
    assert text.startswith("shoe <lora:style:0.8> <lora:light:0:-0.5>\n")
    assert 'Lora hashes: "style: 0123456789ab", TI hashes: "toy: ba9876543210"' in text
    given, reports = to_request(parse(text), model, at_hand=["style", "light", "toy"])
    assert given["prompt"] == ["shoe"] and not any("lora" in line or "hashes" in line for line in reports)
    again = parsed(given, "request")
    assert (again.loras, again.words) == (asked.loras, asked.words)  # type: ignore[attr-defined]
    given, reports = to_request(parse(text), model, at_hand=["light"])
    assert [use["name"] for use in given["loras"]] == ["light"] and "words" not in given
    told = " | ".join(reports)
    assert "prompt: <lora:style:0.8> is not followed: it is not at hand (--lora FILE) and left out" in told
    assert "Lora hashes: style: 0123456789ab is not followed" in told and "TI hashes: toy" in told


def test_a_request_without_adapters_says_nothing_of_them() -> None:
    text = write(infotext.of(parsed({"prompt": "shoe"}, "request").resolve(small.model())))  # type: ignore[attr-defined]
    assert "hashes" not in text and "<lora" not in text


@pytest.mark.parametrize(
    ("settings", "size", "second"),
    [
        ("Hires upscale: 2, Hires upscaler: Latent", [16, 16], {"latent": "bilinear"}),
        (
            "Hires resize: 12x24, Hires steps: 7, Hires upscaler: Latent (nearest-exact)",
            [24, 12],
            {"latent": "nearest", "count": 7},
        ),
        ("Hires upscale: 1.5, Hires upscaler: Lanczos, Hires steps: 0", [12, 12], {}),
        ("Hires upscaler: Nearest", [16, 16], {"fit": {"kind": "crop", "filter": "nearest"}}),
    ],
)
def test_a_second_pass_is_read(settings: str, size: list[int], second: dict[str, Any]) -> None:
    given, reports = to_request(parse(f"x\nSteps: 4, Size: 8x8, Denoising strength: 0.4, {settings}"), small.model())
    task = {"kind": "hires", "first": [8, 8], "second": {"strength": 0.4, "steps": "exact", **second}}
    assert (given["task"], given["size"], reports) == (task, size, [])
    parsed(given, "request")


def test_a_second_pass_is_written_and_read_again() -> None:
    model = small.model()
    for latent, count in ((None, 3), ("bicubic", None)):
        second = {"strength": 0.4, "steps": "exact", "latent": latent, "count": count}
        asked = Request.model_validate(
            {"prompt": "bag", "size": [16, 12], "task": {"kind": "hires", "first": [8, 8], "second": second}}
        )
        info = infotext.of(asked.resolve(model), NOTE)
        assert (info.settings["Size"], info.settings["Hires resize"]) == ("8x8", "12x16")
        given, reports = to_request(parse(write(info)), model)
        assert Request.model_validate(given).resolve(model) == asked.resolve(model) and not reports
    tiled = {"kind": "hires", "first": [8, 8], "second": {"steps": "exact", "tile": 8}}
    info = infotext.of(Request.model_validate({"prompt": "bag", "size": [16, 16], "task": tiled}).resolve(model), NOTE)
    assert info.settings["Task"] == "hires"


@pytest.mark.parametrize(
    "settings", ["Hires upscaler: 4x-UltraSharp", "Hires upscale: 0.5, Hires upscaler: Latent", "Hires upscale: big"]
)
def test_a_second_pass_that_cannot_be_made_is_said(settings: str) -> None:
    given, reports = to_request(parse(f"x\nSteps: 4, Denoising strength: 0.4, {settings}"), small.model())
    assert "task" not in given and any("the picture is made in one pass" in line for line in reports)
