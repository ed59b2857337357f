"""`safelight prompt`: what check prints and exits with, what --fix and --json give, and what read shows of a prompt's windows."""

from __future__ import annotations

import json

import pytest


def test_check_says_why_and_how(cli):
    ran = cli("prompt", "check", "please draw me a cat, no dogs", "-n", "no text")
    lines = ran.out.splitlines()
    assert ran.code == 1 and ran.err == ""
    assert lines[0].split()[:2] == ["caption", "0-15"] and "is an order" in lines[0]
    assert lines[1].strip() == "-> begin with 'a cat, no dogs'"
    assert lines[2].startswith("negation") and lines[3].strip() == "-> move 'dogs' to the negative prompt"
    assert "negative 0-3" in lines[4] and lines[-1] == "3 findings, 3 with a fix; --fix applies it"
    assert lines[0].index("'please") == lines[2].index("'no dogs' names") == lines[1].index("->")  # columns
    clean = cli("prompt", "check", "three red apples on a blue background")
    assert (clean.code, clean.out) == (0, "nothing to say\n")


def test_fix_prints_both_prompts(cli):
    ran = cli("prompt", "check", "please draw me a cat, no dogs", "--negative", "text", "--fix")
    assert (ran.code, ran.out) == (0, "prompt: a cat\nnegative: text, dogs\n")
    ran = cli("prompt", "check", "draw one cat, two cats", "--fix")
    assert ran.code == 1 and ran.out.startswith("prompt: one cat, two cats\nnegative: \n\n1 for you to decide:\ncontradiction")


def test_json(cli):
    ran = cli("prompt", "check", "a cat, no dogs", "--json")
    (finding,) = json.loads(ran.out)["findings"]
    assert ran.code == 1 and finding["where"] == [7, 14] and finding["kind"] == "negation" and finding["field"] == "prompt"
    assert finding["fix"] == {"says": "move 'dogs' to the negative prompt", "prompt": "a cat", "negative": "dogs"}
    ran = cli("prompt", "check", "one cat, two cats, no dogs", "--json", "--fix")
    told = json.loads(ran.out)
    assert told["fixed"] == {"prompt": "one cat, two cats", "negative": "dogs"}
    assert [f["fix"] for f in told["left"]] == [None] and len(told["findings"]) == 2 and ran.code == 1
    assert json.loads(cli("prompt", "check", "a cat", "--json").out) == {"findings": []}


def test_the_words_of_a_model(cli, model):
    ran = cli("prompt", "check", "ankle boots", "--model", model)
    assert ran.code == 0
    ran = cli("prompt", "check", "ankel boot", "--model", model)
    assert ran.code == 1 and "never met the word 'ankel'" in ran.out and "-> say 'ankle'" in ran.out


def test_options(cli):
    assert cli("prompt", "check", "a city", "--film").code == 1
    assert cli("prompt", "check", "a city", "--film", "--fix").out == "prompt: a city, static camera\nnegative: \n"
    assert cli("prompt", "check", "a (cat:9)", "--emphasis", "none").code == 0
    assert "longer" in cli("prompt", "check", "a longer prompt", "--max-length", 8).out
    for argv, message in (
        (("prompt", "check", "x", "--max-length", 0), "--max-length 0"),
        (("prompt", "check", "x", "--emphasis", "comfi"), "did you mean 'comfy'"),
        (("prompt", "check", "x", "--model", "nowhere"), "nowhere"),
        (("prompt", "chek", "x"), "did you mean 'check'"),
        (("prompt", "read", "x", "--length", 2), "room for 0"),
        (("prompt", "read", '("a", "b").blend()', "--emphasis", "compel"), "blend"),
    ):
        ran = cli(*argv)
        assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1, argv


@pytest.mark.parametrize("mode", ["a1111", "comfy", "compel", "none"])
def test_read_shows_windows_and_weights(cli, mode):
    prompt = {"compel": "a (red)1.3 apple BREAK x"}.get(mode, "a (red:1.3) apple BREAK x")
    ran = cli("prompt", "read", prompt, "--emphasis", mode)
    lines = ran.out.splitlines()
    if mode == "none":
        assert ran.code == 0 and len(lines) == 2 and lines[0].endswith("in 1 window of 30")
        return
    assert lines == ["4 tokens in 2 windows of 30", "  1    3 / 30  [a] [red]*1.3 [apple]", "  2    1 / 30  [x]"]
    told = json.loads(cli("prompt", "read", prompt, "--emphasis", mode, "--json").out)
    assert told["tokens"] == 4 and told["room"] == 30 and [w["tokens"] for w in told["windows"]] == [3, 1]
    assert told["windows"][0]["pieces"][1] == {"text": "red", "weight": 1.3}
