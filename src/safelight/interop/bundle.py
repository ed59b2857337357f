"""A model that no published class has a place for, as a folder that diffusers loads all the same.

Each part (network, codec, text encoder) becomes a component with its weights, its description, and the source of our own modules that
it is built of, flat beside it: what is run there is what is run here, and there is no second implementation that could drift. diffusers
runs such code when it is told `trust_remote_code=True`; beside torch and diffusers it needs pydantic.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from safelight.codec.pixels import PixelsSpec
from safelight.files import atomic_bytes, sync_folder
from safelight.grid import Shifted
from safelight.guide.cfg import CFG
from safelight.model import Model
from safelight.process.continuous import Flow
from safelight.process.tables import Table
from safelight.spec import Spec, SpecError, describe
from safelight.text.clip import CLIPText
from safelight.text.vocabulary import Carried, files_of, pack

# What our parameterizations are called there; on `flow` its scheduler takes velocities.
_PREDICTS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_T = 1000  # entries of the table by which a continuous process is written there
_ROOMS = re.compile(r"^ROOMS: dict\[str, str\] = \{.*?^\}$", re.MULTILINE | re.DOTALL)
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class Part(NamedTuple):
    """A component: its folder there, its class, its description here, its weights, and the kinds that it is built of."""

    name: str
    kind: str
    spec: dict[str, Any]
    state: dict[str, Tensor]
    kinds: set[type[Spec]]


def write(model: Model, folder: Path) -> None:
    """Write the model as a folder for diffusers, whole or not at all.

    Raises SpecError, in one line, for what diffusers' schedulers have no name for, and when the folder is there already.
    """
    if folder.exists():
        raise SpecError(f"{folder} is there already: name another folder, or remove it first")
    scheduler, clock = schedule(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        index: dict[str, Any] = {
            "_class_name": ["pipeline", "SafelightPipeline"],
            "_diffusers_version": "0.35.0",
            "vae": [None, None],
            "text_encoder": [None, None],
            "scheduler": ["diffusers", scheduler["_class_name"]],
        }
        for part in parts(model):
            module = f"safelight_{part.name}"
            index[part.name] = [module, part.kind]
            there = temporary / part.name
            there.mkdir()
            for name, source in _sources(part).items():
                (there / f"{name}.py").write_text(source, encoding="utf-8")
            config = {"_class_name": part.kind, "_diffusers_version": "0.35.0", "spec": part.spec}
            atomic_bytes(there / "config.json", _json(config))
            save_file({f"part.{k}": v.contiguous() for k, v in part.state.items()}, there / _WEIGHTS, metadata={"format": "pt"})
        atomic_bytes(temporary / "scheduler" / "scheduler_config.json", _json(scheduler))
        spec = model.spec
        mix = spec.defaults.mix
        index |= {
            "channels": spec.channels,
            "size": list(spec.size),
            "steps": spec.defaults.steps,
            "guidance_scale": mix.scale if isinstance(mix, CFG) and isinstance(mix.scale, float | int) else 1.0,
            "clock": clock,
        }
        atomic_bytes(temporary / "model_index.json", _json(index))
        (temporary / "pipeline.py").write_text(_template("pipeline"), encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def schedule(model: Model) -> tuple[dict[str, Any], int]:
    """The scheduler's config, and what is added to its timesteps before the network is told them.

    `flow`: Euler on the same sigmas, with the shift of the process and of the default grid. Variance preserving: DDIM on a table of the
    same levels; entry i is t = (i + 1)/T, of which a continuous process tells its network 1000 t, so one more. Raises SpecError for others.
    """
    process, kind = model.process.settled(), model.spec.parameterization.kind
    if isinstance(process, Flow):
        if kind != "velocity":
            raise SpecError(f"diffusers has no flow scheduler for parameterization '{kind}'; it takes 'velocity'")
        grid = model.spec.defaults.grid
        shift = process.shift * (grid.shift if isinstance(grid, Shifted) and grid.start == 1 else 1.0)
        named = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": _T, "shift": shift}
        return named | {"use_dynamic_shifting": False, "_diffusers_version": "0.35.0"}, 0
    entries = process.entries or _T
    levels = process.at(torch.arange(1, entries + 1, dtype=torch.float64) / entries)
    bar = levels.alpha.square()
    if not bool(torch.allclose(bar + levels.sigma.square(), torch.ones_like(bar), atol=1e-9)):
        raise SpecError(f"diffusers has no scheduler for process '{process.kind}' as it is trained here")
    if kind not in _PREDICTS:
        raise SpecError(f"diffusers has no name for parameterization '{kind}' (it has {', '.join(_PREDICTS)})")
    if not isinstance(process, Table) and entries != _T:
        raise SpecError(f"diffusers' clock has {_T} ticks; process '{process.kind}' has {entries}")
    betas = 1 - bar / torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    config = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.35.0",
        "num_train_timesteps": entries,
        # One entry of exactly 1 would make all levels after it 0/0.
        "trained_betas": betas.clamp(max=1 - 1e-9).tolist(),
        "clip_sample": False,
        "set_alpha_to_one": True,
        "prediction_type": _PREDICTS[kind],
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": False,
        "thresholding": False,
        "steps_offset": 0,
    }
    return config, 0 if isinstance(process, Table) else 1


def parts(model: Model) -> Iterator[Part]:
    """The components of a model: the network, the codec unless it is pixels, the text encoder if there is one."""
    yield _part("unet", "SafelightNetwork", model.denoiser.network, model.spec.network)
    if not isinstance(model.spec.codec, PixelsSpec):
        yield _part("vae", "SafelightCodec", model.codec, model.spec.codec)
    if model.text is None:
        return
    part = _part("text_encoder", "SafelightText", model.text, model.spec.text)
    vocabulary = part.spec.get("vocabulary")
    if isinstance(vocabulary, str):  # a name that only our package knows
        assert isinstance(model.text, CLIPText)
        tokenizer = model.text.tokenizer
        packed = pack(files_of(tokenizer))
        carried = Carried(size=tokenizer.size, begin=tokenizer.begin, end=tokenizer.end, packed=len(packed))
        part.spec["vocabulary"] = describe(carried)
        part.state["vocabulary"] = packed
    yield part


def _part(name: str, kind: str, module: nn.Module, spec: Spec | None) -> Part:
    assert spec is not None
    state = {k: v.detach().cpu() for k, v in module.state_dict().items()}
    return Part(name, kind, describe(spec), state, set(_kinds(spec)))


def _kinds(value: Any) -> Iterator[type[Spec]]:
    """The classes of all specs within a spec."""
    if isinstance(value, Spec):
        yield type(value)
        for name in type(value).model_fields:
            yield from _kinds(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _kinds(item)


def _sources(part: Part) -> dict[str, str]:
    """The component's files by module name: its own, and those of ours that it imports, with their imports made relative."""
    start = {kind.__module__ for kind in part.kinds} | {"safelight.spec", "safelight.cond"}
    found = sorted(_closure(start))
    # diffusers keeps the code of all local folders in one place: other sources need other names.
    digest = hashlib.sha256("".join(map(_source, found)).encode()).hexdigest()[:8]
    flat = {module: f"safelight_{digest}_{module.removeprefix('safelight.').replace('.', '_')}" for module in found}
    files = {flat[module]: _rewritten(module, flat) for module in found}
    # All are named here: diffusers takes along what a component's own file imports, and no further; importing one registers its kinds.
    used = {"safelight.spec": "build as _build", "safelight.cond": "Cond as _Cond"}
    lines = [f"from .{name} import {used.get(module, '__doc__ as _')}  # noqa: F401" for module, name in flat.items()]
    text = _template("component").replace("@METHODS@", _template(part.name).rstrip("\n"))
    text = text.replace("@IMPORTS@", "\n".join(lines)).replace("@CLASS@", part.kind)
    return {f"safelight_{part.name}": text, **files}


