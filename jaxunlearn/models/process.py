"""The noise of a diffusion, and the timesteps that samplers visit; read from diffusers and back.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,    abar_t = prod_{s <= t} (1 - beta_s),  0 <= t < T

Zero terminal signal-to-noise: the roots of abar are shifted and stretched so that the last is 0,

    r_t <- (r_t - r_{T-1}) r_0 / (r_0 - r_{T-1}),    r_t = sqrt(abar_t)

Sources: Ho et al., Denoising Diffusion Probabilistic Models (2020); Nichol and Dhariwal, Improved
DDPM (2021); Lin et al., Common Diffusion Noise Schedules and Sample Steps Are Flawed (2024), whose
table 2 names the spacings.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxunlearn.types import InputError

SCHEDULES = ("linear", "cosine", "scaled_linear")
PREDICTIONS = ("epsilon", "v", "sample")
VARIANCES = ("small", "large", "learned_range")
SPACINGS = ("linspace", "leading", "trailing")

_LARGEST_BETA = 0.999
_BETAS = {"linear": (1e-4, 2e-2), "scaled_linear": (8.5e-4, 1.2e-2)}  # for T = 1000

# The options of diffusers' schedulers, the fields here, and the names of their values there.
_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_train_timesteps": ("num_timesteps", {}),
    "beta_start": ("beta_start", {}),
    "beta_end": ("beta_end", {}),
    "beta_schedule": (
        "schedule",
        {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"},
    ),
    "prediction_type": (
        "prediction",
        {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"},
    ),
    "variance_type": (
        "variance",
        {
            "fixed_small": "small",
            "fixed_large": "large",
            "learned_range": "learned_range",
            "fixed_small_log": "small",
            "fixed_large_log": "large",
        },
    ),
    "rescale_betas_zero_snr": ("zero_terminal_snr", {}),
    "timestep_spacing": ("spacing", {name: name for name in SPACINGS}),
    "steps_offset": ("steps_offset", {}),
    "set_alpha_to_one": ("set_alpha_to_one", {}),
    "clip_sample": ("clip_sample", {}),
}
# The defaults of these options; without a default the option is needed.
_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": None,
    "beta_end": None,
    "beta_schedule": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
_LEADING = _NOISE | {
    "beta_start": 1e-4,
    "beta_end": 2e-2,
    "beta_schedule": "linear",
    "timestep_spacing": "leading",
}
_SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": _LEADING | {"set_alpha_to_one": True, "clip_sample": True},
    "DDPMScheduler": _LEADING | {"variance_type": "fixed_small", "clip_sample": True},
    "PNDMScheduler": _LEADING | {"set_alpha_to_one": False},
    **{
        f"{name}Scheduler": _NOISE
        for name in "DEISMultistep DPMSolverMultistep DPMSolverSDE DPMSolverSinglestep "
        "EulerAncestralDiscrete EulerDiscrete HeunDiscrete KDPM2AncestralDiscrete KDPM2Discrete "
        "LMSDiscrete UniPCMultistep".split()
    },
}
_FIXED = {"trained_betas": None, "thresholding": False, "use_flow_sigmas": False}


@dataclass(frozen=True)
class Process:
    """A diffusion process, the prediction of its denoiser, and the conventions of its samplers.

    Attributes:
        num_timesteps: number of timesteps, T.
        schedule: schedule of beta: "linear"; "scaled_linear", whose root is linear (Stable
            Diffusion v1); or "cosine".
        prediction: prediction of the denoiser: the noise "epsilon", `v = sqrt(abar_t) e -
            sqrt(1 - abar_t) x_0`, or the clean "sample" x_0.
        variance: variance of a step back: "small" (of the posterior, given x_0), "large" (beta), or
            "learned_range" (learned by the denoiser, between both).
        beta_start: first beta; together with beta_end. By default the betas are linear from 1e-4 to
            2e-2, or scaled linear from 8.5e-4 to 1.2e-2, times 1000 / T, so that the last image is
            noise however few timesteps there are.
        beta_end: last beta.
        zero_terminal_snr: whether the last image is noise alone.
        spacing: timesteps that samplers visit: "linspace" from 0 to T - 1, "leading" multiples of
            T // S, or "trailing", which ends at T - 1 and steps by T / S.
        steps_offset: offset of leading timesteps.
        set_alpha_to_one: whether the last step of DDIM ends at abar = 1, instead of abar_0.
        clip_sample: whether samplers clip x_0 to [-1, 1]; None clips pixels and not latents.

    Raises:
        InputError: an unknown choice, fewer than two timesteps, betas outside (0, 1) or of a
            schedule without them, or a zero terminal signal whose denoiser predicts the noise.

    Example:
        >>> Process(num_timesteps=10).alphas_bar.shape
        (10,)
    """

    num_timesteps: int = 1000
    schedule: str = "linear"
    prediction: str = "epsilon"
    variance: str = "small"
    beta_start: float | None = None
    beta_end: float | None = None
    zero_terminal_snr: bool = False
    spacing: str = "linspace"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool | None = None

    def __post_init__(self) -> None:
        if self.num_timesteps < 2:
            raise InputError(f"num_timesteps is {self.num_timesteps}, but must be 2 or more.")
        for name, allowed in (
            ("schedule", SCHEDULES),
            ("prediction", PREDICTIONS),
            ("variance", VARIANCES),
            ("spacing", SPACINGS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} of the diffusion is {getattr(self, name)!r}, but must be one of "
                    f"{', '.join(allowed)}."
                )
        self._check_betas()
        if self.steps_offset < 0:
            raise InputError(f"steps_offset is {self.steps_offset}, but must be 0 or more.")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise InputError(
                "zero_terminal_snr is true, but must be false if the denoiser predicts the noise, "
                "which determines nothing about the last image; choose the prediction v or sample."
            )

    def _check_betas(self) -> None:
        given = (self.beta_start, self.beta_end)
        if given == (None, None):
            return
        if self.schedule == "cosine":
            raise InputError(
                f"beta_start and beta_end are {given[0]} and {given[1]}, but must be left out of "
                "the schedule 'cosine', which has its own betas."
            )
        for name, value in zip(("beta_start", "beta_end"), given, strict=True):
            if value is None or not 0.0 < value < 1.0:
                raise InputError(
                    f"{name} is {value}, but must be above 0 and below 1; give beta_start and "
                    "beta_end, or neither."
                )

    @property
    def betas(self) -> np.ndarray:
        """`beta_t` of the schedule, float64 `[T]`, before the signal is shifted to a last 0."""
        size = self.num_timesteps
        if self.schedule == "cosine":
            edges = np.cos((np.arange(size + 1) / size + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1.0 - edges[1:] / edges[:-1], _LARGEST_BETA)
        first, last = _BETAS[self.schedule]
        scale = 1000.0 / size
        if self.beta_start is not None and self.beta_end is not None:
            first, last, scale = self.beta_start, self.beta_end, 1.0
        if self.schedule == "linear":
            betas = np.linspace(first, last, size)
        else:
            betas = np.linspace(first**0.5, last**0.5, size) ** 2
        return np.minimum(betas * scale, _LARGEST_BETA)

    @cached_property
    def alphas_bar(self) -> np.ndarray:
        """`abar_t`, float64 `[T]`."""
        bars = np.cumprod(1.0 - self.betas)
        if not self.zero_terminal_snr:
            return bars
        roots = np.sqrt(bars)
        stretched = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        return np.square(stretched)

    def timesteps(self, num_steps: int) -> np.ndarray:
        """The timesteps that a sampler of `num_steps` steps visits, ascending, int32 `[S]`.

        Raises:
            InputError: a number of steps outside 1 to T, or an offset that leads beyond T - 1.

        Example:
            >>> [Process(spacing=name).timesteps(4).tolist() for name in SPACINGS]
            [[0, 333, 666, 999], [0, 250, 500, 750], [249, 499, 749, 999]]
        """
        size = self.num_timesteps
        if not 1 <= num_steps <= size:
            raise InputError(
                f"num_steps of sampling is {num_steps}, but must be from 1 to the {size} timesteps "
                "of the diffusion."
            )
        if self.spacing == "leading":
            visited = np.arange(num_steps) * (size // num_steps) + self.steps_offset
            if visited[-1] >= size:
                raise InputError(
                    f"steps_offset is {self.steps_offset}, but must be below "
                    f"{size - visited[-1] + self.steps_offset} for {num_steps} of {size} "
                    "timesteps; sample in fewer steps."
                )
        elif self.spacing == "trailing":
            visited = np.round(np.arange(size, 0, -size / num_steps))[:num_steps][::-1] - 1
        elif num_steps == 1:
            visited = np.array([size - 1])
        else:
            visited = np.round(np.linspace(0, size - 1, num_steps))
        return visited.astype(np.int32)

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any]) -> "Process":
        """The process that a scheduler of diffusers describes.

        DDIM and DDPM are run as there by the samplers "ddim_diffusers" and "ddpm". Of other
        schedulers of the same noise (PNDM, Euler, the DPM solvers and their like), the process
        alone is used. Only DDPM has an option of the variance: with other schedulers, set the
        variance that the denoiser was trained with.

        Args:
            config: content of a `scheduler_config.json`.

        Raises:
            InputError: a class or an option that is not supported, by its name.

        Example:
            >>> config = {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2"}
            >>> Process.from_scheduler(config).schedule
            'cosine'
        """
        known, fields = _known(config), {}
        for option, default in known.items():
            value = config.get(option, default)
            field, names = _FIELDS[option]
            if names and value not in names:
                raise _unsupported(option, value, f"one of {', '.join(names)}")
            fields[field] = names.get(value, value) if names else value
        if fields["schedule"] == "cosine":
            fields |= {"beta_start": None, "beta_end": None}
        return cls(**fields)

    def to_scheduler(self, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of a `scheduler_config.json` that describes the process.

        Args:
            like: content that the process was read from, whose class, spelling and other options
                are kept; by default a `DDIMScheduler`.

        Raises:
            InputError: betas that the options of diffusers cannot express, or a class or option of
                `like` that is not supported.

        Example:
            >>> config = {"_class_name": "DDPMScheduler", "beta_end": 0.01}
            >>> Process.from_scheduler(config).to_scheduler(like=config) == config
            True
        """
        known = _known(like or {"_class_name": "DDIMScheduler"})
        config = dict(like or {"_class_name": "DDIMScheduler", **known})
        first, last = self._ends()
        for option, default in known.items():
            field, names = _FIELDS[option]
            value = {"beta_start": first, "beta_end": last}.get(option, getattr(self, field))
            there = config.get(option, default)
            if value is not None and value != (names.get(there) if names else there):
                config[option] = next((k for k, v in names.items() if v == value), value)
        return config

    def _ends(self) -> tuple[float | None, float | None]:
        """The first and the last beta of a schedule that has them."""
        if self.schedule == "cosine" or self.beta_start is not None:
            return self.beta_start, self.beta_end
        first, last = (beta * 1000.0 / self.num_timesteps for beta in _BETAS[self.schedule])
        if last > _LARGEST_BETA:
            raise InputError(
                f"num_timesteps is {self.num_timesteps}, but must be "
                f"{math.ceil(1000.0 * _BETAS[self.schedule][1] / _LARGEST_BETA)} or more for a "
                "scheduler of diffusers, which does not limit betas; give beta_start and beta_end."
            )
        return first, last


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a scheduler and their defaults, after a check of all others."""
    name = config.get("_class_name")
    if name not in _SCHEDULERS:
        raise InputError(
            f"the scheduler is {name!r}, but must be one of {', '.join(_SCHEDULERS)}; convert the "
            "configuration in diffusers, such as by DDIMScheduler.from_config."
        )
    known = _SCHEDULERS[name]
    for option, only in _FIXED.items():
        if config.get(option, only) != only:
            raise _unsupported(option, config[option], repr(only))
    for option in ("beta_start", "beta_end", "beta_schedule"):
        if known[option] is None and config.get(option) is None:
            raise _unsupported(option, None, f"given for a {name}, whose default is not used")
    clips = config.get("clip_sample", known.get("clip_sample"))
    if clips and config.get("clip_sample_range", 1.0) != 1.0:
        raise _unsupported("clip_sample_range", config["clip_sample_range"], "1.0")
    return known


def _unsupported(option: str, value: Any, allowed: str) -> InputError:
    return InputError(
        f"the option {option!r} of the scheduler is {value!r}, but must be {allowed}; change the "
        "scheduler of the pipeline."
    )
