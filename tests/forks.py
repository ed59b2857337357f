"""Children by fork, but not of the process that tests: that one has threads, and a child forked while one of them holds a lock waits
for it for ever, with every socket of its parent open."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest

# What children are made of, imported once: torch.optim imports the last when it is first used.
_LOADED = [
    "pytest",
    "tests.train.victim",
    "tests.serve.test_folder",
    "tests.serve.test_jobs",
    "tests.serve.test_kills",
    "tests.serve.test_restarts",
    "torch._dynamo",
]


@functools.cache
def context() -> ForkServerContext:
    """Processes, queues and pools whose children come, in milliseconds, from a process that has imported everything and runs nothing."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_LOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return found
