"""What a file holds, from its header alone: no weight is read.

FILE is a model, a run's folder, the name of a model that ships, a diffusers folder, a published single file, a trace, any other
safetensors file, or a picture: then its note, with the request that made it and the pictures it descends from, or the `parameters`
text of another tool.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from safelight.spec import SpecError

# The parts of a model, and of its denoiser's network one level deeper, are what a person asks the size of.
_DEPTH = 3


def add(parser: argparse.ArgumentParser) -> None:
    """The file, `--tensors`, `--json`."""
    parser.add_argument("file", metavar="FILE", help="a model file, a run's folder, a name that ships, or a picture")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what the header says."""
    from safelight.picture import FORMATS

    pictured = Path(args.file).suffix.lower() in FORMATS
    found = carried(args.file) if pictured else look(args.file, tensors=args.tensors)
    if args.json:
        print(json.dumps(found, indent=2))
    elif pictured:
        unfold(found)
    else:
        show(found)
    return 0


def carried(source: str) -> dict[str, Any]:
    """What a picture's file says of it, JSON-ready, without torch. Raises SpecError for a damaged note."""
    from safelight import picture

    note = picture.note(source)
    texts = picture.texts(source)
    found: dict[str, Any] = {"file": source, "bytes": Path(source).stat().st_size, "what": "picture"}
    if note is not None:
        found |= {"note": note.model_dump(mode="json")}
    if picture.PARAMETERS in texts:
        found |= {"parameters": texts[picture.PARAMETERS]}
    return found


def unfold(found: dict[str, Any]) -> None:
    """Print a picture's note for a person: how it was made, what it descends from, and on what machine."""
    print(f"{found['file']}: {found['what']}, {sized(found['bytes'])}")
    note = dict(found.get("note", {}))
    if not note:
        print(f"\nparameters\n{found['parameters']}" if "parameters" in found else "it says nothing of how it was made")
        return
    request, lineage = note.pop("request"), note.pop("lineage")
    which = f"picture {note['index'] + 1} of {note['count']} of the run" if note["count"] > 1 else "the only picture of the run"
    print(f"\nrequest ({which})\n" + outline(request, 1))
    print("\nlineage, oldest first" if lineage else "\nlineage\n  none: made from no other picture")
    for ancestor in lineage:
        made = ancestor["request"]
        words = ", ".join(map(repr, made["prompt"])) if made else ""
        how = f"{(made.get('task') or {}).get('kind', 'text')} {words}, by {ancestor['model']['name']}" if made else "no note"
        print(f"  {ancestor['seal']}  {how}")
    del note["index"], note["count"]
    print("\nfacts\n" + outline({k: v for k, v in note.items() if v not in ({}, [], "")}, 1))


def look(source: str, *, tensors: bool = False) -> dict[str, Any]:
    """Everything the command prints, JSON-ready. Raises SpecError, in one line, for what is no safetensors file."""
    from safelight.interop.checkpoint import entries as described
    from safelight.interop.checkpoint import raw_header
    from safelight.model import locate, peek

    path = locate(source)
    if path.is_dir():
        size, notes, about, entries = sum(f.stat().st_size for f in path.rglob("*.safetensors")), {}, {"spec": None}, {}
    else:
        raw, size = raw_header(path), path.stat().st_size
        notes, entries = raw.get("__metadata__", {}), described(raw)
        try:
            about = json.loads(notes.get("safelight", "{}"))
        except json.JSONDecodeError:
            raise SpecError(f"{path}: its header has a 'safelight' entry that is no JSON: the file is damaged") from None
    found: dict[str, Any] = {"file": str(path), "bytes": size, "what": about.get("what", "foreign safetensors")}
    header, why = None, ""
    if "spec" in about:
        header = peek(path)
    elif not about:
        try:
            header = peek(path)
        except SpecError as error:
            why = str(error)
    if header is not None:
        found |= {"what": "model" if header.layout == "safelight" else f"model ({header.layout})", "format": header.format}
        found |= {"spec": header.spec, "lineage": header.lineage}
        found["weights"] = {name: weights(header.tensors, name) for name in header.weights}
        entries = header.tensors
    else:
        found["metadata"] = about or notes
        found["tensors"] = counted(entries)
        if why:
            found["note"] = why
    if tensors:
        found["every tensor"] = {name: {"dtype": e.dtype, "shape": list(e.shape)} for name, e in entries.items()}
    return found


