"""Adapters in a run: what a request wears is on while the model works, and the model is its own again between the steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from safelight import picture
from safelight.adapt.lora import Change, Lora, LoraUse, wear
from safelight.assets import Assets
from safelight.generate import Finished, Started, Stepped, generate
from safelight.interop import lora as files
from safelight.model import Model, load, save
from safelight.spec import SpecError, describe, parse
from safelight.task import Request
from tests import small
from tests.cli.conftest import cli  # noqa: F401


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(model: Model, seed: int = 0, size: float = 0.3) -> Lora:
    """One that changes every linear layer of the network."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith("denoiser")]
    return Lora(
        tuple(
            Change(n, size * rand(2, m.in_features, seed=seed + i), rand(m.out_features, 2, seed=seed + i + 500))
            for i, (n, m) in enumerate(layers)
        )
    )


def file(folder: Path, model: Model, name: str = "style", seed: int = 0) -> Path:
    files.save(folder / f"{name}.safetensors", adapter(model, seed), model, "safelight")
    return folder / f"{name}.safetensors"


def made(model: Model, request: Request, assets: Assets | None = None) -> Tensor:
    return torch.cat([e.pictures for e in generate(model, request, assets=assets) if isinstance(e, Finished)])


ASKED = Request(prompt=("shoe", "bag"), steps=3, seed=5)


