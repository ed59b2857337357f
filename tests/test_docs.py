"""The documentation cannot drift: every kind is on its page, commands are accepted, cells print what is said, the site builds."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from safelight.cli.main import VERBS, Parser
from safelight.recipes import names
from safelight.spec import kinds

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HOME = {
    "process": "processes.md",
    "parameterization": "parameterizations.md",
    "grid": "grids.md",
    "sampler": "samplers.md",
    "mix": "guidance.md",
    "bend": "guidance.md",
    "strength": "guidance.md",
    "network": "networks.md",
    "dit-block": "networks.md",
    "source": "data.md",
    "codec": "codecs.md",
    "text": "text.md",
    "objective": "training.md",
    "average": "training.md",
    "schedule": "training.md",
    "token-process": "discrete.md",
    "token-sampler": "discrete.md",
    "token-network": "discrete.md",
    "alphabet": "discrete.md",
    "weighting": "losses.md",
    "times": "losses.md",
    "distance": "losses.md",
    "control": "controls.md",
    "picture-tokens": "controls.md",
}
# The pages of the theory: on each the equations, a figure, and cells that run.
THEORY = [
    "processes.md",
    "parameterizations.md",
    "grids.md",
    "samplers.md",
    "guidance.md",
    "codecs.md",
    "text.md",
    "scores.md",
    "losses.md",
    "vdm.md",
    "likelihood.md",
    "discrete.md",
    "tuning.md",
    "training.md",
    "upscaling.md",
]
# Further pages whose cells run.
WORK = ["checkpoints.md", "schedulers.md", "lora.md", "controls.md", "memory.md"]
# A python block, what stands on the line before it, and the text block that follows at once: what it prints.
CELL = re.compile(r"^(?P<before>[^\n]*)\n\n```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<says>.*?)^```$)?", re.M | re.S)


@pytest.mark.parametrize("family", HOME)
def test_every_kind_is_on_its_page(family: str) -> None:
    page = (ROOT / "docs" / HOME[family]).read_text()
    assert [kind for kind in kinds(family) if f"`{kind}`" not in page] == []


@pytest.mark.parametrize("name", THEORY)
def test_a_page_of_the_theory_has_its_equations_a_figure_and_a_cell(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    assert len(re.findall(r"^\$\$$", page, re.M)) >= 2, "no display formula"
    assert re.findall(r"^!\[.+\]\(images/.+\)$", page, re.M), "no figure"
    assert [cell for cell in CELL.finditer(page) if runs(cell)], "no cell that runs"
    assert len(list(CELL.finditer(page))) == page.count("\n```python\n"), "a python block must stand between empty lines"


def runs(cell: re.Match[str]) -> bool:
    """Whether a cell is run; one that is not says why on the line before."""
    return not re.fullmatch(r"<!-- not run: .+ -->", cell["before"])


@pytest.mark.parametrize("name", [*THEORY, *WORK])
def test_the_cells_of_a_page_run_and_print_what_stands_under_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    for cell in filter(runs, CELL.finditer((ROOT / "docs" / name).read_text())):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(cell["code"], name, "exec"), space)
        if cell["says"] is not None:
            assert said.getvalue() == cell["says"]


@pytest.mark.parametrize("image", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_every_image_is_shown(image: Path) -> None:
    pages = [*PAGES, *(ROOT / "docs" / "models").glob("*.md")]
    assert any(f"images/{image.name})" in page.read_text() for page in pages)


def commands() -> list[tuple[str, str]]:
    """Every `safelight ...` line of the pages, outside of what is shown as output, with its page."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            match = re.match(r"(?: {4}|\$ )(safelight \w.*)$", line)
            if match:
                found.append((page.name, match[1]))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_in_the_pages_is_accepted(page: str, command: str) -> None:
    """Parsed by the verb's own parser; the ellipsis and the upper-case placeholder of the general form are not commands."""
    _, verb, *rest = shlex.split(command, comments=True)
    if verb == "VERB":
        return
    assert verb in VERBS, page
    if verb == "version":
        return
    module = importlib.import_module(f"safelight.cli.{VERBS[verb][0]}")
    parser = Parser(prog=verb, allow_abbrev=False)
    module.add(parser)
    parser.parse_args(rest)


def test_the_help_of_train_names_every_recipe() -> None:
    said = importlib.import_module("safelight.cli.train").__doc__ or ""
    assert [name for name in names() if not re.search(rf"[\s,]{name}[,.]", said)] == []


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 15


def test_the_cli_page_names_every_verb_and_every_extra_that_is_there() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for verb in VERBS:
        assert f"| `{verb}` |" in page


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = r'<(?:script|img|link)[^>]+(?:src|href)="https?://[^"]*\.(?:js|css|png|woff2?)"'
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(loaded, page.read_text())  # links may lead elsewhere; what a page loads may not
