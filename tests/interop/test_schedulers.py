"""Schedulers beside diffusers': a description, a model and noise give the same picture, and the description is written back."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight.denoise import Denoiser
from safelight.interop import schedulers
from safelight.nn.network import Network, Output
from safelight.predict import V as V_
from safelight.process.tables import Quadratic
from safelight.sample import trajectory
from safelight.sample.adams import ABM
from safelight.sample.unipc import UniPC
from safelight.spec import SpecError
from tests import peers
from tests.oracle import final

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = {"_class_name": "DDIMScheduler", **SD, "clip_sample": False}
PNDM = {"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": True}
EULER = {"_class_name": "EulerDiscreteScheduler", **SD}
ANCESTRAL = {"_class_name": "EulerAncestralDiscreteScheduler", **SD}
DPM = {"_class_name": "DPMSolverMultistepScheduler", **SD}
UNIPC = {"_class_name": "UniPCMultistepScheduler", **SD}
HEUN = {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "scaled_linear"}
LMS = {"_class_name": "LMSDiscreteScheduler", **SD}
KDPM2 = {"_class_name": "KDPM2DiscreteScheduler", **SD}
KDPM2A = {"_class_name": "KDPM2AncestralDiscreteScheduler", **SD}
DEIS = {"_class_name": "DEISMultistepScheduler", **SD}
SINGLE = {"_class_name": "DPMSolverSinglestepScheduler", **SD}
EDM = {"_class_name": "EDMEulerScheduler"}
EDM_DPM = {"_class_name": "EDMDPMSolverMultistepScheduler"}
LCM = {"_class_name": "LCMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
DDPM = {"_class_name": "DDPMScheduler", "clip_sample": False}
V = {"prediction_type": "v_prediction"}
KARRAS = {"use_karras_sigmas": True}
CASES: list[dict[str, Any]] = [
    {**DDIM, "steps_offset": 1, "set_alpha_to_one": False},  # Stable Diffusion 1's
    {**DDIM, "set_alpha_to_one": False},
    {**DDIM, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, **V},
    {**DDIM, "timestep_spacing": "linspace"},
    {**DDIM, "clip_sample": True, "clip_sample_range": 0.7},
    {**DDIM, "thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    {**DDIM, "prediction_type": "sample", "clip_sample": True},
    {**PNDM, "steps_offset": 1},
    {**PNDM, "set_alpha_to_one": True, "timestep_spacing": "trailing"},
    {**PNDM, **V, "steps_offset": 1},
    {**PNDM, "skip_prk_steps": False},
    EULER,
    {**EULER, "timestep_spacing": "leading", "steps_offset": 1},
    {**EULER, "timestep_spacing": "trailing", **V, "rescale_betas_zero_snr": True},
    {**EULER, **KARRAS},
    {**EULER, "use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"},
    {**EULER, "use_beta_sigmas": True},
    {**EULER, **KARRAS, "sigma_min": 0.05, "sigma_max": 12.0},
    {**EULER, "prediction_type": "sample"},
    ANCESTRAL,
    {**ANCESTRAL, "timestep_spacing": "leading", "steps_offset": 1},
    DPM,
    {**DPM, **KARRAS},
    {**DPM, **V, "timestep_spacing": "leading", "steps_offset": 1},
    {**DPM, "timestep_spacing": "trailing", "solver_type": "heun"},
    {**DPM, "use_lu_lambdas": True},
    {**DPM, "final_sigmas_type": "sigma_min"},
    {**DPM, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    {**DPM, "final_sigmas_type": "sigma_min", "euler_at_final": True},
    {**DPM, "solver_order": 1},
    {**DPM, "solver_order": 3},
    {**DPM, "solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"},
    {**DPM, "algorithm_type": "sde-dpmsolver++", **KARRAS},
    {**DPM, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    {**DPM, "algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    {**DPM, "thresholding": True},
    {**DPM, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    UNIPC,
    {**UNIPC, "solver_order": 3},
    {**UNIPC, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    {**UNIPC, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    {**UNIPC, "solver_order": 3, "final_sigmas_type": "sigma_min"},
    {**UNIPC, "disable_corrector": [0, 3], **V},
    {**UNIPC, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, **V},
    {**UNIPC, "timestep_spacing": "leading", "steps_offset": 1, "thresholding": True},
    DDPM,
    {**DDPM, "variance_type": "fixed_large", "clip_sample": True},
    {**DDPM, "variance_type": "learned_range", "timestep_spacing": "linspace", "thresholding": True},
    {**DDPM, "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small_log", "prediction_type": "sample"},
    {**DDPM, "beta_schedule": "sigmoid"},
    HEUN,
    {**HEUN, "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": True},
    {**HEUN, **KARRAS, **V},
    LMS,
    {**LMS, **KARRAS},
    {**LMS, "timestep_spacing": "trailing", **V},
    KDPM2,
    {**KDPM2, **KARRAS},
    {**KDPM2, "timestep_spacing": "trailing", **V},
    KDPM2A,
    {**KDPM2A, "timestep_spacing": "leading", "steps_offset": 1},
    DEIS,
    {**DEIS, "solver_order": 3},
    {**DEIS, "solver_order": 3, **KARRAS},
    {**DEIS, "lower_order_final": False, "timestep_spacing": "leading", "steps_offset": 1, "thresholding": True},
    SINGLE,
    {**SINGLE, "final_sigmas_type": "sigma_min"},
    {**SINGLE, "final_sigmas_type": "sigma_min", "lower_order_final": True, "solver_type": "heun", **V},
    {**SINGLE, "solver_order": 3, **KARRAS},
    {**SINGLE, "solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": True},
    {**SINGLE, "solver_order": 1},
    {**SINGLE, **SDE},
    {**SINGLE, **SDE, "solver_order": 3},
    EDM,
    {**EDM, "sigma_schedule": "exponential", "sigma_data": 1.0, "sigma_max": 20.0},
    EDM_DPM,
    {**EDM_DPM, "solver_order": 3, "rho": 5.0, "thresholding": True},
    {**EDM_DPM, **SDE},
    LCM,
    {**LCM, **V, "original_inference_steps": 30, "timestep_scaling": 0.1, "clip_sample": True},
    FLOW,
    {**FLOW, "shift": 3.0},
    {**DDPM, "trained_betas": torch.linspace(1e-4, 0.03, 500).tolist(), "num_train_timesteps": 500},
]
SHAPE = (2, 3, 6, 5)


def name(config: Any) -> str:
    """A case by what it says beside its class's usual."""
    if not isinstance(config, dict):
        return str(config)
    said = [f"{k}={v}" for k, v in config.items() if k not in SD and k not in ("_class_name", "trained_betas")]
    return "-".join([config["_class_name"].removesuffix("Scheduler"), *said])


