"""Fifty times three models and three adapters: memory stays, weights come back to the last bit, nothing is held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_fifty_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    """A1111#7451, forge#500: memory grows with every model or adapter that is switched to. One of the models alone is 22 MB."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.adapt.cycles", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["alive"] == 0 and found["exact"] and found["moved"] > 1e-3
    after_all_once, end = max(found["memory"][:10]), max(found["memory"][-10:])
    assert len(found["memory"]) == 50 and end < 1.05 * after_all_once, [round(v / 1e6) for v in found["memory"]]
