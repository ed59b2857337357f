"""Journal: the run's lines of JSON. Steps never go backwards in it, also when a killed run is taken up again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safelight.files import atomic_bytes
from safelight.train.checkpoint import Unwritable, reason


class Journal:
    """One JSON object a line, each with its `step`; `metrics.jsonl` is one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record. NaN and infinities become null, which JSON has. Raises Unwritable when the disk is full."""
        line = json.dumps(_strict(record), allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise Unwritable(f"{self.path}: {reason(error)}; make room and go on with --resume") from None

    def read(self) -> list[dict[str, Any]]:
        """Every whole record, in order; a last line that a killed run left torn is not one."""
        found = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    break
        return found

    def trim(self, step: int) -> None:
        """Forget what was written after `step`, and a torn last line: a resumed run writes it again."""
        if self.path.exists():
            lines = [json.dumps(record) for record in self.read() if record["step"] <= step]
            atomic_bytes(self.path, "".join(line + "\n" for line in lines).encode())


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return value
