"""The five stops: every number they tell is the run's own, and our code is shown as it is."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
import torch

from safelight.serve.explain import COLUMNS, explain, source, sources
from safelight.spec import SpecError
from safelight.text.clip import CLIPText
from safelight.text.spans import tokens
from safelight.text.tokens import clean
from tests import small
from tests.serve.recorded import PROMPT, reader, recording


def told(**fields: Any) -> dict[str, Any]:
    made = reader(latent=True, size=(16, 16))
    return explain(recording(made, **fields), made)


def test_all_of_it_is_json() -> None:
    found = told()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["tokens", "vectors", "noise", "loop", "decode"]
    for stop in found.values():
        assert stop["source"] == stop["sources"][0]
        for name in stop["sources"]:
            assert source(name)


def test_words_are_merged_as_the_tokenizer_merges_them() -> None:
    prompt = "(a hexagonal umbrella:1.2) BREAK an ∑ unseen wörd"
    found = told(prompt=(prompt,))["tokens"]
    encoder = reader(latent=True, size=(16, 16)).text
    assert isinstance(encoder, CLIPText)
    t = encoder.tokenizer
    assert [w["text"] for w in found["words"]] == ["a", "hexagonal", "umbrella", "an", "∑", "unseen", "wörd"]
    rank = {pair: i for i, pair in enumerate(t.merges)}
    for word in found["words"]:
        assert [t.ids[s] for s in word["merges"][-1]] == word["ids"] == t.encode(word["text"])
        assert len(word["merges"][0]) == len(word["text"].encode())
        assert len(word["ranks"]) == len(word["merges"]) - 1
        for before, after, number in zip(word["merges"], word["merges"][1:], word["ranks"], strict=False):
            pairs = [p for p in zip(before, before[1:], strict=False) if p in rank]
            best = min(pairs, key=rank.__getitem__)
            assert "".join(best) in after
            assert t.merges[number] == best
            assert "".join(before) == "".join(after)
            assert len(after) < len(before)
        last = word["merges"][-1]
        assert not any(p in rank for p in zip(last, last[1:], strict=False))
    assert (found["limit"], found["length"], found["vocabulary"]) == (6, 8, t.size)
    assert found["windows"] == 1 + max(p["window"] for p in found["places"])
    assert len(found["places"]) == 8 * found["windows"]


def test_places_are_the_ids_that_the_tower_reads() -> None:
    encoder = reader().text
    assert isinstance(encoder, CLIPText)
    for prompt in ("", "a cube", "one two three four five six seven eight"):
        ids = [t.id for t in tokens(encoder, prompt, filled=True)]
        assert ids == encoder.tokenize([prompt])[0].tolist()


@pytest.mark.parametrize("emphasis", ["a1111", "comfy", "compel", "none"])
@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        "  Two   spaces,\tand a tab ",
        "cafe\u0301 naïve and ﬁne",
        "ΣΊΣΥΦΟΣ İstanbul",
        "emoji 😀👍🏽 here",
        "한국어 각",
        "(nested (twice) here), [less] \\(kept\\)",
        "a BREAK b",
        "red+ and (blue)0.5",
    ],
)
def test_a_token_knows_where_it_stands(prompt: str, emphasis: str) -> None:
    """In order, and what stands there reads as the token does (tokens that are parts of one character share its place)."""
    encoder = reader().text
    assert isinstance(encoder, CLIPText)
    found = tokens(encoder, prompt, emphasis)
    windows = encoder.windows([prompt], emphasis)[0].windows
    assert [t.id for t in found] == [i for w in windows for i in w.ids]
    assert [t.weight for t in found] == [x for w in windows for x in w.weights]
    starts = [t.start for t in found if t.start is not None]
    assert len(starts) == len(found)
    assert starts == sorted(starts)
    for t in found:
        there = prompt[t.start : t.end]
        assert there
        if "\ufffd" not in t.text:
            assert t.text in clean(there), t
            assert t.text == clean(there) or not there.isascii(), t


def test_vectors_are_the_towers() -> None:
    made = reader(latent=True, size=(16, 16))
    found = explain(recording(made), made)["vectors"]
    assert isinstance(made.text, CLIPText)
    laid = tokens(made.text, PROMPT, filled=True)
    rows = [i for i, t in enumerate(laid) if t.role != "pad"]
    assert found["tokens"] == [laid[i].text for i in rows]
    with torch.inference_mode():
        cond = made.text.read([PROMPT], "a1111")
        table = made.text.tower.token(torch.tensor([laid[i].id for i in rows]))
        table = table + made.text.tower.position[[i % 8 for i in rows]]
    assert cond.tokens is not None
    for mine, theirs in ((found["encoded"], cond.tokens[0, rows]), (found["table"], table)):
        assert len(mine[0]) == min(COLUMNS, found["width"])
        assert (torch.tensor(mine) - theirs[:, :COLUMNS]).abs().max() < 1e-4
    cosines = torch.tensor(found["cosines"])
    assert (cosines.diagonal() - 1).abs().max() < 1e-4
    expected = torch.nn.functional.cosine_similarity(cond.tokens[0, rows[1]], cond.tokens[0, rows[2]], dim=0)
    assert float(cosines[1, 2]) == pytest.approx(float(expected), abs=1e-4)


def test_equations_hold_with_the_values_they_show() -> None:
    found = told()["noise"]
    for step in found["steps"]:
        x, x0, eps, cond, null = (step["terms"][name]["at"] for name in ("x", "x0", "eps", "cond", "null"))
        assert x == pytest.approx(step["alpha"] * x0 + step["sigma"] * eps, abs=1e-5)
        assert x0 == pytest.approx(null + step["scale"] * (cond - null), abs=1e-5)
        raw = (cond - step["skip"] * x) / step["out"]  # what the network answered, of v prediction
        v = (step["alpha"] * (x - step["alpha"] * cond) / step["sigma"] - step["sigma"] * cond) / (
            step["alpha"] ** 2 + step["sigma"] ** 2
        ) ** 0.5
        assert raw == pytest.approx(v, abs=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "ddpm", "euler-ancestral", "dpm++2m"])
def test_the_loop_is_taken_apart_as_the_sampler_put_it_together(sampler: str) -> None:
    made = reader(latent=True, size=(16, 16))
    trace = recording(made, sampler=sampler)
    found = explain(trace, made)["loop"]
    assert found["stochastic"] is (sampler in ("ddpm", "euler-ancestral"))
    for step in found["steps"]:
        k = step["k"]
        rest = trace.x(k + 1) - step["keep"] * trace.x(k) - step["toward"] * trace.x0(k)
        size = float(rest.square().mean().sqrt())
        assert size == pytest.approx(step["fresh"] + step["correction"], abs=1e-5)
        if sampler in ("ddim", "euler") or (sampler == "dpm++2m" and k < 2):  # nothing to look back at, or only noise
            assert step["share"] == pytest.approx(step["sigma_next"], abs=1e-5)
            assert size < 1e-5
        elif sampler == "dpm++2m" and k < 4:
            assert step["correction"] > 1e-4
        elif k < 4:
            assert step["fresh"] > 0.02
            assert step["share"] < step["sigma_next"]
    assert found["steps"][-1]["fresh"] == pytest.approx(0, abs=1e-5)


def test_decoding_is_told_channel_by_channel() -> None:
    made = reader(latent=True, size=(16, 16))
    trace = recording(made)
    found = explain(trace, made)["decode"]
    assert (found["shape"], found["stride"], found["size"]) == ([4, 4, 4], 4, [16, 16])
    values = torch.tensor(found["values"]).view(4, 4, 4)
    assert (values - trace.x(5)[0]).abs().max() <= 5.1e-5
    assert found["ranges"] == [[pytest.approx(float(c.min())), pytest.approx(float(c.max()))] for c in trace.x(5)[0]]
    assert torch.tensor(found["linear"]["weight"]).shape == (3, 4)
    assert 0 <= found["r2"] <= 1
    assert found["pictures"]["linear"].startswith("data:image/webp;base64,")


def test_models_without_words_have_fewer_to_tell() -> None:
    labels = small.model()
    found = explain(recording(labels, prompt=("shoe",)), labels)
    assert (found["tokens"]["reads"], found["tokens"]["places"][0]["id"]) == ("labels", 1)
    assert found["tokens"]["words"] == []
    assert len(found["vectors"]["vector"]) == 16
    nothing = small.model(labelled=False)
    found = explain(recording(nothing, prompt=("",)), nothing)
    assert (found["tokens"]["reads"], found["tokens"]["places"]) == ("nothing", [])
    assert found["decode"]["exact"]
    assert found["decode"]["r2"] == 1


def test_only_our_own_code_is_shown() -> None:
    for name, line in sources().items():
        text = source(name)
        assert isinstance(ast.parse(text).body[0], ast.FunctionDef | ast.ClassDef), name
        assert line
    for name in ("os.system", "__import__", "../secrets", "", "Recorder", "words.__globals__"):
        with pytest.raises(SpecError, match="no source"):
            source(name)
    with pytest.raises(SpecError, match="did you mean 'sampler/ddim'"):
        source("sampler/dimm")