class Wavy(Network):
    """A smooth function of all it is told, with a fraction of the variance where it is asked for one."""

    def __init__(self, learned: bool = False) -> None:
        super().__init__()
        self.learned = learned
        drawn = torch.Generator().manual_seed(3)
        self.mix, self.tilt = torch.randn(3, 3, generator=drawn), torch.randn(1, 3, 6, 5, generator=drawn)

    def forward(self, x: Tensor, noise: Tensor, cond: Any = None) -> Output:
        t = noise.to(x.dtype).view(-1, 1, 1, 1) / 1000
        mixed = torch.einsum("oc,bchw->bohw", self.mix, x)
        F = (0.6 + 0.3 * t) * x + 0.4 * torch.tanh(mixed + t) + 0.3 * self.tilt * torch.cos(3 * t)
        return Output(F, (torch.sin(mixed) + 1) / 2 if self.learned else None)


class Given:
    """Draws of one prepared sequence, for both sides."""

    def __init__(self) -> None:
        self.drawn = torch.Generator().manual_seed(11)

    def normal(self, purpose: str, now: Any, to: Any, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.drawn)


def theirs(config: dict[str, Any], network: Wavy, n: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The picture of diffusers' own loop, begun as its pipelines begin."""
    peer = getattr(peers.diffusers(), config["_class_name"]).from_config(config)
    module = inspect.getmodule(type(peer))
    given = Given()
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, **_: given.normal("", None, None, torch.empty(shape)), raising=False
    )
    peer.set_timesteps(n)
    scaled = getattr(peer, "scale_model_input", lambda x, t: x)
    x = start() * getattr(peer, "init_noise_sigma", 1.0)
    for t in peer.timesteps:
        out = network(scaled(x, t), torch.as_tensor(t).expand(len(x)))
        output = out.F if out.fraction is None else torch.cat([out.F, 2 * out.fraction - 1], 1)
        if out.fraction is not None and "learned" not in str(config.get("variance_type")):
            output = out.F
        x = peer.step(output, t, x).prev_sample
    return x


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))


