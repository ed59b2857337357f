"""Names of other tools: each means one thing, and the noise levels that it has there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from safelight.interop.names import (
    GRIDS,
    NEARLY,
    SAMPLERS,
    SCHEDULES,
    UPSCALERS,
    Names,
    apart,
    elsewhere,
    known,
    named,
    sampler_and_grid,
    schedule,
)
from safelight.spec import build, kinds, parse
from tests import peers

# "tool: name" -> steps -> its noise levels s on Stable Diffusion's table, seven digits, as the tools' own code computed them.
GOLDEN: dict[str, dict[str, list[float]]] = json.loads((Path(__file__).parents[1] / "fixtures" / "sigmas.json").read_text())
SD = {"kind": "scaled-linear", "beta_start": 0.00085, "beta_end": 0.012}


def ratios(spec: dict[str, object], n: int) -> np.ndarray:
    """(n + 1,) s of a grid on Stable Diffusion's table."""
    process, grid = build(SD, "process"), build(spec, "grid")
    return np.asarray(grid.at(process, grid(process, n)).ratio)


@pytest.mark.parametrize("said", GOLDEN)
def test_a_schedule_has_the_noise_levels_it_has_there(said: str) -> None:
    """To 2e-4, the float32 of the tools' own tables near the data; where `NEARLY` says so, to the entry or step it says."""
    tool, name = said.split(": ")
    spec = schedule(name, tool)
    assert spec is not None and spec == SCHEDULES[tool][name]
    for steps, theirs in GOLDEN[said].items():
        mine, there = ratios(spec, int(steps)), np.array(theirs)
        why = NEARLY.get((tool, name.casefold()), "")
        if "one more" in why and 1000 % int(steps):
            assert len(there) == len(mine) + 1
        elif "entry of the table" in why:
            entries = np.asarray(build(SD, "process").at((np.arange(1000) + 1) / 1000).ratio)
            places = [np.interp(np.log(s[:-1]), np.log(entries), np.arange(1000)) for s in (mine, there)]
            assert np.abs(places[0] - places[1]).max() <= 1 + 1e-3
        elif "least noise level" in why:
            assert (
                there[0] == pytest.approx(mine[0], rel=1e-4)
                and there[-1] == pytest.approx(mine[-2], rel=1e-4)
                and mine[-1] == 0
            )
        else:
            np.testing.assert_allclose(mine, there, rtol=2e-4, atol=1e-12)


def test_every_schedule_of_the_tables_is_golden() -> None:
    once = {f"{tool}: {name}" for tool, names in SCHEDULES.items() for name in names} - {
        "A1111: SGMUniform"
    }  # an older spelling
    assert once == set(GOLDEN)
    assert schedule("sgmuniform") == schedule("SGM Uniform")


@pytest.mark.parametrize("row", [*SAMPLERS, *GRIDS], ids=lambda row: f"{row.ours} {row.a1111}")
def test_every_spelling_is_known(row: Names) -> None:
    table, family = (SAMPLERS, "sampler") if row in SAMPLERS else (GRIDS, "grid")
    parse({"kind": row.ours, **row.fields}, family)
    for name in row.all:
        assert known(name, table) == row.ours
        # Two tools' "Beta" and "beta" are different schedules: shouted, the name is the first one's.
        assert known(name.upper(), table) == (row.ours if name != "beta" else "beta-noise")
        assert row.fields.items() <= (elsewhere(name).items() if row in SAMPLERS else row.fields.items())


def test_our_kinds_are_rows_or_have_no_counterpart() -> None:
    alone = {"ab", "abm", "tuned", "langevin", "euler-maruyama", "heun-sde"}
    assert set(kinds("sampler")) - {row.ours for row in SAMPLERS} == alone


@pytest.mark.parametrize("table", [SAMPLERS, GRIDS])
def test_no_spelling_means_two_things(table: tuple[Names, ...]) -> None:
    names = [name for row in table for name in set(row.all)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", [row for row in SAMPLERS if row.diffusers], ids=lambda row: row.diffusers)
def test_every_class_in_the_table_is_there_in_diffusers(row: Names) -> None:
    name, _, option = row.diffusers.partition("(")
    kind, _, text = option.rstrip(")").partition("=")
    value = int(text) if text.isdigit() else text
    made = getattr(peers.diffusers(), name)(**({kind: value} if kind else {}))
    assert not kind or made.config[kind] == value


def test_what_a_line_of_a1111_asks_for() -> None:
    assert sampler_and_grid("DPM++ 2M Karras") == ("dpm++2m", {"kind": "karras"})
    assert sampler_and_grid("DPM++ 2M", "Automatic") == ("dpm++2m", {"kind": "karras"})
    assert sampler_and_grid("k_dpmpp_2m_ka") == ("dpm++2m", {"kind": "karras"})
    assert sampler_and_grid("Euler a", "Simple") == ("euler-ancestral", {"kind": "published", "spacing": "simple"})
    assert sampler_and_grid("DPM++ 3M SDE", "Align Your Steps") == ("dpm++3m-sde", None)
    assert sampler_and_grid("DPM fast") == (None, None)
    assert apart("LMS Karras") == ("LMS", "Karras") and apart("Euler a") == ("Euler a", "")
    assert elsewhere("DPM2 a Karras") == {"eta": 1.0} and elsewhere("ddim") == {}
    assert named({"kind": "published", "spacing": "linspace", "between": "log", "closed": True}) == "SGM Uniform"
    assert named({"kind": "rect"}) is None


def test_the_upscalers_are_fields_of_a_second_pass() -> None:
    from safelight.task.upscale import Pass

    for name, fields in UPSCALERS.items():
        made = Pass.model_validate(fields)
        assert (made.latent is not None) == name.startswith("Latent")
