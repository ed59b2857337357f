"""What A1111's web UI, diffusers, ComfyUI and k-diffusion call our samplers, grids and upscalers.

    known("DPM++ 2M", SAMPLERS)              our kind for any tool's name of it
    sampler_and_grid("DPM++ 2M Karras")      our sampler and grid for what A1111 says of a run
    schedule("sgm_uniform", "ComfyUI")       the grid with the noise levels of a tool's schedule

Checked against the tools' own noise levels on Stable Diffusion's table (tests/fixtures/sigmas.json). This module loads without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Names(NamedTuple):
    """One of our parts in four other tools; "" where a tool has none of its own. aliases: further spellings that are read.

    fields: by which ours is what these names mean, where our defaults are others.
    """

    ours: str
    a1111: str
    diffusers: str
    comfy: str
    kdiffusion: str
    aliases: tuple[str, ...] = ()
    fields: Mapping[str, Any] = {}

    @property
    def all(self) -> tuple[str, ...]:
        """Every spelling; ours is one where the names mean our defaults."""
        return tuple(name for name in ("" if self.fields else self.ours, *self[1:5], *self.aliases) if name)


SAMPLERS: tuple[Names, ...] = (
    Names("ddim", "DDIM", "DDIMScheduler", "ddim", ""),
    Names("ddpm", "DDPM", "DDPMScheduler", "ddpm", ""),
    Names(
        "dpm++2m",
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        "dpmpp_2m",
        "sample_dpmpp_2m",
        ("k_dpmpp_2m", "k_dpmpp_2m_ka", "DPM++ 2M v2", "EDMDPMSolverMultistepScheduler"),
    ),
    Names(
        "dpm++2m-sde",
        "DPM++ 2M SDE",
        "DPMSolverMultistepScheduler(algorithm_type=sde-dpmsolver++)",
        "dpmpp_2m_sde",
        "sample_dpmpp_2m_sde",
        ("dpmpp_2m_sde_gpu", "k_dpmpp_2m_sde", "k_dpmpp_2m_sde_ka", "sde-dpmsolver++"),
    ),
    Names("dpm++2m-sde", "DPM++ 2M SDE Heun", "", "dpmpp_2m_sde_heun", "", ("k_dpmpp_2m_sde_heun",), {"heun": True}),
    Names(
        "euler",
        "Euler",
        "EulerDiscreteScheduler",
        "euler",
        "sample_euler",
        ("k_euler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"),
    ),
    Names(
        "euler-ancestral",
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        "euler_ancestral",
        "sample_euler_ancestral",
        ("k_euler_a", "k_euler_ancestral"),
    ),
    Names("heun", "Heun", "HeunDiscreteScheduler", "heun", "sample_heun", ("k_heun",)),
    Names("dpm2", "DPM2", "KDPM2DiscreteScheduler", "dpm_2", "sample_dpm_2", ("k_dpm_2", "k_dpm_2_ka")),
    Names(
        "dpm2",
        "DPM2 a",
        "KDPM2AncestralDiscreteScheduler",
        "dpm_2_ancestral",
        "sample_dpm_2_ancestral",
        ("k_dpm_2_a", "k_dpm_2_ancestral", "k_dpm_2_a_ka"),
        {"eta": 1.0},
    ),
    Names("lms", "LMS", "LMSDiscreteScheduler", "lms", "sample_lms", ("k_lms", "k_lms_ka")),
    Names(
        "dpm++3m-sde",
        "DPM++ 3M SDE",
        "",
        "dpmpp_3m_sde",
        "sample_dpmpp_3m_sde",
        ("dpmpp_3m_sde_gpu", "k_dpmpp_3m_sde", "k_dpmpp_3m_sde_ka"),
    ),
    Names("unipc", "UniPC", "UniPCMultistepScheduler", "uni_pc", "", ("uni_pc_bh2",)),
    Names("pndm", "PLMS", "PNDMScheduler", "", ""),
    Names("consistency", "LCM", "LCMScheduler", "lcm", "", ("k_lcm",)),
    Names("dpm++2s", "", "", "", ""),
    Names("dpm++single", "", "DPMSolverSinglestepScheduler", "", ""),
    Names("dpm++3m", "", "DPMSolverMultistepScheduler(solver_order=3)", "", ""),
    Names("deis", "", "DEISMultistepScheduler", "deis", ""),
    Names("sa", "", "SASolverScheduler", "sa_solver", ""),
    Names("pc", "", "ScoreSdeVeScheduler", "", ""),
    Names("repaint", "", "RePaintScheduler", "", ""),
)
# What a name means elsewhere where that is not our default, by its spelling; a row's `fields` say what all its names mean.
_ELSEWHERE: dict[str, dict[str, Any]] = {
    "unipc": {"b": "bh1"},  # A1111's
    "uni_pc": {"b": "bh1"},
    "unipcmultistepscheduler": {"k": 2},
    "deismultistepscheduler": {"k": 2},
    "plms": {"runge_kutta": False, "twice": True},
    "dpmsolvermultistepscheduler(solver_order=3)": {"plain": True, "midpoint": True},
    **{
        name.casefold(): {"plain": True}
        for row in SAMPLERS
        if row.ours == "dpm++3m-sde"
        for name in row.all
        if name != row.ours
    },
}
# The kinds of grids, and what comes nearest to them there; `schedule` gives what a name there means exactly.
GRIDS: tuple[Names, ...] = (
    Names("karras", "Karras", "use_karras_sigmas", "karras", "get_sigmas_karras"),
    Names(
        "exponential",
        "Exponential",
        "use_exponential_sigmas",
        "exponential",
        "get_sigmas_exponential",
        ("Polyexponential", "get_sigmas_polyexponential"),
    ),
    Names("lu", "", "use_lu_lambdas", "", ""),
    Names("beta-noise", "Beta", "use_beta_sigmas", "", ""),
    Names("beta", "", "", "beta", ""),
    Names("arctan", "KL Optimal", "", "kl_optimal", ""),
    Names("leading", "DDIM", "timestep_spacing=leading", "ddim_uniform", "", ("leading",)),
    Names("trailing", "SGM Uniform", "timestep_spacing=trailing", "sgm_uniform", "", ("trailing", "Simple", "SGMUniform")),
    Names("uniform", "Uniform", "timestep_spacing=linspace", "normal", "get_sigmas", ("linspace", "Normal")),
)
_LINSPACE: dict[str, Any] = {"kind": "published", "spacing": "linspace", "between": "log"}
_SGM: dict[str, Any] = {**_LINSPACE, "closed": True}
_SIMPLE: dict[str, Any] = {"kind": "published", "spacing": "simple"}
_FROM_ONE: dict[str, Any] = {"kind": "published", "offset": 1}
_PLAIN: dict[str, dict[str, Any]] = {
    kind: {"kind": kind} for kind in ("karras", "exponential", "beta-noise", "beta", "arctan", "lu")
}
# A tool's schedule -> the grid of the same noise levels on a table.
SCHEDULES: dict[str, dict[str, dict[str, Any]]] = {
    "A1111": {
        "Uniform": _LINSPACE,
        "Karras": _PLAIN["karras"],
        "Exponential": _PLAIN["exponential"],
        "Polyexponential": _PLAIN["exponential"],
        "SGM Uniform": _SGM,
        "SGMUniform": _SGM,
        "KL Optimal": _PLAIN["arctan"],
        "Simple": _SIMPLE,
        "Normal": _LINSPACE,
        "DDIM": _FROM_ONE,
        "Beta": _PLAIN["beta-noise"],
    },
    "ComfyUI": {
        "normal": _LINSPACE,
        "karras": _PLAIN["karras"],
        "exponential": _PLAIN["exponential"],
        "sgm_uniform": _SGM,
        "simple": _SIMPLE,
        "ddim_uniform": _FROM_ONE,
        "beta": _PLAIN["beta"],
        "kl_optimal": _PLAIN["arctan"],
    },
    "k-diffusion": {
        "get_sigmas": _LINSPACE,
        "get_sigmas_karras": _PLAIN["karras"],
        "get_sigmas_exponential": _PLAIN["exponential"],
        "get_sigmas_polyexponential": _PLAIN["exponential"],
    },
    # Its schedulers in s; interop/schedulers.py reads a whole description.
    "diffusers": {
        "timestep_spacing=linspace": {
            "kind": "published",
            "spacing": "linspace",
            "between": "linear",
            "told": "linear",
            "pure": True,
        },
        "timestep_spacing=leading": {"kind": "published"},
        "timestep_spacing=trailing": {"kind": "published", "spacing": "trailing", "pure": True},
        "use_karras_sigmas": _PLAIN["karras"],
        "use_exponential_sigmas": _PLAIN["exponential"],
        "use_beta_sigmas": _PLAIN["beta-noise"],
        "use_lu_lambdas": _PLAIN["lu"],
    },
}
# Where even that grid has other noise levels than the name there, by tool and name.
NEARLY: dict[tuple[str, str], str] = {
    ("A1111", "kl optimal"): "its run ends at the least noise level there, and at the data here",
    ("A1111", "ddim"): "where the steps do not divide the table's entries there is one more of them there",
    ("ComfyUI", "ddim_uniform"): "where the steps do not divide the table's entries there is one more of them there",
    ("ComfyUI", "beta"): "up to an entry of the table apart",
}
# Samplers whose steps are not as many there.
DISCARDED = "of one step more it leaves out the last level above 0 there, and none is left out here"
_DISCARDS = ("dpm2",)
# What A1111 calls Automatic, by sampler.
_AUTOMATIC: dict[str, str] = {
    "dpm++2m": "Karras",
    "dpm++2m-sde": "Exponential",
    "dpm++3m-sde": "Exponential",
    "ddim": "DDIM",
    "ddpm": "DDIM",
    "pndm": "DDIM",
}
# A1111's hires upscalers -> fields of a second pass (task/upscale.py); its networks that enlarge pictures have no counterpart.
UPSCALERS: dict[str, dict[str, Any]] = {
    "Latent": {"latent": "bilinear"},
    "Latent (antialiased)": {"latent": "bilinear"},
    "Latent (bicubic)": {"latent": "bicubic"},
    "Latent (bicubic antialiased)": {"latent": "bicubic"},
    "Latent (nearest)": {"latent": "nearest"},
    "Latent (nearest-exact)": {"latent": "nearest"},
    "Lanczos": {},
    "Nearest": {"fit": {"kind": "crop", "filter": "nearest"}},
}


def known(name: str, table: tuple[Names, ...]) -> str | None:
    """Our kind for any tool's name of it, whatever the case, or None. Where two tools differ by case alone, each is taken as it stands."""
    row = _row(name, table)
    return None if row is None else row.ours


