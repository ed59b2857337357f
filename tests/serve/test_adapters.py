"""Adapters and learned words of a server: named by requests and by A1111's prompts, from the data folder and nowhere else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from safelight.cli.main import main
from safelight.interop import lora as files
from safelight.model import load, save
from tests.adapt.test_run import adapter
from tests.serve.live import Running, models, serving
from tests.serve.test_a1111 import opened


@pytest.fixture(scope="module")
def wearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose folder has an adapter for `tiny`, a learned word for `words`, and a file that is none."""
    folder = tmp_path_factory.mktemp("data")
    models(folder)
    for name in ("loras", "embeddings"):
        (folder / name).mkdir()
    words = load(folder / "models" / "words.safetensors")  # a fresh one does not listen
    drawn = torch.Generator().manual_seed(1)
    for p in words.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=drawn)
    save(folder / "models" / "words.safetensors", words)
    tiny = load(folder / "models" / "tiny.safetensors")
    files.save(folder / "loras" / "style.safetensors", adapter(tiny), tiny, "safelight")
    vector = 9 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    save_file({"<toy>": vector}, folder / "embeddings" / "toy.safetensors")
    (folder / "embeddings" / "broken.safetensors").write_bytes(b"no tensors")
    with serving(folder) as running:
        yield running


def pictures(run: dict[str, Any]) -> Any:
    assert run["state"] == "done", run
    return [one["seal"] for one in run["pictures"]]


def test_a_request_wears_what_the_folder_holds_and_records_which(wearing: Running) -> None:
    plain, worn, none = (
        wearing.run(seed=3, steps=2, loras=loras)
        for loras in ([], [{"name": "style", "weight": 0.7}], [{"name": "style", "weight": 0}])
    )
    assert pictures(plain) == pictures(none) != pictures(worn)
    digest = files.digest(wearing.settings.folder / "loras" / "style.safetensors")
    found = wearing.client.get(f"/v1/runs/{worn['id']}").json()["request"]["loras"]
    assert [(one["name"], one["weight"]) for one in found] == [("style", 0.7)] and found[0]["hash"] == digest


def test_what_the_folder_does_not_hold_is_refused_by_name(wearing: Running) -> None:
    for field, name, says in (
        ("loras", "stile", "no adapter 'stile' is here; did you mean 'style'?"),
        ("words", "toys", "no learned word 'toys' is here; did you mean 'toy'?"),
        ("loras", "../models/tiny", "no adapter '../models/tiny' is here"),
    ):
        answer = wearing.client.post("/v1/runs", json={"model": "tiny", "request": {"prompt": "bag", field: [{"name": name}]}})
        assert answer.status_code in (404, 422) and says in answer.text


def test_a_prompt_of_a1111_wears_and_knows_them(wearing: Running) -> None:
    def made(prompt: str, model: str) -> list[list[int]]:
        settings = {"sd_model_checkpoint": model}
        answer = wearing.client.post(
            "/sdapi/v1/txt2img", json={"prompt": prompt, "seed": 3, "steps": 2, "override_settings": settings}
        )
        assert answer.status_code == 200, answer.text
        return opened(answer.json()["images"][0]).tolist()

    assert made("bag", "tiny") == made("bag <lora:style:0>", "tiny") != made("bag <lora:style:0.7>", "tiny")
    assert made("a <toy>", "words") != made("a <tow>", "words")
    answer = wearing.client.post(
        "/sdapi/v1/txt2img", json={"prompt": "bag <lora:stile:1>", "override_settings": {"sd_model_checkpoint": "tiny"}}
    )
    assert answer.status_code in (404, 422) and "no adapter 'stile' is here" in answer.text


def test_they_are_listed(wearing: Running) -> None:
    (lora,) = wearing.client.get("/sdapi/v1/loras").json()
    assert lora["name"] == "style" and lora["path"] == "style.safetensors" and isinstance(lora["metadata"], dict)
    found = wearing.client.get("/sdapi/v1/embeddings").json()
    assert found["loaded"]["<toy>"] == {"vectors": 2, "shape": 16}
    assert "is not a safetensors file" in found["skipped"]["broken"]["error"]
    assert str(Path(wearing.settings.folder)) not in json.dumps(found)


def test_the_commands_of_a_run_wear_what_it_wore(
    wearing: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = wearing.run(seed=4, steps=2, loras=[{"name": "style", "weight": 0.7}])
    found = wearing.client.get(f"/v1/runs/{run['id']}/commands").json()
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(found["cli"])[1:]) == 0, capsys.readouterr().err
    exec(compile(found["python"].replace("{k}.png", "python{k}.png"), "python", "exec"), {})
    expected = wearing.client.get(run["pictures"][0]["url"]).content
    assert Path("0.png").read_bytes() == expected == Path("python0.png").read_bytes()
