"""Data that Debian packages: installed by apt-get where this system can."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from safelight.data.source import DataError


def install(package: str, size: str, what: str, remedy: str, say: Callable[[str], None]) -> None:
    """Install a package, refreshing the list of packages once when that fails.

    size, what: of the download and of the data, for people. remedy: what a person does instead. say: is told, in one line each, what
    is done. Raises DataError, in one line with the remedy, without apt-get, without the right to use it, or when it fails.
    """
    prefix = _administrator()
    if shutil.which("apt-get") is None or prefix is None:
        raise DataError(f"{what} is not on this machine: {remedy}")
    fault = _install(prefix, package, size, say)
    if fault:
        raise DataError(f"apt-get could not install {package} ({fault}): {remedy}")


def fetched(
    find: Callable[[], Path | None], package: str, put: str, size: str, what: str, remedy: str, say: Callable[[str], None]
) -> Path:
    """What `find` finds, the package being installed first if it finds nothing.

    put: where the package puts it. Raises DataError as `install` does, and when nothing is found after it.
    """
    there = find()
    if there is None:
        install(package, size, what, remedy, say)
        there = find()
        if there is None:
            raise DataError(f"the package {package} is installed but {put}: {remedy}")
    return there


def _administrator() -> list[str] | None:
    """What to put before a command so that it may install packages: nothing for root, sudo when it asks no password."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
        return ["sudo", "-n"]
    return None


def _install(prefix: list[str], package: str, size: str, say: Callable[[str], None]) -> str:
    """Why it failed; "" when it did not."""
    quiet = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    command = [*quiet, "install", "-y", "--no-install-recommends", package]
    say(f"installing Debian's package {package} ({size})")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say("refreshing the list of packages")
        subprocess.run([*quiet, "update"], capture_output=True, check=False)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