def weights(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """One set of weights: how many values of which dtype, by part of the model."""
    mine = {k.removeprefix(name + "/"): e for k, e in entries.items() if k.startswith(name + "/")}
    return counted(mine) | {"by part": by_part(mine)}


def counted(entries: dict[str, Any]) -> dict[str, Any]:
    """Numbers of tensors and values, and the values of each dtype."""
    dtypes: Counter[str] = Counter()
    for entry in entries.values():
        dtypes[entry.dtype] += entry.size
    return {"tensors": len(entries), "parameters": sum(dtypes.values()), "dtypes": dict(dtypes.most_common())}


def by_part(entries: dict[str, Any]) -> dict[str, int]:
    """Values by the first names of the path: `text`, `denoiser.network.stages`, ..."""
    parts: Counter[str] = Counter()
    for name, entry in entries.items():
        keys = name.split(".")[:-1]
        parts[".".join(keys[:_DEPTH] if keys[0] == "denoiser" else keys[:1]) or name] += entry.size
    return dict(parts)


def show(found: dict[str, Any]) -> None:
    """Print it for a person."""
    print(f"{found['file']}: {found['what']}, {sized(found['bytes'])}")
    if "spec" in found:
        if found["what"] == "model":
            print(f"format {found['format']}")
        print("\nspec\n" + outline(found["spec"], 1))
        print("\nlineage\n" + (outline(brief(found["lineage"]), 1) or "  none"))
        for name, row in found["weights"].items():
            print(f"\nweights '{name}': {row['parameters']:,} in {row['tensors']} tensors ({dtypes(row)})")
            for part, count in row["by part"].items():
                print(f"  {count:>12,}  {part}")
    else:
        row = found["tensors"]
        if "note" in found:
            print(found["note"])
        print(f"{row['parameters']:,} values in {row['tensors']} tensors ({dtypes(row)})")
        if found["metadata"]:
            print("\nmetadata\n" + outline(found["metadata"], 1))
    for name, entry in found.get("every tensor", {}).items():
        print(f"  {entry['dtype']:<5} {'x'.join(map(str, entry['shape'])) or 'scalar':<16} {name}")


def brief(lineage: dict[str, Any]) -> dict[str, Any]:
    """A lineage without what a foreign file said word for word, of which the classes are told."""
    origin = lineage.get("origin")
    if not isinstance(origin, dict):
        return lineage
    index = origin.get("index", {})
    classes = {part: value[1] for part, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    told = {"layout": origin.get("layout"), "class": index.get("_class_name"), **classes}
    told |= {k: v for k, v in origin.items() if k not in ("layout", "index", "components")}
    return {**lineage, "origin": {k: v for k, v in told.items() if v}}


def dtypes(row: dict[str, Any]) -> str:
    """`F16`, or `F32 1,024, I64 3` where there are several."""
    kinds = row["dtypes"]
    return next(iter(kinds), "none") if len(kinds) < 2 else ", ".join(f"{k} {n:,}" for k, n in kinds.items())


def outline(value: dict[str, Any], depth: int) -> str:
    """A mapping as an indented outline; a part without fields of its own stands as its kind."""
    lines = []
    for key, item in value.items():
        if key in ("kind", "family"):
            continue
        if isinstance(item, dict):
            kind = str(item.get("kind", ""))
            inside = outline(item, depth + 1)
            lines.append(f"{'  ' * depth}{key}: {kind}".rstrip() + (f"\n{inside}" if inside else ""))
        else:
            text = json.dumps(item, ensure_ascii=False)
            lines.append(f"{'  ' * depth}{key}: {text if len(text) <= 100 else text[:97] + '...'}")
    return "\n".join(lines)


def sized(count: int) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
