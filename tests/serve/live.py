"""A server as a person runs it: uvicorn in a thread, a worker process, a data folder with small models."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import torch

from safelight.model import ModelSpec, save
from safelight.serve.app import Live, app
from safelight.serve.settings import Settings, Tokens
from safelight.text.clip import CLIPTextSpec
from tests import small


class Running:
    """A server that runs: its address, its settings, and a client of it."""

    def __init__(self, address: str, settings: Settings) -> None:
        self.address, self.settings = address, settings
        self.client = httpx.Client(base_url=address, timeout=60)

    def run(self, **request: Any) -> dict[str, Any]:
        """A run of the model `tiny`, once it is over."""
        return self.over(self.ask(**request)["id"])

    def ask(self, model: str = "tiny", record: str = "branches", **request: Any) -> dict[str, Any]:
        """A run, as it was queued."""
        made = self.client.post("/v1/runs", json={"model": model, "record": record, "request": {"prompt": "bag", **request}})
        assert made.status_code == 202, made.text
        found: dict[str, Any] = made.json()
        return found

    def over(self, id: str, patience: float = 60) -> dict[str, Any]:
        """A run once it is over."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            found: dict[str, Any] = self.client.get(f"/v1/runs/{id}").json()
            if found["state"] in ("done", "stopped", "failed"):
                return found
            time.sleep(0.03)
        raise TimeoutError(found)


def models(folder: Path) -> None:
    """`tiny`, of three classes in 8x8 grey; `words`, of text in 8x8 grey."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    save(folder / "models" / "tiny.safetensors", small.listening())
    spec = small.spec()
    worded = ModelSpec.model_validate({**spec.model_dump(), "text": CLIPTextSpec(width=16, layers=1, heads=2, causal=False)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(folder / "models" / "words.safetensors", worded.build())


@contextlib.contextmanager
def serving(folder: Path, tokens: Tokens | None = None, **settings: Any) -> Iterator[Running]:
    """A server on a free port, stopped afterwards."""
    chosen = Settings.model_validate({"folder": folder, "port": 0, "devices": ("cpu",), **settings})
    ready, found = threading.Event(), list[str]()

    def stands(address: str) -> None:
        found.append(address)
        ready.set()

    server = Live(app(chosen, tokens), chosen, stands)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(30), "the server did not start"
    running = Running(found[0], chosen)
    try:
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(120)  # a disk that is busy with what other tests wrote may take its time
        if thread.is_alive():
            faulthandler.dump_traceback(all_threads=True)
        assert not thread.is_alive(), "the server did not stop: where its threads were is in what it printed"


def events(
    running: Running, since: int | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, kind, data) of the server's events as they come; of pings nothing."""
    import json

    query = "" if since is None else f"?since={since}"
    with running.client.stream("GET", f"/v1/events{query}", headers=dict(headers or {})) as stream:
        assert stream.status_code == 200
        fields: dict[str, str] = {}
        for line in stream.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}
            else:
                fields = {}
