"""Whole pipelines with adapters and learned words, opened from folders of diffusers: its picture, to less than 1/255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from safelight.assets import Assets
from safelight.generate import Finished, Started, generate
from safelight.interop import lora as files
from safelight.model import Model, load
from safelight.task import Request
from tests import peers
from tests.interop import folders


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kohya(model: Model) -> dict[str, Tensor]:
    """As kohya's trainer writes it: all attention and feed-forward layers of the network, and of every text encoder."""
    known, found = files.Spellings(model), dict[str, Tensor]()
    spelling = "original" if known.texts > 1 else "diffusers"
    for i, x in enumerate(known.layers):
        if x.spelling == (spelling if x.of == "unet" else "diffusers") and any(n in x.name for n in ("attn", ".ff.", "mlp")):
            stem, (rows, inner, *kernel) = known.stem(x, "kohya"), x.shape
            found[f"{stem}.lora_down.weight"] = 0.4 * rand(4, inner, *kernel, seed=i)
            found[f"{stem}.lora_up.weight"] = 0.4 * rand(rows, 4, *(1 for _ in kernel), seed=i + 999)
            found[f"{stem}.alpha"] = torch.tensor(3.0)
    return found


def painted(model: Model, prompt: str, assets: Assets, **fields: Any) -> tuple[Tensor, Tensor]:
    """The noise that a run begins with, and its picture in 0..1."""
    start = made = torch.empty(0)
    for event in generate(model, Request(prompt=(prompt,), steps=4, seed=5, **fields), assets=assets):
        if isinstance(event, Started):
            start = event.x
        elif isinstance(event, Finished):
            made = event.pictures
    return start, made.clamp(-1, 1) / 2 + 0.5


def opened(folder: Path) -> Any:
    pipeline = peers.diffusers().DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, prompt: str, start: Tensor) -> Tensor:
    with torch.no_grad():
        made = pipeline(prompt, num_inference_steps=4, latents=start.clone(), output_type="pt", height=32, width=32)
    return made.images


@pytest.mark.parametrize("which", ["sd1", "sdxl"])
def test_a_pipeline_with_an_adapter_of_kohyas(which: str, tmp_path: Path) -> None:
    folder = folders.save(getattr(folders, which)(), tmp_path / which)
    model, assets = load(folder), Assets()
    path = tmp_path / "style.safetensors"
    save_file(kohya(model), path)
    use = assets.bring_lora(path)
    start, plain = painted(model, "a cat", assets)
    _, picture = painted(model, "a cat", assets, loras=(use,))
    pipeline = opened(folder)
    pipeline.load_lora_weights(str(path))
    wanted = theirs(pipeline, "a cat", start)
    assert (picture - wanted).abs().max() < 1 / 255
    assert (picture - plain).abs().max() > 0.1
    assert any(x.of == ("text_encoder_2" if which == "sdxl" else "text_encoder") for x in files.Spellings(model).layers)
    assert all("weight" not in m.__dict__ for m in model.modules() if isinstance(m, nn.Linear))


def test_a_pipeline_with_a_learned_word_of_several_vectors(tmp_path: Path) -> None:
    folder = folders.save(folders.sd1(), tmp_path / "sd1")
    model, assets = load(folder), Assets()
    save_file({"<toy>": rand(3, 32, seed=1)}, tmp_path / "toy.safetensors")
    use = assets.bring_word(tmp_path / "toy.safetensors")
    start, plain = painted(model, "a <toy> and a cat", assets)
    _, picture = painted(model, "a <toy> and a cat", assets, words=(use,))
    pipeline = opened(folder)
    pipeline.load_textual_inversion(str(tmp_path / "toy.safetensors"))
    wanted = theirs(pipeline, "a <toy> and a cat", start)
    assert (picture - wanted).abs().max() < 1 / 255
    assert (picture - plain).abs().max() > 0.02
