"""The verbs of the server: `serve`, `studio`, `runs`, `explain`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safelight.cli.serve import data_folder
from safelight.serve.jobs import Jobs
from tests.serve import bench
from tests.serve.live import Running, models, serving


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any], Running]]:
    """A data folder in which a run was made, with its server."""
    folder = tmp_path_factory.mktemp("kept")
    models(folder)
    with serving(folder) as running:
        yield folder, running.run(seed=4, steps=4), running


def test_serve_says_where_it_is_and_stops_at_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "safelight",
        "studio",
        "--no-open",
        "--port",
        "0",
        "--data",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"studio   (http://127\.0\.0\.1:\d+)\n", line)
            assert match is not None, line
            with urllib.request.urlopen(f"{match[1]}/healthz") as answer:
                assert json.load(answer)["status"] == "ok"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert process.returncode in (0, 130)
            assert "Traceback" not in errors
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "give a certificate (--tls-cert, --tls-key), or say --plain-http"),
        (["--host", "0.0.0.0", "--plain-http"], "needs a token: make one with --new-token"),
        (["--tls-cert", "c.pem"], "--tls-cert and --tls-key are given together"),
        (["--device", "abacus"], "abacus"),
        (["--model", "nobody"], "no model 'nobody'"),
        (["--set", "limits.pixel=3"], "unknown field 'pixel'; did you mean 'pixels'?"),
        (["--port", "99999"], "port"),
    ],
)
def test_what_would_be_open_does_not_start(
    options: list[str], says: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAFELIGHT_TOKEN", raising=False)
    ran = cli("serve", "--data", tmp_path, *options)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert says in ran.err


def test_the_folder_is_named_or_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from argparse import Namespace

    assert data_folder(Namespace(data="x")) == Path("x")
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    assert data_folder(Namespace(data=None)) == tmp_path
    monkeypatch.delenv("SAFELIGHT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/shared")
    assert data_folder(Namespace(data=None)) == Path("/shared/safelight")


def test_runs_ls_and_show(kept: tuple[Path, dict[str, Any], Running], cli: Callable[..., Any]) -> None:
    folder, run, _ = kept
    listed = cli("runs", "ls", "bag", "--state", "done", "--data", folder)
    assert listed.out.startswith(run["id"])
    assert " 4/4 " in listed.out
    assert json.loads(cli("runs", "ls", "--json", "--data", folder).out)[-1] == run
    shown = cli("runs", "show", run["id"], "--data", folder).out
    assert str(folder / "runs" / run["id"] / "0.png") in shown
    assert cli("runs", "ls", "nothing-like-it", "--data", folder).err == "no such runs\n"
    assert cli("runs", "show", "0" * 12, "--data", folder).code == 2
    assert "keeps no runs" in cli("runs", "ls", "--data", folder / "models").err


def test_runs_fork_changes_what_is_said_and_nothing_else(
    kept: tuple[Path, dict[str, Any], Running], cli: Callable[..., Any], tmp_path: Path
) -> None:
    folder, run, server = kept
    same = cli("runs", "fork", run["id"], "2", "--data", folder, "--out", tmp_path / "same.png")
    assert same.code == 0, same.err
    own = server.client.get(run["pictures"][0]["url"]).content
    from safelight.picture import note

    (tmp_path / "own.png").write_bytes(own)
    sealed = [note(tmp_path / name) for name in ("same.png", "own.png")]
    assert sealed[0] is not None
    assert sealed[1] is not None
    assert sealed[0].seal == sealed[1].seal
    changed = cli(
        "runs", "fork", run["id"], "2", "--prompt", "shoe", "--guidance", "5", "--data", folder, "--out", tmp_path / "b.png"
    )
    id = re.search(r"fork     (\w{12})", changed.out)
    assert id is not None
    made = server.client.get(f"/v1/runs/{id[1]}").json()
    assert (made["prompt"], made["request"]["mix"]["scale"], made["fork_step"], made["parent"]) == ("shoe", 5, 2, run["id"])
    assert cli("runs", "rm", id[1], "--data", folder).out == "1 run gone\n"
    assert server.client.get(f"/v1/runs/{id[1]}").status_code == 404


@pytest.mark.parametrize("what", ["run", "picture", "prompt"])
def test_explain_writes_one_page(
    what: str, kept: tuple[Path, dict[str, Any], Running], cli: Callable[..., Any], tmp_path: Path
) -> None:
    folder, run, server = kept
    picture = tmp_path / "p.png"
    picture.write_bytes(server.client.get(run["pictures"][0]["url"]).content)
    model = folder / "models" / "tiny.safetensors"
    argument = {
        "run": [run["id"]],
        "picture": [picture, "--model", model],
        "prompt": ["bag", "--model", model, "--steps", "4"],
    }[what]
    ran = cli("explain", *argument, "--data", folder, "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    text = (tmp_path / "page.html").read_text()
    assert text.lower().startswith("<!doctype html>")
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


def test_a_run_that_waits_has_nothing_to_fork(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """With --guidance too, though its request does not say yet how it is guided."""
    folder = bench.folder(tmp_path / "data")
    waits = Jobs(folder).enqueue(bench.ask())
    ran = cli("runs", "fork", waits.id, "1", "--guidance", "3", "--data", folder.path)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1 and "Traceback" not in ran.err
