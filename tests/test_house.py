"""The promises of the house itself: what is imported when, what is never there, and where a device may be named."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import safelight

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "safelight").rglob("*.py"))
HEAVY = ("torch", "numpy", "pydantic", "matplotlib", "rich", "PIL", "safetensors")


def imported(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter after running `code`."""
    tail = "\nimport sys\nsys.__stdout__.write('\\n@' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.rsplit("@", 1)[1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import safelight; safelight.__version__; dir(safelight)",
        "from safelight.cli.main import main; main(['--help'])",
        "from safelight.cli.main import main; main(['version'])",
        "from safelight.cli.main import main; main(['sampel'])",
    ],
    ids=["import", "help", "version", "unknown verb"],
)
def test_start_is_light(code: str) -> None:
    assert imported(code).isdisjoint(HEAVY)


def test_specs_load_without_torch() -> None:
    assert "torch" not in imported("import safelight; safelight.Spec, safelight.build, safelight.describe")


def test_every_public_name_is_what_it_says() -> None:
    """Also after the modules of the same names (`safelight.generate`, `safelight.train`) have been imported."""
    names = [n for n in safelight.__all__ if n != "__version__"]
    code = (
        "import safelight, importlib, types\n"
        "import safelight.generate, safelight.train, safelight.grid, safelight.process\n"
        f"for n in {names!r}:\n"
        "    v = getattr(safelight, n)\n"
        "    assert not isinstance(v, types.ModuleType), n\n"
        "    assert getattr(v, '__name__', n) in (n, 'Callable'), (n, v)\n"
        "assert isinstance(safelight.sample, types.ModuleType) and isinstance(safelight.process, types.ModuleType)\n"
        "from safelight import *\n"
        "assert build is safelight.spec.build\n"
    )
    imported(code)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'denoizer'"):
        safelight.denoizer  # noqa: B018


def test_torchvision_is_absent() -> None:
    """It has no build for torch on the CPU and breaks at import; whatever pulls it in must be found out here."""
    assert importlib.util.find_spec("torchvision") is None, (
        "torchvision is installed: find out what pulled it in, and uninstall it"
    )


def test_no_requirement_leads_to_torchvision() -> None:
    """Neither the resolve nor anything reachable from our declared dependencies with all extras asks for it."""
    assert not re.search(r"^torchvision\b", (ROOT / "constraints.txt").read_text(), re.M)
    seen: set[str] = set()
    queue = [("safelight", True)]
    while queue:
        name, extras = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        for line in lines:
            if extras or "extra ==" not in line:
                match = re.match(r"[A-Za-z0-9._-]+", line)
                assert match is not None
                queue.append((re.sub(r"[._]", "-", match[0]).lower(), False))
    assert "torch" in seen
    assert "torchvision" not in seen


def test_constraints_name_no_place() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.match(r"^[a-z0-9._-]+==[\w.+!]+( ;.*)?$", line), line
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text()


def test_all_that_is_declared_is_constrained() -> None:
    locked = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    declared = {
        re.sub(r"[._]", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in importlib.metadata.requires("safelight")
    }
    assert declared - locked <= {"safelight"}


def test_no_device_is_named_outside_its_module() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path.name != "device.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"(cuda|mps)(:\d+)?$", node.value))
        or (isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps"))
    ]
    assert not named, "a device is named here; ask safelight.device"


PEERS = {"torchvision", "transformers", "diffusers", "peft", "torchmetrics", "accelerate", "yaml"}
OPTIONAL = ("datasets", "huggingface_hub", "pyarrow", "simplejpeg", "av", "tensorboard", "torchao", "onnx", "onnxruntime")


def imports(tree: ast.AST) -> set[str]:
    """The top-level packages of every import statement in a tree, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_peers_are_never_imported() -> None:
    found = {str(path.relative_to(ROOT)): sorted(imports(ast.parse(path.read_text())) & PEERS) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_everything_imports_without_any_optional_package() -> None:
    """All our modules load with the extras and the peers blocked, so a core installation lacks nothing it needs at start."""
    modules = [
        ".".join(p.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for p in SOURCES
        if p.name != "__main__.py"
    ]
    block = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.split('.')[0] in {sorted(PEERS | set(OPTIONAL))!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    assert "torch" in imported(block)


def test_the_network_is_blocked_here() -> None:
    with pytest.raises(OSError, match="no network in tests"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="no network in tests"):
        socket.getaddrinfo("example.org", 80)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=5).close()
