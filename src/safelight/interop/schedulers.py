"""diffusers' `scheduler_config.json`: process + parameterization + grid + sampler + bends, and back.

    schedule = read(config)        # every key that changes what is sampled is honoured, or refused in one line
    write(schedule) == config      # every key, also those that change nothing

One scheduler class there is a process (its table of betas), a parameterization (`prediction_type`), a grid (`timestep_spacing` and what
bends it), a sampler, and limits of x0 (`clip_sample`, `thresholding`). Here each is a part of its own, and what the classes do besides is
an option of one of them, off by default: `grid.Published`, `stride` and `free_noise` of `ddim`, `lower` of `dpm++2m`, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from safelight.grid import BetaNoise, Distilled, Even, Exponential, Grid, Karras, Lu, Published
from safelight.guide import Bend
from safelight.guide.threshold import Threshold
from safelight.predict import EDM as Preconditioned
from safelight.predict import X0, Eps, Parameterization, V, Velocity
from safelight.process import Process
from safelight.process.continuous import EDM, VE, Flow
from safelight.process.tables import CosineBetas, Linear, Listed, ScaledLinear, Sigmoid, Table
from safelight.sample import Sampler
from safelight.sample.adams import LMS
from safelight.sample.ancestral import DDIM, DDPM, EulerAncestral
from safelight.sample.consistency import Consistency
from safelight.sample.deis import DEIS
from safelight.sample.dpm import DPM2M, DPM2MSDE, DPM3M
from safelight.sample.edm import Euler, Heun
from safelight.sample.midpoint import DPM2
from safelight.sample.pndm import PNDM
from safelight.sample.single import Single
from safelight.sample.unipc import UniPC
from safelight.spec import SpecError, nearest

# The version of diffusers whose keys these are.
VERSION = "0.42.1"
# abar of the last entry where solvers in s rescale to a zero terminal SNR.
_LAST = 2.0**-24
Config = Mapping[str, Any]


class Schedule(NamedTuple):
    """What a scheduler's description says, in our parts.

    bends: the limits of x0. config: the description as it was read, {} for a schedule that was born here.
    """

    process: Process
    parameterization: Parameterization
    sampler: Sampler
    grid: Grid
    bends: tuple[Bend, ...] = ()
    config: Config = {}

    @property
    def parts(self) -> tuple[Process, Parameterization, Sampler, Grid, tuple[Bend, ...]]:
        """All but how it was described."""
        return self[:5]


_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}
_LIMITS: dict[str, Any] = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIP: dict[str, Any] = {"clip_sample": True, "clip_sample_range": 1.0}
_CURVES: dict[str, Any] = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_FLOW: dict[str, Any] = {"use_flow_sigmas": False, "flow_shift": 1.0}
_SHIFT: dict[str, Any] = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
_NOISY: dict[str, Any] = {
    **_BETAS,
    **_CURVES,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
_EDM: dict[str, Any] = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
# What each class's constructor takes, and what it is when the description does not say.
DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {
        **_BETAS,
        **_CLIP,
        **_LIMITS,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    },
    "DDPMScheduler": {
        **_BETAS,
        **_CLIP,
        **_LIMITS,
        "variance_type": "fixed_small",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    },
    "PNDMScheduler": {
        **_BETAS,
        "skip_prk_steps": False,
        "set_alpha_to_one": False,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 0,
    },
    "EulerDiscreteScheduler": {
        **_BETAS,
        **_CURVES,
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    },
    "EulerAncestralDiscreteScheduler": {
        **_BETAS,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    },
    "DPMSolverMultistepScheduler": {
        **_BETAS,
        **_LIMITS,
        **_CURVES,
        **_FLOW,
        **_SHIFT,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    },
    "UniPCMultistepScheduler": {
        **_BETAS,
        **_LIMITS,
        **_CURVES,
        **_FLOW,
        **_SHIFT,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "predict_x0": True,
        "solver_type": "bh2",
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": False,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    },
}
DEFAULTS |= {
    "HeunDiscreteScheduler": {
        **_NOISY,
        "clip_sample": False,
        "clip_sample_range": 1.0,
    },
    "LMSDiscreteScheduler": {**_NOISY, "beta_start": 0.0001, "beta_end": 0.02},
    "KDPM2DiscreteScheduler": _NOISY,
    "KDPM2AncestralDiscreteScheduler": _NOISY,
    "DEISMultistepScheduler": {
        **_BETAS,
        **_LIMITS,
        **_CURVES,
        **_FLOW,
        **_SHIFT,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "lower_order_final": True,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    },
    "DPMSolverSinglestepScheduler": {
        **_BETAS,
        **_LIMITS,
        **_CURVES,
        **_FLOW,
        **_SHIFT,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
    },
    "LCMScheduler": {
        **_BETAS,
        **_CLIP,
        **_LIMITS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "original_inference_steps": 50,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "timestep_scaling": 10.0,
        "rescale_betas_zero_snr": False,
    },
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": {
        **_EDM,
        **_LIMITS,
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_CURVES,
        **_SHIFT,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "stochastic_sampling": False,
    },
}
_TABLES: dict[str, type[Table]] = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "squaredcos_cap_v2": CosineBetas,
    "sigmoid": Sigmoid,
}
_PREDICTIONS: dict[str, type[Parameterization]] = {"epsilon": Eps, "sample": X0, "v_prediction": V}


class _Asked:
    """A description under reading: what it says, or its class's default."""

    def __init__(self, config: Config) -> None:
        self.name = str(config.get("_class_name", ""))
        if self.name not in DEFAULTS:
            raise SpecError(f"scheduler: no '{self.name}' is known here{nearest(self.name, DEFAULTS)}")
        self.values = DEFAULTS[self.name] | {k: v for k, v in config.items() if k in DEFAULTS[self.name]}

    def __call__(self, key: str) -> Any:
        return self.values.get(key)

    def one_of(self, key: str, *known: Any) -> Any:
        """A value that must be one of these. Raises SpecError where it is not."""
        value = self(key)
        if value not in known:
            names = ", ".join(map(repr, known))
            raise SpecError(f"scheduler {self.name}: {key} = {value!r} cannot be followed here (known: {names})")
        return value

    def process(self, terminal: float = 0.0) -> Process:
        """The table. terminal: abar of its last entry where it is rescaled."""
        rescaled = bool(self("rescale_betas_zero_snr"))
        common = {"zero_terminal_snr": rescaled, "terminal": terminal if rescaled else 0.0}
        if self("trained_betas") is not None:
            betas = tuple(float(b) for b in self("trained_betas"))
            return Listed(T=len(betas), values=betas, **common)
        kind = _TABLES[self.one_of("beta_schedule", *_TABLES)]
        ends = {} if kind is CosineBetas else {"beta_start": self("beta_start"), "beta_end": self("beta_end")}
        return kind(T=self("num_train_timesteps"), **ends, **common)

    def parameterization(self) -> Parameterization:
        if self.name.startswith("EDM"):
            self.one_of("prediction_type", "epsilon")
            return Preconditioned(sigma_data=self("sigma_data"))
        if self.name.startswith("FlowMatch"):
            return Velocity()
        return _PREDICTIONS[self.one_of("prediction_type", *_PREDICTIONS)]()

    def bends(self) -> tuple[Bend, ...]:
        """The limits of x0: thresholding goes before clipping."""
        if self("thresholding"):
            return (Threshold(percentile=self("dynamic_thresholding_ratio"), limit=self("sample_max_value"), between=True),)
        if self("clip_sample"):
            most = self("clip_sample_range")
            return (Threshold(percentile=1.0, bound=most, limit=most),)
        return ()

    def curve(self) -> Grid | None:
        """The grid in s between the ends."""
        ends = {"s_min": self("sigma_min"), "s_max": self("sigma_max")}
        if self("use_karras_sigmas"):
            return Karras(**ends)
        if self("use_lu_lambdas"):
            return Lu()
        if self("use_exponential_sigmas"):
            return Exponential(**ends)
        return BetaNoise(**ends) if self("use_beta_sigmas") else None

    def spacing(self) -> Any:
        return self.one_of("timestep_spacing", "leading", "linspace", "trailing") if self("timestep_spacing") else "linspace"

    def offset(self) -> int:
        """Entries added to leading places; other spacings have none."""
        return int(self("steps_offset")) if self.spacing() == "leading" else 0

    def end(self, last: Any) -> Any:
        """Where the run ends: the data, or `last`."""
        clean = self("set_alpha_to_one")
        if self("final_sigmas_type") is not None:
            clean = self.one_of("final_sigmas_type", "zero", "sigma_min") == "zero"
        return "data" if clean or clean is None else last

    def refuse(self, **harmless: Any) -> None:
        """Raises SpecError where a key has another value than the one that changes nothing."""
        for key, value in harmless.items():
            self.one_of(key, value)