def _row(name: str, table: tuple[Names, ...]) -> Names | None:
    wanted = name.strip()
    exact = (row for row in table if wanted in row.all)
    near = (row for row in table if wanted.casefold() in map(str.casefold, row.all))
    return next(exact, None) or next(near, None)


def schedule(name: str, tool: str = "A1111") -> dict[str, Any] | None:
    """The description of the grid that a tool means by `name`, whatever its case; else what another tool means by it; None for none.

    tool: one of SCHEDULES. `NEARLY` has the names whose noise levels are not quite these.
    """
    wanted = name.strip().casefold()
    for one in (tool, *(other for other in SCHEDULES if other != tool)):
        found = next((spec for said, spec in SCHEDULES[one].items() if said.casefold() == wanted), None)
        if found is not None:
            return dict(found)
    kind = known(name, GRIDS)
    return None if kind is None else {"kind": kind}


def named(spec: Mapping[str, Any], tool: str = "A1111") -> str | None:
    """A tool's name of a grid's description, None where it has none: of several the one that says most of its fields."""
    fitting = [name for name, fields in SCHEDULES[tool].items() if all(spec.get(k) == v for k, v in fields.items())]
    return max(fitting, key=lambda name: len(SCHEDULES[tool][name]), default=None)


def sampler_and_grid(name: str, schedule_type: str = "") -> tuple[str | None, dict[str, Any] | None]:
    """(sampler, grid) for a sampler's and a schedule's name in A1111: our kind and our description, None for what there is not here.

    Older texts say the schedule in the sampler's name ("DPM++ 2M Karras"); without any it is A1111's choice for the sampler.
    What the sampler's name means there beside its kind, `elsewhere` tells.
    """
    stem, tail = apart(name)
    sampler = known(stem, SAMPLERS)
    said = "" if schedule_type.casefold() == "automatic" else schedule_type
    said = said or tail or ("Karras" if name.strip().endswith("_ka") else "")
    if not said and sampler is not None:
        said = automatic(sampler)
    return sampler, schedule(said) if said else None