def _closure(start: Iterable[str]) -> set[str]:
    """The modules of ours that these import, and so on; those only for type checkers left out."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += {name for node in _imports(module) for name in _targets(node)}
    return seen


def _file(module: str) -> Path | None:
    """The source of one of our modules, None for a name that is none."""
    base = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)


def _source(module: str) -> str:
    path = _file(module)
    assert path is not None
    return path.read_text(encoding="utf-8")


def _imports(module: str) -> list[ast.ImportFrom]:
    """Its `from safelight... import`s, but for those inside `if TYPE_CHECKING`."""
    tree = ast.parse(_source(module))
    hidden = {id(n) for block in ast.walk(tree) if _for_checkers(block) for n in ast.walk(block)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and id(n) not in hidden]
    return [n for n in found if (n.module or "").split(".")[0] == "safelight"]


def _for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _targets(node: ast.ImportFrom) -> set[str]:
    """The modules that an import names: a module's names come from it, a package's may be modules themselves."""
    assert node.module is not None
    return {full if _file(full := f"{node.module}.{name.name}") else node.module for name in node.names}


def _rewritten(module: str, flat: dict[str, str]) -> str:
    """Its source with its imports of ours made those of the flat files, and its room's registration left out."""
    text = _source(module)
    lines = text.splitlines()
    tree = ast.parse(text)
    for node in sorted(ast.walk(tree), key=lambda n: -getattr(n, "lineno", 0)):
        if _for_checkers(node):
            assert isinstance(node, ast.If) and node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = []
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "safelight":
            assert node.end_lineno is not None
            pad = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [pad + line for line in _relative(node, flat)]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _named(node.value.func) == "import_all":
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = []
    return _ROOMS.sub("ROOMS: dict[str, str] = {}", "\n".join(lines)) + "\n"


def _named(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _relative(node: ast.ImportFrom, flat: dict[str, str]) -> Iterator[str]:
    """The lines of an import of ours, among the flat files. Nothing for what a type checker alone reads."""
    for name in node.names:
        full = f"{node.module}.{name.name}"
        if full in flat:
            yield f"from . import {flat[full]} as {name.asname or name.name}"
        elif node.module in flat:
            yield f"from .{flat[node.module]} import {name.name}" + (f" as {name.asname}" if name.asname else "")


def _template(name: str) -> str:
    return (resources.files("safelight.interop") / "portable" / f"{name}.py.in").read_text(encoding="utf-8")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
