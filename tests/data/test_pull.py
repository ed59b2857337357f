"""`safelight pull` against a hub of our own on this machine: what is brought, what never is, and what happens without a way there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from safelight.data.pull import File, cached, choose
from safelight.data.source import DataError
from safelight.model import locate
from safelight.spec import SpecError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
}
FILES: dict[str, bytes] = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"# a model",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": os.urandom(24_000_000),
    "unet/diffusion_pytorch_model.fp16.safetensors": os.urandom(1_000_000),
    "unet/diffusion_pytorch_model.bin": b"\x80\x02pickle",
    "tokenizer/merges.txt": b"#version: 0.2\n",
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/evil.py": b"import os",
    "pipeline.py": b"import os",
    "v1-5-pruned.ckpt": b"\x80\x02pickle",
    "v1-5-pruned.safetensors": b"a single file",
    "onnx/model.onnx": b"onnx",
}


class Hub:
    """A hub with one repository. cut: the file whose first download breaks off half-way. seen: the paths asked for, with their ranges."""

    def __init__(self) -> None:
        self.cut, self.seen = "", list[tuple[str, str]]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(False)

            def do_GET(self) -> None:
                self.answer(True)

            def answer(self, body: bool) -> None:
                path = self.path.split("?")[0]
                if path.startswith("/api/models/somebody/tiny/tree/"):
                    tree = [
                        {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                        for n, d in FILES.items()
                    ]
                    self.send(json.dumps(tree).encode(), body)
                    return
                if path.startswith("/api/models/somebody/tiny"):
                    siblings = [
                        {"rfilename": n, "size": len(d), "blobId": hashlib.sha1(d).hexdigest()} for n, d in FILES.items()
                    ]
                    self.send(
                        json.dumps(
                            {"_id": "1", "id": "somebody/tiny", "sha": COMMIT, "siblings": siblings, "tags": []}
                        ).encode(),
                        body,
                    )
                    return
                before = f"/somebody/tiny/resolve/{COMMIT}/"
                name = path.removeprefix(before)
                if not path.startswith(before) or name not in FILES:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                asked = self.headers.get("Range", "")
                if body:
                    hub.seen.append((name, asked))
                self.send(FILES[name], body, asked, name)

            def send(self, data: bytes, body: bool, asked: str = "", name: str = "") -> None:
                first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
                part = data[first:]
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(part)))
                if name:
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                    self.send_header("Accept-Ranges", "bytes")
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if body and name and name == hub.cut and not first:
                    self.wfile.write(part[: len(part) // 2])
                    self.wfile.flush()
                    self.connection.close()
                elif body:
                    self.wfile.write(part)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


def pull(home: Path, address: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    import safelight

    source = str(Path(safelight.__file__).parents[1])
    full = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "PYTHONPATH": source, "HF_HUB_DISABLE_XET": "1"} | env
    code = "from safelight.cli.main import entry; entry()"
    return subprocess.run(
        [sys.executable, "-c", code, "pull", *args], env=full, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_tensors_and_configurations_are_brought_and_nothing_that_runs(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = "unet/diffusion_pytorch_model.safetensors"
    ran = pull(tmp_path, hub.address, "somebody/tiny")
    if ran.returncode:  # the client gave up when it broke off: it goes on where it stopped
        assert "it goes on where it stopped" in ran.stderr and ran.stderr.count("safelight:") == 1
        ran = pull(tmp_path, hub.address, "somebody/tiny")
    assert ran.returncode == 0, ran.stderr
    folder = Path(ran.stdout.splitlines()[-1].split(maxsplit=1)[1])
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    wanted = {
        "model_index.json", "README.md", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
    }  # fmt: skip
    assert found == {name: FILES[name] for name in wanted}
    assert COMMIT in folder.parts and f"somebody/tiny at {COMMIT[:12]}: 6 files, 24.0 MB" in ran.stdout
    ranges = [asked for name, asked in hub.seen if name == hub.cut]
    assert any(asked.startswith("bytes=") and not asked.startswith("bytes=0") for asked in ranges), ranges
    # It is found by its name from now on, and without a way to the hub.
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cached("somebody/tiny") == folder and locate("somebody/tiny") == folder
    again = pull(tmp_path, "http://127.0.0.1:9", "somebody/tiny", HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "the copy in its cache is taken" in again.stdout and str(folder) in again.stdout


@pytest.mark.slow
def test_one_line_without_a_way_and_for_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    for args, env, line in (
        (("somebody/tiny",), {"HF_HUB_OFFLINE": "1"}, "is not in the cache, and the hub cannot be reached"),
        (("somebody/else",), {}, "there is no such repository"),
        (("nonsense",), {}, "'nonsense' is no repository: they are called owner/name"),
    ):
        ran = pull(tmp_path, hub.address, *args, **env)
        assert ran.returncode == 2 and line in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr


def test_nothing_is_downloaded_unasked() -> None:
    """A name that looks like a repository is looked up in the cache, and nowhere else."""
    with pytest.raises(
        SpecError, match=r"no file nobody/nothing; if it is a repository of the hub: safelight pull nobody/nothing"
    ):
        locate("nobody/nothing")


def files(*names: str) -> list[File]:
    return [File(name, 1) for name in names]


@pytest.mark.parametrize(
    ("there", "components", "how", "wanted"),
    [
        (("a.safetensors", "config.json", "x.py"), None, {}, {"a.safetensors", "config.json"}),
        (("a.safetensors", "b.safetensors"), None, {"file": "b.safetensors"}, {"b.safetensors"}),
        (("model_index.json", "unet/model.fp16.safetensors", "unet/model.safetensors"), ["unet"], {"variant": "fp16"},
         {"model_index.json", "unet/model.fp16.safetensors"}),
        (("model_index.json", "unet/model-00001-of-00002.safetensors", "unet/model-00002-of-00002.safetensors",
          "unet/model.safetensors.index.json", "unet/model.fp16-00001-of-00001.safetensors", "unet/model.safetensors.index.fp16.json"),
         ["unet"], {}, {"model_index.json", "unet/model-00001-of-00002.safetensors", "unet/model-00002-of-00002.safetensors",
                        "unet/model.safetensors.index.json"}),
        (("model_index.json", "unet/m.safetensors", "../../x.json", "/etc/passwd.json"), ["unet"], {},
         {"model_index.json", "unet/m.safetensors"}),
    ],
)  # fmt: skip
def test_what_is_chosen(there: tuple[str, ...], components: list[str] | None, how: dict[str, str], wanted: set[str]) -> None:
    assert {f.name for f in choose(files(*there), "a/b", components, **how)} == wanted


@pytest.mark.parametrize(
    ("there", "components", "how", "line"),
    [
        (("a.ckpt",), None, {}, r"holds no safetensors, only pickles \(a.ckpt\)"),
        (("a.safetensors", "b.safetensors"), None, {}, "say which with --file: a.safetensors, b.safetensors"),
        (("a.ckpt",), None, {"file": "a.ckpt"}, "nothing else is brought"),
        (("a.safetensors",), None, {"file": "b.safetensors"}, "did you mean 'a.safetensors'"),
        (("model_index.json", "unet/m.bin"), ["unet"], {}, "unet holds its weights as pickles only"),
        (("model_index.json", "unet/m.fp16.safetensors"), ["unet"], {}, "say --variant fp16"),
    ],
)
def test_refusals(there: tuple[str, ...], components: list[str] | None, how: dict[str, str], line: str) -> None:
    with pytest.raises(DataError, match=line):
        choose(files(*there), "a/b", components, **how)