def automatic(sampler: str) -> str:
    """A1111's schedule for one of our kinds, where its text names none."""
    return _AUTOMATIC.get(sampler, "Uniform")


def apart(name: str) -> tuple[str, str]:
    """A sampler's name and the schedule that stands in it, "" where none does: ("DPM++ 2M", "Karras")."""
    stem, _, tail = name.strip().rpartition(" ")
    return (stem, tail) if not known(name, SAMPLERS) and known(stem, SAMPLERS) and known(tail, GRIDS) else (name.strip(), "")


def elsewhere(name: str) -> dict[str, Any]:
    """The fields by which our sampler is what another tool means by `name`, where our own defaults are others."""
    wanted = apart(name)[0]
    row = _row(wanted, SAMPLERS)
    return {**(row.fields if row is not None else {}), **_ELSEWHERE.get(wanted.casefold(), {})}


def discards(sampler: str) -> bool:
    """Whether A1111 and ComfyUI leave out the next to last noise level of a run of this kind."""
    return sampler in _DISCARDS


__all__ = [
    "DISCARDED",
    "GRIDS",
    "NEARLY",
    "SAMPLERS",
    "SCHEDULES",
    "UPSCALERS",
    "Names",
    "apart",
    "automatic",
    "discards",
    "elsewhere",
    "known",
    "named",
    "sampler_and_grid",
    "schedule",
]
