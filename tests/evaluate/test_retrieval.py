"""Retrieval: an oracle finds everything, mixed-up pictures nothing, and no two prompts of a set show the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.cli.main import main
from safelight.data.composed import Vocabulary
from safelight.data.scenes.compose import Composer
from safelight.data.scenes.splits import Split
from safelight.evaluate.retrieval import _content, distinct, recalls, retrieval, table, zero_shot
from safelight.model import save
from safelight.spec import SpecError
from safelight.text.clip import CLIPTextSpec
from safelight.text.joint import JointSpec
from safelight.text.joint import save as save_joint
from tests.evaluate.scenes import composer, judge, tiny


class Oracle:
    """Knows which picture belongs to which caption; to any other caption, the concepts that it names."""

    def __init__(self, pictures: Tensor, captions: Sequence[str]) -> None:
        code = torch.nn.functional.normalize(torch.randn(len(captions), 64, generator=torch.Generator().manual_seed(0)), dim=1)
        self.seen = {p.numpy().tobytes(): v for p, v in zip(pictures, code, strict=True)}
        self.said = dict(zip(captions, code, strict=True))

    def pictures(self, x: Tensor) -> Tensor:
        return torch.stack([self.seen[p.numpy().tobytes()] for p in x])

    def texts(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self.said[p] for p in prompts])


class Namer:
    """A picture is the concept that the judge sees in it, a text the concept whose name it begins with after an article."""

    def __init__(self) -> None:
        self.names = [noun.phrase for noun in composer().pack.nouns]

    def pictures(self, x: Tensor) -> Tensor:
        n = len(x)
        any_ = composer().draw(0, 0, n, Split.ALL)
        blank = any_._replace(relation=torch.full((n,), -1), number=torch.ones(n, dtype=torch.int64))
        return torch.eye(48)[judge().look(x, blank).concept[:, 0].clamp(min=0)]

    def texts(self, prompts: Sequence[str]) -> Tensor:
        best = [max((n for n in self.names if f" {n} " in f" {p} "), key=len) for p in prompts]
        return torch.eye(48)[[self.names.index(n) for n in best]]


def test_an_oracle_finds_all_and_mixed_up_pictures_find_nothing() -> None:
    some = distinct(composer(), 60, 0)
    real = composer().render(some.scenes)
    joint: Any = Oracle(real, some.captions)
    assert recalls(joint, real, some.captions) == {k: {"words": 1.0, "picture": 1.0} for k in ("R@1", "R@5")}
    mixed = recalls(joint, real.roll(1, 0), some.captions)
    assert mixed["R@1"] == {"words": 0.0, "picture": 0.0}
    assert max(mixed["R@5"].values()) < 0.3  # chance: 0.08


def test_no_two_prompts_of_a_set_show_the_same() -> None:
    some = distinct(composer(), 100, 3)
    assert len(some.captions) == len(set(map(tuple, _content(some.scenes).tolist()))) == 100
    assert (
        composer().held.pair(some.scenes.concept[:, 0], some.scenes.concept[:, 1].clamp(min=0)) | (some.scenes.relation < 0)
    ).all()
    # Told from the other side it is the same picture: left of as right of, above as below.
    left = some.scenes.rows(some.scenes.relation == 0)
    right = left._replace(concept=left.concept.flip(1), colour=left.colour.flip(1), relation=torch.ones_like(left.relation))
    assert torch.equal(_content(left), _content(right))
    below = right._replace(relation=torch.full_like(left.relation, 3))
    assert not torch.equal(_content(left), _content(below))
    for name in ("concept", "colour", "number", "background", "style"):
        other = left._replace(**{name: getattr(left, name) + 1})
        assert (_content(left) != _content(other)).any(1).all(), name
    with pytest.raises(SpecError, match="holds out too little|prompts that differ"):
        distinct(Composer(Vocabulary(concepts=("cat", "dog", "owl"), styles=("noto",)).pack()), 50, 0)


def test_zero_shot_counts_concepts_by_their_names() -> None:
    found = zero_shot(Namer(), composer(), 80, 1)  # type: ignore[arg-type]
    assert found["classes"] == 48 and found["plain"]["all"]["n"] == 80
    for how in ("plain", "ensemble"):
        assert found[how]["all"]["rate"] > 0.97
        assert found[how]["seen cells"]["n"] + found[how]["held-out cells"]["n"] == 80


def test_generated_pictures_stand_beside_composed_ones_of_the_same_prompts() -> None:
    sets = [distinct(composer(), 20, k) for k in range(2)]
    pictures = torch.cat([composer().render(s.scenes) for s in sets])
    oracle = Oracle(pictures, [c for s in sets for c in s.captions])
    namer = Namer()
    fresh = SimpleNamespace(  # the oracle for the sets, the namer for zero-shot
        pictures=lambda x: oracle.pictures(x) if x[0].numpy().tobytes() in oracle.seen else namer.pictures(x),
        texts=lambda p: oracle.texts(p) if p[0] in oracle.said else namer.texts(p),
    )
    made = composer().render(sets[0].scenes)
    half = torch.cat([made[:10].roll(1, 0), made[10:]])
    numbers = retrieval(fresh, sets, composer(), half, singles=20)  # type: ignore[arg-type]
    assert numbers["real"]["R@1"]["words"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert numbers["same"]["R@1"] == {"words": 1.0, "picture": 1.0}
    assert numbers["generated"]["R@1"] == {"words": 0.5, "picture": 0.5}
    assert numbers["similarity"]["real"] == pytest.approx(1) and numbers["similarity"]["generated"] < 0.7
    text = table(numbers)
    assert "| a picture finds its words, **generated** pictures, the first set | 50.0 % |" in text and "48 concepts" in text
    with pytest.raises(SpecError, match="3 generated pictures for 20"):
        retrieval(fresh, sets, composer(), made[:3])  # type: ignore[arg-type]


def test_retrieval_with_generated_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint, model = tmp_path / "joint.safetensors", tmp_path / "tiny.safetensors"
    save(model, tiny())
    torch.manual_seed(0)
    text = CLIPTextSpec(width=16, layers=1, heads=1, causal=False)
    save_joint(joint, JointSpec(text=text, width=16, layers=1, heads=1, space=8).build())
    argv = ["evaluate", "retrieval", str(joint), "--model", str(model), "--prompts", "20", "--sets", "1", "--steps", "1"]
    assert main([*argv, "--device", "cpu", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "retrieval.json").read_text())
    assert found["prompts"] == 20 and set(found["generated"]["R@1"]) == {"words", "picture"}
    assert found["real"]["R@1"]["words"]["mean"] < 0.5  # untrained
    assert "Zero-shot over 48 concepts" in capsys.readouterr().out
