"""Look at a prompt before it is used. Examples:

safelight prompt check "please draw me a cat, no dogs"
safelight prompt check "a cat, soft light, sitting" --fix
safelight prompt check "a quokka on a blue background" --model fashion-mnist --json
safelight prompt read "a (red:1.3) apple BREAK [soft light]" --emphasis comfy

check says what could be said better, why, and how; it exits with 1 when it found something (with --fix: when something is left).
read shows what an encoder will read: windows of tokens, their borders, and the weight of every piece of text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safelight.prompt import Finding

_MODES = ("a1111", "comfy", "compel", "none")


def add(parser: argparse.ArgumentParser) -> None:
    """Two things to do: check, read."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="{check,read}")
    check = verbs.add_parser("check", help="what could be said better, with reasons and fixes")
    read = verbs.add_parser("read", help="the windows of tokens that an encoder reads, with weights")
    for verb in (check, read):
        verb.add_argument("prompt", help="the prompt, in quotes")
        verb.add_argument("--emphasis", choices=_MODES, default="a1111", help="how brackets weigh (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument("-n", "--negative", default="", metavar="TEXT", help="the negative prompt")
    check.add_argument("--film", action="store_true", help="the prompt is a film's")
    check.add_argument("--model", metavar="NAME", help="check the words against what this model has learned")
    check.add_argument("--max-length", type=int, default=1024, metavar="N", help="characters at most (default: %(default)s)")
    check.add_argument("--fix", action="store_true", help="print the prompt and the negative prompt with all fixes applied")
    read.add_argument("--vocabulary", default="clip-vocabulary", help="the tokenizer's (default: %(default)s)")
    read.add_argument(
        "--length", type=int, default=32, metavar="N", help="tokens a window, begin and end among them (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings, the mended prompt, or the windows."""
    return _read(args) if args.what == "read" else _check(args)


def _check(args: argparse.Namespace) -> int:
    from safelight.prompt import check, fix, vocabulary_of

    if args.max_length < 1:
        from safelight.spec import SpecError

        raise SpecError(f"--max-length {args.max_length}: at least 1 character is needed")
    known = None
    if args.model is not None:
        from safelight.model import peek

        known = vocabulary_of(peek(args.model))
    asked: dict[str, Any] = {
        "film": args.film, "vocabulary": known, "max_length": args.max_length, "emphasis": args.emphasis
    }  # fmt: skip
    found = check(args.prompt, args.negative, **asked)
    prompt, negative = fix(args.prompt, args.negative, found) if args.fix else (args.prompt, args.negative)
    left = check(prompt, negative, **asked) if args.fix else found
    if args.json:
        print(_json({"findings": [_plain(f, args.prompt, args.negative) for f in found]}
                    | ({"fixed": {"prompt": prompt, "negative": negative},
                        "left": [_plain(f, prompt, negative) for f in left]} if args.fix else {})))  # fmt: skip
        return 1 if left.items else 0
    if args.fix:
        print(f"prompt: {prompt}\nnegative: {negative}")
        if left.items:
            print(f"\n{len(left)} for you to decide:\n" + _table(left, prompt, negative))
    elif found.items:
        print(_table(found, args.prompt, args.negative))
        print(
            f"\n{_some(len(found), 'finding')}, {len(found.fixable)} with a fix"
            + ("; --fix applies it" if found.fixable else "")
        )
    else:
        print("nothing to say")
    if args.model is not None and known is None:
        print(f"{args.model} does not say which words it knows, so none was looked up")
    return 1 if left.items else 0


def _table(found: Iterable[Finding], prompt: str, negative: str) -> str:
    """A row a finding: the kind, where it is and what stands there, why; and the fix below."""
    rows = [(f.kind, _where(f), _words(f, prompt, negative), f) for f in found]
    kind, place, said = (max(len(row[i]) for row in rows) for i in range(3))
    out = []
    for a, b, c, f in rows:
        out.append(f"{a:<{kind}}  {b:<{place}}  {c:<{said}}  {f.reason}")
        out.append(f"{'':<{kind}}  {'':<{place}}  {'':<{said}}  -> {f.remedy}" if f.remedy else "")
    return "\n".join(line for line in out if line)


def _where(f: Finding) -> str:
    return f"{'negative ' if f.field == 'negative' else ''}{f.where[0]}-{f.where[1]}"


def _words(f: Finding, prompt: str, negative: str) -> str:
    text = " ".join((negative if f.field == "negative" else prompt)[slice(*f.where)].split())
    return text if len(text) <= 28 else text[:25].rstrip() + "..."


def _plain(f: Finding, prompt: str, negative: str) -> dict[str, Any]:
    from safelight.prompt.lint import one

    fixed = one(prompt, negative, f)
    return {
        "kind": f.kind,
        "field": f.field,
        "where": list(f.where),
        "reason": f.reason,
        "fix": {"says": f.remedy, "prompt": fixed[0], "negative": fixed[1]} if f.fixable else None,
    }


def _json(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)


def _some(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _read(args: argparse.Namespace) -> int:
    from safelight.text.prompt import windows
    from safelight.text.tokens import load

    reading = windows(load(args.vocabulary), args.prompt, args.emphasis, args.length)
    if args.json:
        parts = [
            {"tokens": w.tokens, "pieces": [{"text": p.text, "weight": p.weight} for p in w.pieces]} for w in reading.windows
        ]
        print(_json({"tokens": reading.tokens, "room": reading.room, "windows": parts}))
        return 0
    print(f"{_some(reading.tokens, 'token')} in {_some(len(reading.windows), 'window')} of {reading.room}")
    for number, window in enumerate(reading.windows, 1):
        pieces = " ".join(f"[{p.text}]" if p.weight == 1 else f"[{p.text}]*{p.weight:.3g}" for p in window.pieces)
        print(f"{number:>3}  {window.tokens:>3} / {reading.room}  {pieces}")
    return 0
