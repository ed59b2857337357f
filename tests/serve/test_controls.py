"""Controls of a server: named by requests, from the data folder and nowhere else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from safelight.interop import control as files
from safelight.model import save
from safelight.nn.t2i import T2ISpec
from tests import peers
from tests.cli.conftest import tiny
from tests.serve.live import Running, models, serving


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a U-Net of classes in 12x12, and an adapter for it."""
    folder = tmp_path_factory.mktemp("data")
    models(folder)
    torch.manual_seed(0)
    net = tiny().build()
    for p in net.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)
    save(folder / "models" / "net.safetensors", net)
    adapter = T2ISpec(channels=3, unshuffle=2, widths=(8, 16), halves=(), depth=1)
    files.save(peers.stirred(adapter.build()), folder / "controls" / "sketch")
    with serving(folder) as running:
        yield running


def test_a_request_is_steered_by_what_the_folder_holds(steered: Running) -> None:
    data = io.BytesIO()
    Image.new("RGB", (12, 12), (200, 30, 90)).save(data, "PNG")
    sent = steered.client.post("/v1/pictures", content=data.getvalue(), headers={"content-type": "image/png"}).json()
    control = {"name": "sketch", "picture": sent["seal"], "weight": 2.0}
    plain, run = (
        steered.over(steered.ask("net", prompt="bag", seed=3, steps=2, controls=controls)["id"]) for controls in ([], [control])
    )
    assert plain["state"] == run["state"] == "done", run
    assert plain["pictures"][0]["seal"] != run["pictures"][0]["seal"]
    (said,) = run["request"]["controls"]
    assert said["hash"] == files.digest(Path(steered.settings.folder) / "controls" / "sketch")


def test_what_the_folder_does_not_hold_is_refused_by_name(steered: Running) -> None:
    for name, says in (
        ("scetch", "no control 'scetch' is here; did you mean 'sketch'?"),
        ("../models/net", "no control '../models/net'"),
    ):
        asked = {"prompt": "bag", "controls": [{"name": name, "picture": "sha256:0"}]}
        answer = steered.client.post("/v1/runs", json={"model": "net", "request": asked})
        assert answer.status_code in (404, 422) and says in answer.text
