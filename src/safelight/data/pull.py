"""Models of the Hugging Face hub, brought here when somebody asks for one: tensors, configurations and vocabularies, and nothing that runs.

A revision is pinned to the commit that it is now, and the files lie in the hub's own cache, where other tools find them too; what is
there already is not brought again, and a download that broke off goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from safelight.data.extra import need
from safelight.data.hub import offline
from safelight.data.source import DataError
from safelight.spec import nearest

INDEX = "model_index.json"
_ASIDE = (".json", ".txt", ".model")
_NOTICES = re.compile(r"(README|LICEN[SC]E|NOTICE)[\w.-]*", re.IGNORECASE)
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
# What the HTTP client calls a connection that ended too soon.
_BROKEN = {"TransportError", "ChunkedEncodingError", "IncompleteRead"}
_ROOM = 200_000_000  # bytes that stay free on the disk


class File(NamedTuple):
    """A file of a repository, by its name there, and its size in bytes."""

    name: str
    size: int


class Pulled(NamedTuple):
    """path: the folder, or the one file that was asked for. asked: whether the hub was reached."""

    path: Path
    asked: bool


def pull(
    repo: str,
    revision: str | None = None,
    *,
    variant: str = "",
    file: str | None = None,
    out: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Pulled:
    """Bring a model here.

    revision: a branch, tag or commit; None is the newest. variant: as in `model.fp16.safetensors`. file: one file of it alone. out: a
    folder to lay it in, instead of the cache. say: told what is brought before it is. Without a way to the hub the copy in the cache is
    taken, if there is one. Raises DataError, in one line, where there is none, and for what holds no safetensors.
    """
    hub = need("huggingface_hub", "models of the hub")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise DataError(f"'{repo}' is no repository: they are called owner/name")
    which = f"{repo} at revision {revision or 'main'}"
    try:
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:  # the library and its HTTP client raise dozens of classes
        if not offline(error):
            raise DataError(f"hub: {which}: {_line(error)}") from None
        return Pulled(_cached(hub, repo, revision, file, which), False)
    files = [File(s.rfilename, s.size or 0) for s in info.siblings or ()]

    def fetched(names: Sequence[str]) -> Path:
        try:
            if out is not None:
                return Path(hub.snapshot_download(repo, revision=info.sha, allow_patterns=list(names), local_dir=out))
            return Path(hub.snapshot_download(repo, revision=info.sha, allow_patterns=list(names)))
        except Exception as error:
            if offline(error) or {cls.__name__ for cls in type(error).__mro__} & _BROKEN:
                raise DataError(
                    f"hub: {which}: the way to the hub broke off; call it again, it goes on where it stopped"
                ) from None
            raise DataError(f"hub: {which}: {_line(error)}") from None

    components = None
    if file is None and any(f.name == INDEX for f in files):
        text = (fetched([INDEX]) / INDEX).read_bytes()
        try:
            components = _components(json.loads(text))
        except (ValueError, AttributeError):
            raise DataError(f"hub: {which}: its {INDEX} is damaged") from None
    chosen = choose(files, which, components, variant, file)
    size = sum(f.size for f in chosen)
    say(f"{repo} at {info.sha[:12]}: {len(chosen)} files, {size / 1e6:,.1f} MB")
    there = out or Path(hub.constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (there, *there.absolute().parents) if p.exists())).free
    if size + _ROOM > free:
        raise DataError(f"hub: {which} has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {there}")
    folder = fetched([f.name for f in chosen])
    return Pulled(folder / file if file else folder, True)


def choose(
    files: Sequence[File], which: str, components: Sequence[str] | None, variant: str = "", file: str | None = None
) -> list[File]:
    """The files of a repository that make its model.

    components: the folders that its index names, None where it has no index. Raises DataError where there are no safetensors, or several
    single files of which none was named.
    """
    safe = [f for f in files if not f.name.startswith("/") and ".." not in PurePosixPath(f.name).parts]
    if file is not None:
        found = [f for f in safe if f.name == file]
        if not found:
            raise DataError(f"hub: {which} has no file '{file}'{nearest(file, [f.name for f in safe])}")
        if not file.endswith((".safetensors", *_ASIDE)):
            raise DataError(f"hub: '{file}' is no safetensors file, and nothing else is brought: a pickle could run code")
        return found
    notices = [f for f in safe if _NOTICES.fullmatch(f.name)]
    if components is None:
        singles = [f for f in safe if "/" not in f.name and f.name.endswith(".safetensors")]
        if len(singles) != 1:
            names = ", ".join(f.name for f in singles[:6])
            raise DataError(
                f"hub: {which} holds several files, say which with --file: {names}"
                if singles
                else f"hub: {which} holds no safetensors{_instead(safe)}"
            )
        return singles + [f for f in safe if "/" not in f.name and f.name.endswith(_ASIDE)] + notices
    chosen = [f for f in safe if f.name == INDEX] + notices
    for part in components:
        inside = [f for f in safe if PurePosixPath(f.name).parent.as_posix() == part]
        weights = [f for f in inside if f.name.endswith(".safetensors") or ".safetensors.index." in f.name]
        kinds = sorted({_variant(f.name) for f in weights})
        wanted = variant if variant in kinds else "" if "" in kinds else variant
        if weights and wanted not in kinds:
            named = ", ".join(kinds)
            raise DataError(
                f"hub: {which}: {part} has no weights of the variant '{variant}' (it has: {named}): say --variant {kinds[0]}"
            )
        if not weights and any(f.name.endswith(_PICKLED) for f in inside):
            raise DataError(
                f"hub: {which}: {part} holds its weights as pickles only, which are not brought: they could run code"
            )
        chosen += [f for f in weights if _variant(f.name) == wanted]
        chosen += [f for f in inside if f.name.endswith(_ASIDE) and f not in weights]
    return chosen


def cached(repo: str) -> Path | None:
    """The folder of a repository in the hub's cache, None where there is none. Only files are looked at, no library is asked."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    store = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    folder = store / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except OSError:
        found = sorted(folder.glob("snapshots/*"), key=lambda p: p.stat().st_mtime)
        return found[-1] if found else None
    there = folder / "snapshots" / commit
    return there if there.is_dir() else None


