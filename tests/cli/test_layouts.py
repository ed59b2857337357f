"""The verbs that open and write other layouts: what `inspect` says of them, what `convert` and `export` make, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safelight.model import load, peek
from tests.interop import folders
from tests.interop.test_ldm import made

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.save(folders.sd1(), tmp_path_factory.mktemp("layouts") / "tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_becomes_a_picture(cli: Cli, sd1: Path, tmp_path: Path) -> None:
    ran = cli("generate", "a cat", "--model", sd1, "--steps", 2, "--seed", 1, "--out", tmp_path / "cat.png")
    assert ran.code == 0, ran.err
    ours = cli("convert", sd1, "--to", "safelight", "--out", tmp_path / "ours.safetensors")
    assert ours.code == 0, ours.err
    again = cli(
        "generate", "a cat", "--model", tmp_path / "ours.safetensors", "--steps", 2, "--seed", 1, "--out", tmp_path / "two.png"
    )
    assert again.code == 0, again.err
    from PIL import Image

    one, two = (Image.open(tmp_path / name).tobytes() for name in ("cat.png", "two.png"))
    assert one == two and len(set(one)) > 20


def test_inspect_says_what_a_folder_and_a_file_are(cli: Cli, sd1: Path, tmp_path: Path) -> None:
    said = cli("inspect", sd1)
    assert said.code == 0, said.err
    assert (
        "model (diffusers)" in said.out
        and 'class: "StableDiffusionPipeline"' in said.out
        and 'unet: "UNet2DConditionModel"' in said.out
    )
    found = json.loads(cli("inspect", sd1, "--json").out)
    weights = sum(v.numel() for f in sd1.rglob("*.safetensors") for v in load_file(f).values())
    assert found["weights"]["raw"]["parameters"] == weights
    assert found["spec"]["network"]["kind"] == "unet" and found["lineage"]["origin"]["layout"] == "diffusers"
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(4, 4)}, tmp_path / "lora.safetensors")
    other = cli("inspect", tmp_path / "lora.safetensors")
    assert other.code == 0 and "it is an adapter (LoRA)" in other.out and "16 values in 1 tensors (F32)" in other.out


def test_export_writes_the_layouts_in_a_precision(cli: Cli, tmp_path: Path) -> None:
    from safelight.model import save

    save(tmp_path / "mine.safetensors", made("sd1"))
    for to, out in (("ldm", tmp_path / "single.safetensors"), ("diffusers", tmp_path / "folder")):
        ran = cli("export", tmp_path / "mine.safetensors", "--to", to, "--out", out)
        assert ran.code == 0, ran.err
        assert "numbers of 'raw' in float16" in ran.out and "lost     at most" in ran.out
        assert {e.dtype for e in peek(out).tensors.values()} == {"F16"}
        kept = cli("export", tmp_path / "mine.safetensors", "--to", to, "--dtype", "keep", "--out", f"{out}-32.safetensors")
        assert kept.code == 0 and "lost     at most 0.0e+00" in kept.out, kept.err
        mine, back = made("sd1").state_dict(), load(f"{out}-32.safetensors").state_dict()
        assert all(torch.equal(back[name], value) for name, value in mine.items())


def test_a_folder_of_pickles_is_converted_and_then_opens(cli: Cli, sd1: Path, tmp_path: Path) -> None:
    import shutil

    old = Path(shutil.copytree(sd1, tmp_path / "old"))
    for path in list(old.rglob("*.safetensors")):
        name = "pytorch_model.bin" if path.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    refused = cli("inspect", old)
    assert refused.code == 2 and "is a pickle, which is never loaded" in refused.err and "safelight convert" in refused.err
    ran = cli("convert", old, "--out", tmp_path / "new")
    assert ran.code == 0 and "3 pickles became safetensors files" in ran.out, ran.err
    assert contents(tmp_path / "new") == contents(sd1)


def test_refusals(cli: Cli, sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for args, line in (
        ((sd1, "--out", tmp_path / "there"), "there is something already"),
        ((sd1, "--out", tmp_path / "new"), "holds no pickles; --to says which layout it shall get"),
        ((sd1, "--to", "ldm", "--out", tmp_path / "new.safetensors"), "a single file cannot say"),
        ((sd1, "--to", "checkpoint", "--out", tmp_path / "new"), "no 'checkpoint'"),
        ((tmp_path / "nothing.ckpt", "--to", "ldm", "--out", tmp_path / "new"), "no file"),
    ):
        ran = cli("convert", *args)
        assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1, ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_the_cells_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_docs import CELL, ROOT

    monkeypatch.chdir(tmp_path)
    cells = list(CELL.finditer((ROOT / "docs" / "checkpoints.md").read_text()))
    assert cells
    for cell in cells:
        exec(compile(cell["code"], "checkpoints.md", "exec"), {"__name__": "page"})
        assert capsys.readouterr().out == cell["says"]