def ours(config: dict[str, Any], network: Wavy, n: int) -> Tensor:
    """The picture of what was read."""
    schedule = schedulers.read(config)
    denoiser = Denoiser(network, schedule.process, schedule.parameterization)
    levels = schedule.grid.at(schedule.process, schedule.grid(schedule.process, n)).split()
    denoise: Any = denoiser.bind(None, levels)
    for bend in schedule.bends:
        denoise = bend(denoise)
    x = start() * schedule.grid.spread(levels[0])
    return final(trajectory(denoise, x, levels, schedule.sampler, Given())).x


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("config", CASES, ids=name)
def test_the_same_picture(config: dict[str, Any], n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The final x of a whole run is the peer's, to 1e-4 of its largest value."""
    network = Wavy(config.get("variance_type") == "learned_range")
    with torch.no_grad():
        assert peers.difference(ours(config, network, n), theirs(config, network, n, monkeypatch)) < 1e-4


@pytest.mark.parametrize("curve", ["use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("base", [DPM, UNIPC, DEIS, SINGLE], ids=name)
def test_cut_entries(base: dict[str, Any], curve: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the peer cuts a curve's places to integers, its own rounding decides at the table's ends: up to one entry of a thousand off."""
    with torch.no_grad():
        for n in (5, 20):
            assert (
                peers.difference(ours({**base, curve: True}, Wavy(), n), theirs({**base, curve: True}, Wavy(), n, monkeypatch))
                < 1e-3
            )


@pytest.mark.parametrize("config", CASES, ids=name)
def test_it_is_written_back(config: dict[str, Any]) -> None:
    """As it was read, key for key; and without that memory as every key of the class, which reads the same."""
    full = dict(getattr(peers.diffusers(), config["_class_name"]).from_config(config).config)
    full = json.loads(json.dumps({"_class_name": config["_class_name"], "_diffusers_version": "0.6.0", "not_ours": 1, **full}))
    schedule = schedulers.read(full)
    assert schedulers.write(schedule) == full
    anew = schedulers.write(schedule._replace(config={}))
    assert schedulers.read(anew).parts == schedule.parts
    peer = getattr(peers.diffusers(), anew["_class_name"])
    wanted = {k: p.default for k, p in inspect.signature(peer.__init__).parameters.items() if k != "self"}
    assert anew.keys() - {"_class_name", "_diffusers_version"} == wanted.keys()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "DDIMSchedular"}, "DDIMScheduler"),
    ({**DDPM, "variance_type": "learned"}, "variance_type = 'learned'"),
    ({**DDIM, "beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
    ({**DDIM, "prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
    ({**EULER, "interpolation_type": "log_linear"}, "interpolation_type = 'log_linear'"),
    ({**EULER, "timestep_type": "continuous"}, "timestep_type = 'continuous'"),
    ({**DPM, "use_flow_sigmas": True}, "use_flow_sigmas = True"),
    ({**DPM, **SDE, "solver_order": 3}, "solver_order = 3"),
    ({**DPM, "algorithm_type": "dpmsolver"}, "algorithm_type = 'dpmsolver'"),
    ({**UNIPC, "predict_x0": False}, "predict_x0 = False"),
    ({**FLOW, "use_dynamic_shifting": True}, "use_dynamic_shifting = True"),
    ({**EDM, "final_sigmas_type": "sigma_min"}, "final_sigmas_type = 'sigma_min'"),
    ({**DDIM, "beta_start": "high"}, "beta_start"),
    ({**DDIM, "timestep_spacing": "lagging"}, "timestep_spacing = 'lagging'"),
]


@pytest.mark.parametrize(("config", "named"), REFUSED, ids=str)
def test_what_cannot_be_followed_is_refused_in_one_line(config: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError) as refusal:
        schedulers.read(config)
    assert named in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_has_no_class_is_refused_and_plain_has_one() -> None:
    schedule = schedulers.read(DDIM)
    ours_alone = schedule._replace(sampler=ABM(), config={})
    with pytest.raises(SpecError, match="no class of diffusers has sampler 'abm'"):
        schedulers.write(ours_alone)
    config = schedulers.write(schedulers.plain(schedule.process, schedule.parameterization))
    assert config["_class_name"] == "DDIMScheduler" and config["timestep_spacing"] == "trailing"
    other = Quadratic(T=100)
    written = schedulers.write(schedulers.plain(other, V_()))
    assert torch.allclose(schedulers.read(written).process.alpha(0.37), other.alpha(0.37), atol=1e-12)


def test_a_changed_part_keeps_the_other_keys() -> None:
    """A sampler exchanged after reading: its class's keys are written, those that say nothing of it stay."""
    read = schedulers.read({**DPM, "_diffusers_version": "0.6.0", "solver_order": 2, "sample_max_value": 3.0})
    written = schedulers.write(read._replace(sampler=read.sampler.model_copy(update={"heun": True})))
    assert (written["solver_type"], written["_diffusers_version"], written["sample_max_value"]) == ("heun", "0.6.0", 3.0)
    assert schedulers.write(read._replace(sampler=UniPC(k=2, lower=True)))["_class_name"] == "UniPCMultistepScheduler"


@pytest.mark.parametrize("kind", list(schedulers.DEFAULTS))
def test_the_defaults_are_the_peers(kind: str) -> None:
    peer = getattr(peers.diffusers(), kind)
    wanted = {k: p.default for k, p in inspect.signature(peer.__init__).parameters.items() if k != "self"}
    assert schedulers.DEFAULTS[kind] == wanted
