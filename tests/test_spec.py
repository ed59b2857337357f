"""Spec: one round trip for every kind there is, and one clear line for everything that is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from safelight.nn.unet import UNetSpec
from safelight.spec import Spec, SpecError, build, describe, families, kinds, parse
from tests import small

# What a kind needs beyond its defaults, so that one of it can be made.
NEEDS: dict[tuple[str, str], dict[str, object]] = {
    ("control", "controlnet"): {
        "trunk": describe(UNetSpec.latent((8, 16), (1, 0), 8, heads=1, linear=False, groups=4), family=False)
    },
    ("task", "depth"): {"depth": "sha256:00"},
    ("task", "refine"): {"refiner": "refiner"},
    ("task", "superres"): {"picture": "sha256:00"},
    ("task", "upscale"): {"picture": "sha256:00"},
    ("task", "image"): {"picture": "sha256:00"},
    ("task", "inpaint"): {"picture": "sha256:00", "mask": "sha256:01"},
    ("task", "interpolate"): {"ends": [{"prompt": "a"}, {"prompt": "b"}]},
    ("task", "invert"): {"picture": "sha256:00"},
    ("task", "mix"): {"expression": '"a" + "b"'},
    ("task", "outpaint"): {"picture": "sha256:00", "margins": [8, 0, 0, 0]},
    ("text", "label"): {"names": ["a", "b"]},
    ("mix", "autoguidance"): {"weak": "fashion-mnist"},
    ("network", "classifier"): {"names": ["a", "b"]},
    ("source", "idx"): {"path": "data"},
    ("source", "folder"): {"path": "data"},
    ("source", "parquet"): {"path": "data"},
    ("source", "webdataset"): {"path": "data"},
    ("source", "hub"): {"name": "someone/pictures"},
    ("token-sampler", "ancestral"): {"process": "masked"},
    ("token-network", "token-picture"): {"network": "dit"},
    ("tokens", "tokens"): {"size": [1, 8]},
    ("model", "model"): describe(small.spec()),
    ("train", "train"): {
        "name": "x",
        "model": describe(small.spec()),
        "data": {"kind": "folder", "path": "data"},
        "plan": {"steps": 1},
    },
}
EVERY = [(family, kind) for family in families() for kind in kinds(family)]


@pytest.mark.parametrize(("family", "kind"), EVERY, ids=lambda v: str(v))
def test_round_trip(family: str, kind: str) -> None:
    """build(describe(x)) == x through strict JSON, for every registered kind."""
    spec = parse({"kind": kind, **NEEDS.get((family, kind), {})}, family)
    text = json.dumps(describe(spec), allow_nan=False)
    assert parse(json.loads(text)) == spec
    if family in ("process", "parameterization", "grid", "sampler", "token-process", "alphabet"):
        assert hash(spec) == hash(parse(json.loads(text)))  # tables are cached by it
    assert type(spec).__doc__, f"{family} '{kind}' says nothing of itself"


def test_every_family_has_a_home() -> None:
    assert {
        "process",
        "parameterization",
        "grid",
        "sampler",
        "mix",
        "bend",
        "network",
        "codec",
        "text",
        "objective",
        "source",
    } <= set(families())
    assert all(kinds(family) for family in families())


def test_a_spec_is_frozen() -> None:
    sampler = build("ddim", "sampler")
    with pytest.raises(ValueError, match="frozen"):
        sampler.eta = 1.0


def test_model_round_trip() -> None:
    model = small.model()
    again = build(describe(model))
    assert describe(again) == describe(model)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("spec", "family", "line"),
    [
        ("dddim", "sampler", r"^sampler: no sampler 'dddim'; did you mean 'ddim'\? \(kinds: ab, .*\)$"),
        (
            {"kind": "ddim", "etta": 1},
            "sampler",
            r"^sampler: unknown field 'etta'; did you mean 'eta'\? \(fields: eta, free_noise, stride\)$",
        ),
        ({"kind": "ddim", "eta": "much"}, "sampler", r"^sampler\.eta: Input should be a valid number.* \(given: 'much'\)$"),
        ({"eta": 1}, "sampler", r"^sampler: a sampler needs a 'kind' \(one of: "),
        (7, "sampler", r"^a spec is a kind's name, a dict or a Spec, not int$"),
        ("edm", None, r"^'edm' is a kind of .*parameterization and of process.*: say which with 'family'$"),
        ("nonsense", None, r"^no kind 'nonsense' in any family"),
        ("ddim", "samplers", r"^no family 'samplers'; did you mean 'sampler'\?"),
        ({"kind": "linear", "T": 0, "beta_end": 2}, "process", r"^process\.T: .* \(and 1 more\)$"),
    ],
)
def test_one_clear_line(spec: object, family: str | None, line: str) -> None:
    with pytest.raises(SpecError, match=line) as caught:
        parse(spec, family)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_path_of_a_nested_field() -> None:
    value = describe(small.spec())
    value["network"]["heads"] = "two"
    with pytest.raises(SpecError, match=r"^model\.network\.heads: "):
        build(value)
    value = describe(small.spec())
    value["defaults"]["sampler"] = {"kind": "ddim", "eat": 1}
    with pytest.raises(SpecError, match=r"^model\.defaults\.sampler: unknown field 'eat'; did you mean 'eta'\?"):
        build(value)


def test_wrong_family_is_refused() -> None:
    with pytest.raises(SpecError, match="'ddim' is a sampler, not a grid"):
        parse(build("ddim"), "grid")
    with pytest.raises(SpecError, match="has no description"):
        describe(torch.nn.Linear(1, 1))


def test_a_kind_is_registered_once() -> None:
    from safelight.sample import Sampler

    with pytest.raises(TypeError, match="sampler 'ddim' is already"):

        class Again(Sampler, kind="ddim"):
            """Another."""

    with pytest.raises(TypeError, match="has kind 'x' but no family"):

        class Homeless(Spec, kind="x"):
            """No family."""


@pytest.mark.parametrize(
    ("spec", "family", "line"),
    [
        ({"kind": ["ddim"]}, "sampler", r"^sampler: no sampler '\['ddim'\]'"),
        ({"kind": ["ddim"]}, None, r"^no kind '\['ddim'\]' in any family"),
        (
            {"family": "process", "kind": "cosine"},
            "schedule",
            r"^schedule: family is 'process', but only 'schedule' can stand here$",
        ),
    ],
)
def test_a_kind_is_one_name_of_its_family(spec: object, family: str | None, line: str) -> None:
    with pytest.raises(SpecError, match=line):
        parse(spec, family)  # type: ignore[arg-type]


def test_a_field_of_one_kind_takes_no_other() -> None:
    """A part that is not what it says it is must not be built as something else."""
    from safelight.sample.ancestral import DDIM

    assert DDIM.model_validate({"kind": "ddim", "eta": 1}) == DDIM(eta=1)
    with pytest.raises(ValueError, match="kind is 'euler', but only 'ddim' can stand here"):
        DDIM.model_validate({"kind": "euler"})
