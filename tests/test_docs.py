"""The documentation cannot drift: every kind stands on its page, every command in it is accepted, and the site builds."""

from __future__ import annotations

import importlib
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
    "weighting": "training.md",
    "times": "training.md",
    "distance": "training.md",
    "average": "training.md",
}


@pytest.mark.parametrize("family", HOME)
def test_every_kind_is_on_its_page(family: str) -> None:
    page = (ROOT / "docs" / HOME[family]).read_text()
    assert [kind for kind in kinds(family) if f"`{kind}`" not in page] == []


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