def _components(index: dict[str, Any]) -> list[str]:
    return [
        part
        for part, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
    ]


def _variant(name: str) -> str:
    """The variant in the name of a file of weights, "" for none."""
    base = PurePosixPath(name).name
    base = re.sub(r"-\d{5}-of-\d{5}", "", base)
    match = re.fullmatch(r"[\w-]+(?:\.([\w-]+))?\.safetensors(?:\.index(?:\.([\w-]+))?\.json)?", base)
    return (match[1] or match[2] or "") if match else ""


def _instead(files: Sequence[File]) -> str:
    pickled = next((f.name for f in files if f.name.endswith(_PICKLED)), None)
    return f", only pickles ({pickled}), which are not brought: they could run code" if pickled else ""


def _cached(hub: Any, repo: str, revision: str | None, file: str | None, which: str) -> Path:
    folder = cached(repo) if revision is None else None
    try:
        folder = folder or Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:  # not there, in one of many classes
        folder = None
    if folder is None or (file and not (folder / file).exists()):
        raise DataError(f"hub: {which} is not in the cache, and the hub cannot be reached: connect, or give the path of a copy")
    return folder / file if file else folder


def _line(error: Exception) -> str:
    named = {
        "RepositoryNotFoundError": "there is no such repository, or it is not open",
        "RevisionNotFoundError": "there is no such revision",
    }
    known = next((named[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in named), None)
    gated = any(cls.__name__ == "GatedRepoError" for cls in type(error).__mro__)
    return (
        "its owner asks for consent first: give it on the hub's page, and log in"
        if gated
        else known or " ".join(str(error).split())[:200]
    )