_Read = tuple[Process, Sampler, Grid]


def _ddim(asked: _Asked) -> _Read:
    spacing = asked.spacing()
    grid = Published(spacing=spacing, offset=asked.offset(), end=asked.end("entry"))
    return asked.process(), DDIM(free_noise=bool(asked.bends()), stride=spacing != "leading"), grid


def _ddpm(asked: _Asked) -> _Read:
    variances: dict[str, Any] = {
        "fixed_small": "small",
        "fixed_small_log": "small",
        "fixed_large": "large",
        "learned_range": "learned",
    }
    variance = variances[asked.one_of("variance_type", *variances)]
    return asked.process(), DDPM(variance=variance), Published(spacing=asked.spacing(), offset=asked.offset())


def _pndm(asked: _Asked) -> _Read:
    spacing, skip = asked.spacing(), bool(asked("skip_prk_steps"))
    slope: Any = {"epsilon": "noise", "v_prediction": "v"}[asked.one_of("prediction_type", "epsilon", "v_prediction")]
    sampler = PNDM(runge_kutta=not skip, twice=skip, stride=spacing != "leading", slope=slope)
    return asked.process(), sampler, Published(spacing=spacing, offset=asked.offset(), end=asked.end("entry"))


def _in_noise(asked: _Asked, rounded: bool = False) -> Published:
    """The grid of the classes that step in s, as k-diffusion does: fractional entries, the start scaled to s.

    rounded: the network hears the nearest entry of a Karras curve's places.
    """
    asked.refuse(
        **{key: value for key, value in (("interpolation_type", "linear"), ("timestep_type", "discrete")) if asked(key)}
    )
    spacing, curve = asked.spacing(), asked.curve()
    between = spacing == "linspace"
    return Published(
        spacing=spacing,
        offset=asked.offset(),
        between="linear" if between else "entries",
        curve=curve,
        told="linear" if between and curve is None else "rounded" if rounded and isinstance(curve, Karras) else "exact",
        end=asked.end("ratio"),
        pure=spacing != "leading",
    )


