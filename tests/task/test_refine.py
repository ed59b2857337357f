"""Two models in one run: which levels are whose, what each is told, and that one model twice is that model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safelight.assets import Assets
from safelight.denoise import Estimate
from safelight.generate import Started, generate
from safelight.model import Model
from safelight.spec import SpecError, describe, parse
from safelight.task import Request
from tests import small
from tests.task import toys


class Known(Assets):
    """Assets that have a model at hand."""

    def __init__(self, **models: Model) -> None:
        super().__init__()
        self._models.update(models)


def asked(**fields: Any) -> Request:
    task = {"kind": "refine", "refiner": "fine", **fields.pop("task", {})}
    return Request.model_validate({"steps": 10, "sampler": "ddim", "grid": "trailing", **fields, "task": task})


@pytest.mark.parametrize("of", ["text", "hires"])
def test_a_model_refined_by_itself_is_itself(of: str) -> None:
    made = small.model(process="linear")
    for sampler in ("ddim", "euler-ancestral", "heun"):
        request = asked(prompt=["bag", "shoe"], sampler=sampler, task={"of": of, "switch": 0.35})
        plain = request.model_copy(update={"task": parse(of, "task")})
        torch.testing.assert_close(
            toys.finished(made, request, assets=Known(fine=made)), toys.finished(made, plain), rtol=0, atol=1e-5
        )


def test_the_levels_are_shared_at_the_switch_and_the_last_word_is_the_refiners() -> None:
    """On 10 trailing entries of 1000, those above 0.2 are the model's, 999 .. 299, as with a denoising end of 0.8."""
    base = toys.model(lambda x, level: Estimate(torch.full_like(x, 0.5)), process="linear")
    fine = toys.model(lambda x, level: Estimate(torch.full_like(x, -0.25)), process="linear")
    request = asked()
    events = list(generate(base, request, assets=Known(fine=fine)))
    starts = [e for e in events if isinstance(e, Started)]
    entries = [[round(float(level.t) * 1000) - 1 for level in e.levels] for e in starts]
    assert entries == [[999, 899, 799, 699, 599, 499, 399, 299, 199], [199, 99, -1]]
    torch.testing.assert_close(toys.finished(base, request, assets=Known(fine=fine)), torch.full((1, 1, 8, 8), -0.25))
    alpha, sigma, _ = starts[1].levels[0].floats
    first_alpha, first_sigma, _ = starts[0].levels[0].floats
    n = (starts[0].x - first_alpha * 0.5) / first_sigma
    torch.testing.assert_close(
        starts[1].x, alpha * 0.5 + sigma * n, rtol=1e-4, atol=1e-4
    )  # what ddim makes of a constant belief


def test_each_model_reads_the_prompt_itself() -> None:
    base, fine = (small.model(process="linear", seed=seed) for seed in (0, 1))
    told: dict[str, Any] = {}
    for name, made in (("base", base), ("fine", fine)):
        bind = made.denoiser.network.bind

        def heard(cond: Any, noises: Any = (), name: str = name, bind: Any = bind) -> Any:
            told[name] = cond.vector
            return bind(cond, noises)

        made.denoiser.network.bind = heard  # type: ignore[method-assign]
    toys.finished(base, asked(prompt="bag"), assets=Known(fine=fine))
    with torch.no_grad():
        for name, made in (("base", base), ("fine", fine)):
            torch.testing.assert_close(told[name][:1], made.text.read(["bag"]).vector)  # type: ignore[union-attr]
    assert not torch.equal(told["base"], told["fine"])


def test_refusals() -> None:
    base = toys.model(process="linear")
    with pytest.raises(SpecError, match="refine: the refiner has another process; both must denoise the same latents"):
        toys.finished(base, asked(), assets=Known(fine=toys.model(process="cosine")))
    for steps, switch in ((3, 0.2), (10, 0.05)):
        with pytest.raises(SpecError, match="one of the models has no step"):
            toys.finished(base, asked(steps=steps, task={"switch": switch}), assets=Known(fine=base))
    request = asked().resolve(base)
    assert parse(describe(request), "request").resolve(base) == request  # type: ignore[attr-defined]