def test_a_picture_with_an_adapter_is_that_of_the_merged_model_and_the_model_stays(tmp_path: Path) -> None:
    model = small.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assets = Assets()
    use = assets.bring_lora(file(tmp_path, model)).model_copy(update={"weight": 0.6})
    plain = made(model, ASKED)
    worn = made(model, ASKED.model_copy(update={"loras": (use,)}), assets)
    assert (worn - plain).abs().max() > 0.05
    assert torch.equal(made(model, ASKED), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    merged = small.model()
    wear(merged, [(adapter(merged), 0.6)]).merge()
    torch.testing.assert_close(made(merged, ASKED), worn, atol=1e-5, rtol=1e-5)


def test_between_the_steps_the_model_is_its_own_and_runs_may_be_interleaved(tmp_path: Path) -> None:
    model = small.model()
    assets = Assets()
    a, b = (assets.bring_lora(file(tmp_path, model, name, seed)) for name, seed in (("a", 1), ("b", 2)))
    asked = [ASKED.model_copy(update={"loras": (use,)}) for use in (a, b)]
    alone = [made(model, one, assets) for one in asked]
    runs = [generate(model, one, assets=assets) for one in asked]
    found: list[Tensor | None] = [None, None]
    for _ in range(5):  # Started, three steps, Finished
        for i, run in enumerate(runs):
            event = next(run)
            assert all("weight" not in module.__dict__ for module in model.modules())
            assert isinstance(event, Started | Stepped | Finished)
            found[i] = event.pictures if isinstance(event, Finished) else None
    for one, other in zip(found, alone, strict=True):
        assert one is not None and torch.equal(one, other)


def test_several_add_up(tmp_path: Path) -> None:
    model = small.model()
    assets = Assets()
    uses = tuple(
        assets.bring_lora(file(tmp_path, model, name, seed)).model_copy(update={"weight": w})
        for name, seed, w in (("a", 1, 0.5), ("b", 2, -0.3))
    )
    found = made(model, ASKED.model_copy(update={"loras": uses}), assets)
    merged = small.model()
    wear(merged, [(adapter(merged, 1), 0.5), (adapter(merged, 2), -0.3)]).merge()
    torch.testing.assert_close(made(merged, ASKED), found, atol=1e-5, rtol=1e-5)


def test_a_request_says_which_file_it_means(tmp_path: Path) -> None:
    model = small.model()
    assets = Assets()
    use = assets.bring_lora(file(tmp_path, model))
    request = ASKED.model_copy(update={"loras": (use,)})
    assert parse(describe(request), "request") == request
    with pytest.raises(SpecError, match="adapter 'style' is not at hand: give its file with --lora"):
        made(model, request)
    file(tmp_path, model, seed=9)
    with pytest.raises(SpecError, match="is another adapter 'style'"):
        made(model, request, assets)
    (tmp_path / "b").mkdir()
    with pytest.raises(SpecError, match="two files are called 'style'"):
        assets.bring_lora(file(tmp_path / "b", model))
    with pytest.raises(SpecError, match="no file"):
        assets.bring_lora(tmp_path / "gone.safetensors")


def test_the_flag_wears_an_adapter_and_a_picture_made_with_one_is_made_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", small.listening())
    model = load("m.safetensors")
    lora = file(tmp_path, model)
    say = ("generate", "shoe", "--model", "m.safetensors", "--no-hints", "--steps", "3")
    for out, more in (("plain.png", ()), ("worn.png", ("--lora", f"{lora.name}:0.5")), ("none.png", ("--lora", f"{lora}:0"))):
        ran = cli(*say, *more, "--out", out)
        assert ran.code == 0, ran.err
    plain, worn, none = (picture.read(f"{name}.png")[0] for name in ("plain", "worn", "none"))
    assert torch.equal(plain, none) and not torch.equal(plain, worn)
    note = picture.note("worn.png")
    assert note is not None
    digest = files.digest(lora)
    assert note.request["loras"] == [{"name": "style", "weight": 0.5, "text": None, "hash": digest, "partial": False}]
    assert str(tmp_path) not in note.text()
    ran = cli("reproduce", "worn.png", "--model", "m.safetensors", "--lora", "style.safetensors")
    assert ran.code == 0 and "identical" in ran.out, ran.err + ran.out
    ran = cli("reproduce", "worn.png", "--model", "m.safetensors")
    assert ran.code == 2 and "adapter 'style' is not at hand: give its file with --lora" in ran.err
    ran = cli("generate", "--from", "worn.png", "--model", "m.safetensors", "--lora", "style.safetensors", "--out", "again.png")
    assert ran.code == 0 and torch.equal(picture.read("again.png")[0], worn), ran.err


def test_a_prompt_may_say_the_weight_as_in_a1111(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", small.listening())
    file(tmp_path, load("m.safetensors"))
    say, wear_it = ("--model", "m.safetensors", "--no-hints", "--steps", "2"), ("--lora", "style.safetensors")
    for out, prompt, more in (("a", "shoe", ("--lora", "style.safetensors:0.5")), ("b", "shoe <lora:style:0.5>", wear_it)):
        ran = cli("generate", prompt, *say, *more, "--out", f"{out}.png")
        assert ran.code == 0, ran.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    ran = cli("generate", "shoe <lora:style:0.5>", *say, "--out", "c.png")
    assert ran.code == 2 and "adapter 'style' is not at hand: give its file with --lora" in ran.err
    ran = cli("generate", "shoe <lora:style:0.5>", "bag", *say, *wear_it, "--out", "c")
    assert ran.code == 2 and "its prompts name different adapters" in ran.err


def test_an_adapter_of_another_model_is_refused_unless_part_will_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Any],  # noqa: F811
) -> None:
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", small.listening())
    model = load("m.safetensors")
    whole = adapter(model)
    other = whole._replace(changes=(*whole.changes[:2], whole.changes[2]._replace(module="denoiser.network.nowhere")))
    tensors, notes, _ = files.spelled(other._replace(changes=other.changes[:2]), model, "safelight")
    save_file(tensors | {"denoiser.network.nowhere.lora_down.weight": rand(2, 2, seed=0)}, "a.safetensors", metadata=notes)
    say = ("generate", "shoe", "--model", "m.safetensors", "--no-hints", "--steps", "2", "--lora", "a.safetensors")
    ran = cli(*say, "--out", "a.png")
    assert ran.code == 2 and ran.err.count("\n") == 1 and "1 unused: denoiser.network.nowhere.lora_down.weight" in ran.err
    ran = cli(*say, "--allow-partial", "--out", "a.png")
    assert ran.code == 0 and "left out denoiser.network.nowhere.lora_down.weight" in ran.err
    note = picture.note("a.png")
    assert note is not None and note.request["loras"][0]["partial"] is True


def test_a_use_is_one_line_when_it_is_wrong() -> None:
    with pytest.raises(SpecError, match=r"request.loras.0: unknown field 'wight'; did you mean 'weight'"):
        parse({"loras": [{"name": "a", "wight": 1}]}, "request")
    assert LoraUse(name="a").weight == 1