def _euler(asked: _Asked) -> _Read:
    return asked.process(_LAST), Euler(), _in_noise(asked)


def _euler_ancestral(asked: _Asked) -> _Read:
    return asked.process(_LAST), EulerAncestral(), _in_noise(asked)


def _in_lambda(asked: _Asked, rounded: bool) -> Published:
    """The grid of the exponential integrators: integer entries, of which the end of the run is one. rounded: a curve's entries are."""
    asked.refuse(use_flow_sigmas=False, use_dynamic_shifting=False)
    spacing, curve = asked.spacing(), asked.curve()
    least = asked("lambda_min_clipped")
    return Published(
        spacing=spacing,
        offset=asked.offset(),
        closed=spacing != "trailing",
        above=None if least is None or float(least) == -math.inf else float(least),
        curve=curve,
        whole=curve is not None,
        told="exact" if curve is None else "rounded" if rounded else "cut",
        end=asked.end("entry"),
    )


def _heun(asked: _Asked) -> _Read:
    return asked.process(), Heun(), _in_noise(asked)


def _lms(asked: _Asked) -> _Read:
    return asked.process(), LMS(k=4), _in_noise(asked)


def _dpm2(asked: _Asked) -> _Read:
    return asked.process(), DPM2(), _in_noise(asked, rounded=True)


def _dpm2_ancestral(asked: _Asked) -> _Read:
    return asked.process(), DPM2(eta=1.0), _in_noise(asked, rounded=True)


