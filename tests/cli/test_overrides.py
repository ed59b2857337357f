"""Dotted overrides and kept configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from safelight.cli.overrides import assign, read, write
from safelight.spec import SpecError

BASE = {"sampler": "ddim", "plan": {"lr": 0.1, "betas": [0.9, 0.99]}, "none": None}


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("plan.lr=2e-4", ("plan", "lr"), 2e-4),  # YAML 1.1 reads this as a string
        ("plan.lr=no", ("plan", "lr"), "no"),  # and this as false
        ("plan.lr=null", ("plan", "lr"), None),
        ("plan.lr=", ("plan", "lr"), ""),
        ("plan.lr=a=b", ("plan", "lr"), "a=b"),
        ("plan.betas.1=0.5", ("plan", "betas"), [0.9, 0.5]),
        ("plan.betas=[1, 2]", ("plan", "betas"), [1, 2]),
        ("plan={lr: 3}", ("plan",), {"lr": 3}),
        ("plan.new=1", ("plan", "new"), 1),  # whether there is such a field is for the Spec to say
        ("sampler.eta=1", ("sampler",), {"kind": "ddim", "eta": 1}),
    ],
)
def test_assign(setting: str, path: tuple[str, ...], value: object) -> None:
    found: object = assign(BASE, [setting])
    for key in path:
        found = found[key]  # type: ignore[index]
    assert found == value
    assert type(found) is type(value)


def test_order_counts_and_the_original_stays() -> None:
    assert assign(BASE, ["sampler=heun", "sampler.churn=2", "sampler=euler"])["sampler"] == "euler"
    assert assign(BASE, ["sampler=heun", "sampler.churn=2"])["sampler"] == {"kind": "heun", "churn": 2}
    assert BASE == {"sampler": "ddim", "plan": {"lr": 0.1, "betas": [0.9, 0.99]}, "none": None}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("plan.lr", "write path=value"),
        ("=3", "write path=value"),
        ("plan..lr=3", "write path=value"),
        ("plann.lr=3", "no 'plann'; did you mean 'plan'?"),
        ("plan.lr.x=3", "'plan.lr' is 0.1, it has no fields"),
        ("plan.betas.2=3", "'plan.betas' is a list of 2; give a position from 0"),
        ("plan.betas.first=3", "'plan.betas' is a list of 2"),
        ("none.x=3", "'none' is not set; set it whole first"),
        ("plan.lr={a: ", "the value is not YAML"),
    ],
)
def test_a_setting_that_leads_nowhere(setting: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        assign(BASE, [setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_write_and_read_are_inverse(tmp_path: Path) -> None:
    config = {
        "a": 2e-4,
        "b": "no",
        "c": [1, 2.5, None, True],
        "d": {"kind": "x", "text": "line: one\ntwo", "empty": {}},
        "e": "2e-4",
        "f": "1",
    }
    write(tmp_path / "c.yaml", config, "a comment")
    assert (tmp_path / "c.yaml").read_text().startswith("# a comment\na: ")
    assert read(tmp_path / "c.yaml") == config
