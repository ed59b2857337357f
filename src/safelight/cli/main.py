"""`safelight VERB ...`: a static index of verbs, one module a verb, and the one boundary where errors become sentences.

The index below is all that `safelight --help` reads: torch, numpy and pydantic are imported by the verb that needs them.
A verb's module has `add(parser)`, which declares its options, and `run(args) -> int`, whose result is the exit code.

Exit codes: 0 done, 1 done and found something wrong (`data check`, `prompt check`, `doctor`), 2 the input cannot be used, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from typing import NoReturn

from safelight import __version__

# verb -> (module in this room, one line of help)
VERBS: dict[str, tuple[str, str]] = {
    "generate": ("generate", "make a picture of words, and see how it came out of noise"),
    "edit": ("edit", "change a picture: all of it, a masked part, or beyond its edges"),
    "upscale": ("upscale", "make a picture larger, its details drawn anew"),
    "vary": ("vary", "make variations of a picture: the same, a little otherwise"),
    "morph": ("morph", "make the pictures on the way from one to another, and a film of them"),
    "mix": ("mix", "add, subtract and weight texts and pictures, and make the picture of the sum"),
    "grid": ("grid", "one sheet of pictures over one, two or three fields of a request"),
    "studio": ("studio", "open the page in which pictures are made, watched, edited and explained"),
    "serve": ("serve", "serve pictures over HTTP: our API, OpenAI's images, A1111's endpoints"),
    "runs": ("runs", "the runs that a server keeps: ls, show, fork, rm"),
    "explain": ("explain", "one HTML file that shows how a picture came out of noise"),
    "sample": ("sample", "make pictures with a trained model"),
    "tokens": ("tokens", "make texts and pictures with a model of tokens, or measure its bound"),
    "reproduce": ("reproduce", "make a picture again from what its file says, and compare every byte"),
    "train": ("train", "train a model from a recipe or a config file"),
    "evaluate": ("evaluate", "measure a model's pictures against real ones"),
    "tune-sampler": ("tune_sampler", "fit a sampler to a model, so that few steps end where many would"),
    "noise": ("noise", "show a picture drowning in noise, at chosen times and schedules"),
    "plot": ("plot", "draw schedules or a run's losses to a file"),
    "data": ("data", "look at a data set before training (check), or get one (fetch)"),
    "scenes": ("scenes", "look at the sprite scenes that the embedded model learns from"),
    "prompt": ("prompt", "what could be said better in a prompt (check), and what an encoder reads of it (read)"),
    "pull": ("pull", "download a published model: safetensors, configurations and vocabularies only"),
    "convert": ("convert", "bring a model into another layout, or a pickle into a safetensors file"),
    "lora": ("lora", "look at an adapter (LoRA), write it in another flavour, or merge it into a model"),
    "export": ("export", "write a trained model as one small file, or as others' tools read it"),
    "inspect": ("inspect", "what a model file holds: spec, lineage, parameters, without reading weights"),
    "plan": ("plan", "what a run will take, before anything is loaded: memory by part, operations, what fits"),
    "list": ("list", "every registered part with its fields"),
    "doctor": ("doctor", "versions, devices, precisions and folders of this machine"),
    "version": ("", "print the version"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest right option and exits with 2, in one line."""

    def read(self, argv: list[str]) -> argparse.Namespace:
        """What is given, flags and words in any order: `edit photo.png --steps 9 "a cat"`. Verbs within a verb come first."""
        return self.parse_args(argv) if self._subparsers else self.parse_intermixed_args(argv)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (.*)", message)
        choice = re.match(r"argument (\S+): invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message)
        if unknown:
            first = unknown[1].split()[0]
            field = "; a field is changed by --set PATH=VALUE" if "--set" in self._option_string_actions else ""
            message = f"unknown option {first}{_near(first.split('=')[0], self._option_string_actions, 0.7) or field}"
        elif choice:
            choices = [c.strip(" '") for c in choice[3].split(",")]
            message = f"{choice[1]}: no '{choice[2]}'{_near(choice[2], choices)} (one of: {', '.join(choices)})"
        self.exit(2, f"{self.prog.replace(' ', ': ', 1)}: {message}\n")


def _near(name: str, names: object, cutoff: float = 0.5) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)  # type: ignore[call-overload]
    return f"; did you mean '{close[0]}'?" if close else ""


def usage() -> str:
    """The text of `safelight --help`."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return (
        f"usage: safelight VERB [options]\n\nDiffusion models you can watch.\n\nverbs:\n{rows}\n\n"
        "safelight VERB --help shows a verb's options. SAFELIGHT_TRACEBACK=1 shows where an error came from.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; never lets an expected error out as a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Before torch loads its OpenMP: threads that wait by spinning took 48 s of CPU for 8 s of work on a machine with other users.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    verb, rest = argv[0], argv[1:]
    if verb in ("version", "--version", "-V"):
        print(f"safelight {__version__}")
        return 0
    if verb not in VERBS:
        return _fail(f"no verb '{verb}'{_near(verb, VERBS)} (verbs: {', '.join(VERBS)})")
    try:
        module = importlib.import_module(f"safelight.cli.{VERBS[verb][0]}")
        parser = Parser(prog=f"safelight {verb}", description=module.__doc__, formatter_class=_Formatter, allow_abbrev=False)
        module.add(parser)
        code = int(module.run(parser.read(rest)))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): not an error, but Python must not flush into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get("SAFELIGHT_TRACEBACK"):
            raise
        return _fail(f"{verb}: {sentence}")


def explain(error: Exception) -> str | None:
    """The one line that says what was wrong with the input, or None when the error is ours and deserves its traceback."""
    name = type(error).__name__
    if isinstance(error, OSError):
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}"
        return _flat(error.strerror or str(error))
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if name in ("SafetensorError", "YAMLError", "JSONDecodeError", "UnidentifiedImageError", "OutOfMemoryError"):
        return _flat(str(error))
    if isinstance(error, MemoryError) or (name == "RuntimeError" and "can't allocate memory" in str(error)):
        return "there is not enough memory for what is asked: ask for a smaller picture, or set micro_batch"
    if "spec" not in name.lower() and "safelight.spec" not in sys.modules:
        return None
    from pydantic import ValidationError

    from safelight.spec import SpecError, one_line

    if isinstance(error, SpecError):
        return _flat(str(error))
    if isinstance(error, ValidationError):
        return one_line(error)
    return None


def _missing(error: ModuleNotFoundError) -> str | None:
    """An absent optional dependency is answered with the command that installs it; the package's metadata knows the extra."""
    name = (error.name or "").split(".")[0]
    for extra, packages in extras().items():
        if any(re.sub(r"[-.]", "_", p).lower() in (name, f"{name}_python") for p in packages):
            return f"this needs the package '{name}', which is optional: pip install 'safelight[{extra}]'"
    return None


def extras() -> dict[str, list[str]]:
    """Extra -> the packages it brings, as this installation's metadata declares them; empty when run from loose files."""
    import importlib.metadata

    found: dict[str, list[str]] = {}
    try:
        lines = importlib.metadata.requires("safelight") or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[.*?\])?[^;]*;.*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[2] not in ("dev", "bench") and match[1] != "safelight":
            found.setdefault(match[2], []).append(match[1])
    return found


def _flat(text: str) -> str:
    return " ".join(text.split())


def _fail(sentence: str, code: int = 2) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"safelight: {sentence}\n")
    return code


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(110, int(os.environ.get("COLUMNS", 110))))


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