def _dpm_sampler(asked: _Asked) -> Sampler:
    order = asked.one_of("solver_order", 1, 2, 3)
    algorithm = asked.one_of("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis").removesuffix("deis") or "dpmsolver++"
    heun = asked.one_of("solver_type", "midpoint", "heun", "logrho", "bh1", "bh2") == "heun"
    ending = {"lower": bool(asked("lower_order_final")), "euler_last": bool(asked("euler_at_final"))}
    sampler: Sampler
    if order == 1:
        sampler = DDIM(eta=float(algorithm != "dpmsolver++"))
    elif order == 2:
        sampler = (DPM2M if algorithm == "dpmsolver++" else DPM2MSDE)(heun=heun, **ending)
    elif algorithm == "dpmsolver++":
        sampler = DPM3M(plain=True, midpoint=not heun, **ending)
    else:
        # Its weight of the second difference has the wrong sign there, and the paper's would be another sampler.
        raise SpecError(
            f"scheduler {asked.name}: solver_order = 3 of algorithm_type 'sde-dpmsolver++' cannot be followed here (known: 1, 2)"
        )
    return sampler


def _dpm_multistep(asked: _Asked) -> _Read:
    fractional = asked("beta_schedule") == "squaredcos_cap_v2" and asked("trained_betas") is None
    rounded = bool(asked("use_karras_sigmas") or asked("use_lu_lambdas")) and not fractional
    return asked.process(_LAST), _dpm_sampler(asked), _in_lambda(asked, rounded)


def _dpm_single(asked: _Asked) -> _Read:
    algorithm = asked.one_of("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis")
    heun = asked.one_of("solver_type", "midpoint", "heun", "logrho", "bh1", "bh2") == "heun"
    eta = float(algorithm == "sde-dpmsolver++")
    if heun and eta and asked("solver_order") == 3:
        raise SpecError(
            f"scheduler {asked.name}: solver_type = 'heun' of order 3 cannot be followed with noise (known: 'midpoint')"
        )
    lower = bool(asked("lower_order_final") or asked("final_sigmas_type") == "zero")
    sampler = Single(k=asked("solver_order"), eta=eta, heun=heun, lower=lower)
    return asked.process(), sampler, _in_lambda(asked, bool(asked("use_karras_sigmas")))


def _deis(asked: _Asked) -> _Read:
    asked.one_of("algorithm_type", "deis", "dpmsolver", "dpmsolver++")
    grid = _in_lambda(asked, bool(asked("use_karras_sigmas")))
    sampler = DEIS(k=asked.one_of("solver_order", 1, 2, 3), lower=bool(asked("lower_order_final")))
    return asked.process(), sampler, grid.model_copy(update={"end": "entry"})


def _lcm(asked: _Asked) -> _Read:
    return asked.process(), Consistency(boundary=asked("timestep_scaling")), Distilled(steps=asked("original_inference_steps"))


def _edm(asked: _Asked, sampler: Sampler) -> _Read:
    # sigma_min as the last level would be the level before it once more.
    asked.refuse(final_sigmas_type="zero")
    ends = {"sigma_min": asked("sigma_min"), "sigma_max": asked("sigma_max")}
    if asked.one_of("sigma_schedule", "karras", "exponential") == "exponential":
        return VE(**ends), sampler, Exponential()
    return EDM(**ends, rho=asked("rho")), sampler, Karras(rho=asked("rho"))


def _edm_euler(asked: _Asked) -> _Read:
    return _edm(asked, Euler())


def _edm_dpm(asked: _Asked) -> _Read:
    return _edm(asked, _dpm_sampler(asked))


def _flow_euler(asked: _Asked) -> _Read:
    asked.refuse(
        num_train_timesteps=1000,
        use_dynamic_shifting=False,
        invert_sigmas=False,
        shift_terminal=None,
        stochastic_sampling=False,
        **dict.fromkeys(_CURVES, False),
    )
    process = Flow(shift=asked("shift"))
    # Its last place is that of a table's first entry, shifted before all places are shifted.
    return process, Euler(), Even(last=float(process.sigma(1 / asked("num_train_timesteps"))))


def _unipc(asked: _Asked) -> _Read:
    asked.refuse(predict_x0=True, solver_p=None, shift_terminal=None)
    kind = asked.one_of("solver_type", "bh1", "bh2", "midpoint", "heun", "logrho")
    sampler = UniPC(
        k=asked("solver_order"),
        b="bh1" if kind == "bh1" else "bh2",
        lower=bool(asked("lower_order_final")),
        uncorrected=tuple(asked("disable_corrector") or ()),
    )
    return asked.process(_LAST), sampler, _in_lambda(asked, bool(asked("use_karras_sigmas")))


_READERS: dict[str, Callable[[_Asked], _Read]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "DPMSolverMultistepScheduler": _dpm_multistep,
    "UniPCMultistepScheduler": _unipc,
    "HeunDiscreteScheduler": _heun,
    "LMSDiscreteScheduler": _lms,
    "KDPM2DiscreteScheduler": _dpm2,
    "KDPM2AncestralDiscreteScheduler": _dpm2_ancestral,
    "DEISMultistepScheduler": _deis,
    "DPMSolverSinglestepScheduler": _dpm_single,
    "LCMScheduler": _lcm,
    "EDMEulerScheduler": _edm_euler,
    "EDMDPMSolverMultistepScheduler": _edm_dpm,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
}


def read(config: Config) -> Schedule:
    """The schedule of a scheduler's description (the JSON of `scheduler_config.json`).

    Raises SpecError, in one line with the key and its value, for a class that is not known, and for a value that would change what is
    sampled and has no part here. Keys that its class does not take change nothing there, and are kept for `write`.
    """
    asked = _Asked(config)
    try:
        process, sampler, grid = _READERS[asked.name](asked)
        return Schedule(process, asked.parameterization(), sampler, grid, asked.bends(), dict(config))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"scheduler {asked.name}: {' '.join(str(error).split())}") from None


def plain(process: Process, parameterization: Parameterization, bends: tuple[Bend, ...] = ()) -> Schedule:
    """What every table can be written with, for models whose own sampler is known nowhere else: DDIM on `trailing` entries."""
    return Schedule(process, parameterization, DDIM(free_noise=bool(bends), stride=True), Published(spacing="trailing"), bends)


def write(schedule: Schedule) -> dict[str, Any]:
    """The description of a schedule, with every key of its class: `read` of it gives the same parts.

    A schedule whose parts are still those that were read is described as it was read, key for key. Otherwise the class it had is tried,
    then the others. Raises SpecError, in one line, for parts that no class there has together.
    """
    origin = schedule.config
    if origin and read(origin).parts == schedule.parts:
        return dict(origin)
    keys = _keys(schedule)
    wanted = schedule._replace(process=_known(schedule.process)).parts
    had = str(origin.get("_class_name", ""))
    for name in sorted(DEFAULTS, key=lambda name: name != had):
        config = {"_class_name": name, "_diffusers_version": VERSION, **DEFAULTS[name]}
        config |= (dict(origin) if name == had else {}) | {k: v for k, v in keys.items() if k in DEFAULTS[name]}
        try:
            found = read(config)
        except SpecError:
            continue
        if found._replace(process=_known(found.process)).parts == wanted:
            return config
    raise SpecError(
        f"scheduler: no class of diffusers has sampler '{schedule.sampler.kind}' and grid '{schedule.grid.kind}' as they are here; "
        "`interop.schedulers.plain` describes the same model with DDIM"
    )


def _known(process: Process) -> Process:
    """A table by its betas where its kind has no name there; without what each class says of the last entry itself."""
    if not isinstance(process, Table):
        return process
    process = process.model_copy(update={"terminal": 0.0})
    if type(process) in _TABLES.values() and process == type(process)(
        **{k: getattr(process, k) for k in _SAID if hasattr(process, k)}
    ):
        return process
    betas = tuple(process.betas().tolist())
    return Listed(T=process.T, values=betas, zero_terminal_snr=process.zero_terminal_snr)


_SAID = ("T", "zero_terminal_snr", "beta_start", "beta_end")


def _keys(schedule: Schedule) -> dict[str, Any]:
    """What the parts say, under every key that any class has for it."""
    process = _known(schedule.process)
    if not isinstance(process, Table):
        return _of_continuous(schedule) | _of_bends(schedule.bends) | _of_sampler(schedule.sampler)
    keys: dict[str, Any] = {
        "num_train_timesteps": process.T,
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "trained_betas": None,
    }
    if isinstance(process, Listed):
        keys["trained_betas"] = list(process.values)
    else:
        keys["beta_schedule"] = next(name for name, kind in _TABLES.items() if kind is type(process))
        keys |= {name: getattr(process, name) for name in ("beta_start", "beta_end") if hasattr(process, name)}
    told = next((name for name, kind in _PREDICTIONS.items() if kind is type(schedule.parameterization)), None)
    if told is None:
        raise SpecError(
            f"scheduler: parameterization '{schedule.parameterization.kind}' has no counterpart on a table of betas"
        )
    keys["prediction_type"] = told
    return keys | _of_grid(schedule.grid) | _of_bends(schedule.bends) | _of_sampler(schedule.sampler)


def _of_continuous(schedule: Schedule) -> dict[str, Any]:
    process, told = schedule.process, schedule.parameterization
    if isinstance(process, Flow):
        return {"shift": process.shift}
    if isinstance(process, EDM | VE):
        ends = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max, "sigma_data": getattr(told, "sigma_data", 0.5)}
        return ends | ({"rho": process.rho} if isinstance(process, EDM) else {"sigma_schedule": "exponential"})
    raise SpecError(f"scheduler: process '{process.kind}' has no counterpart in diffusers")


def _of_grid(grid: Grid) -> dict[str, Any]:
    if isinstance(grid, Distilled):
        return {"original_inference_steps": grid.steps}
    if not isinstance(grid, Published):
        return {}
    curve, flags = grid.curve, {"karras": Karras, "exponential": Exponential, "beta": BetaNoise}
    return {
        "timestep_spacing": grid.spacing,
        "steps_offset": grid.offset,
        "set_alpha_to_one": grid.end == "data",
        "final_sigmas_type": "zero" if grid.end == "data" else "sigma_min",
        "lambda_min_clipped": -math.inf if grid.above is None else grid.above,
        "use_lu_lambdas": isinstance(curve, Lu),
        "sigma_min": getattr(curve, "s_min", None),
        "sigma_max": getattr(curve, "s_max", None),
        **{f"use_{name}_sigmas": isinstance(curve, kind) for name, kind in flags.items()},
    }


def _of_bends(bends: tuple[Bend, ...]) -> dict[str, Any]:
    keys: dict[str, Any] = {"thresholding": False, "clip_sample": False}
    for bend in bends:
        if isinstance(bend, Threshold) and bend.between:
            keys |= {"thresholding": True, "dynamic_thresholding_ratio": bend.percentile, "sample_max_value": bend.limit}
        elif isinstance(bend, Threshold):
            keys |= {"clip_sample": True, "clip_sample_range": bend.bound}
    return keys


def _of_sampler(sampler: Sampler) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if isinstance(sampler, DDIM):
        keys = {"solver_order": 1, "algorithm_type": "sde-dpmsolver++" if sampler.eta else "dpmsolver++"}
    elif isinstance(sampler, DDPM):
        keys = {"variance_type": {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}[sampler.variance]}
    elif isinstance(sampler, PNDM):
        keys = {"skip_prk_steps": not sampler.runge_kutta}
    elif isinstance(sampler, DPM2M | DPM2MSDE | DPM3M):
        heun = not sampler.midpoint if isinstance(sampler, DPM3M) else sampler.heun
        keys = {
            "solver_order": 3 if isinstance(sampler, DPM3M) else 2,
            "algorithm_type": "sde-dpmsolver++" if isinstance(sampler, DPM2MSDE) else "dpmsolver++",
            "solver_type": "heun" if heun else "midpoint",
            "lower_order_final": sampler.lower,
            "euler_at_final": sampler.euler_last,
        }
    elif isinstance(sampler, Consistency):
        keys = {"timestep_scaling": sampler.boundary}
    elif isinstance(sampler, DEIS):
        keys = {"solver_order": sampler.k, "lower_order_final": sampler.lower}
    elif isinstance(sampler, Single):
        keys = {
            "solver_order": sampler.k,
            "algorithm_type": "sde-dpmsolver++" if sampler.eta else "dpmsolver++",
            "solver_type": "heun" if sampler.heun else "midpoint",
            "lower_order_final": sampler.lower,
        }
    elif isinstance(sampler, UniPC):
        keys = {
            "solver_order": sampler.k,
            "solver_type": sampler.b,
            "lower_order_final": sampler.lower,
            "disable_corrector": list(sampler.uncorrected),
        }
    return keys


__all__ = ["DEFAULTS", "Schedule", "plain", "read", "write"]
