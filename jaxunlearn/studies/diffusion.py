"""The diffusion of a problem: its noise, its loss and its sampling."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from jaxunlearn.models.diffusion_process import SAMPLERS
from jaxunlearn.models.process import Process
from jaxunlearn.types import InputError

# Fields that the records of older versions lack.
_LATER = (
    *("beta_start", "beta_end", "zero_terminal_snr", "spacing", "steps_offset"),
    *("set_alpha_to_one", "clip_sample", "latents", "flip", "guided_channels"),
)


@dataclass(frozen=True)
class Diffusion:
    """The diffusion of a model that generates images, and its sampling in evaluations.

    Attributes:
        num_timesteps: number of diffusion steps T.
        schedule: noise schedule.
        prediction: target of the model: the noise (epsilon), the velocity (v) or the image itself
            (sample).
        variance: variance of a reverse step.
        reduction: reduction of the squared errors of an image.
        label_drop: share of labels that training drops.
        fisher_guidance: guidance of the predictions for Fisher diagonals.
        sampler: sampler of evaluations; ddim_diffusers takes the steps of diffusers' DDIMScheduler.
        sampling_steps: number of steps of the sampler.
        eta: share of fresh noise in each step of DDIM.
        guidance: weight w of classifier-free guidance, `(1 + w) out(c) - w out(null)`.
        samples: number of images of each class in evaluations.
        beta_start: first beta of the schedule, together with beta_end; by default the published
            ones, times 1000 / T.
        beta_end: last beta of the schedule.
        zero_terminal_snr: whether the last image is noise alone; needs the prediction v or sample.
        spacing: spacing of the timesteps that the sampler visits, as in diffusers.
        steps_offset: offset of leading timesteps.
        set_alpha_to_one: whether the last step of DDIM ends at the clean image, instead of the
            first timestep.
        clip_sample: whether the sampler clips clean images to [-1, 1]; by default pixels are
            clipped and latents are not.
        latents: latents of a model of latents: the means of the autoencoder, or sampled, which
            draws from its Gaussians at every visit.
        flip: whether training mirrors half of the images.
        guided_channels: number of the first channels that guidance acts on, 3 in the released DiT;
            all by default.
    """

    num_timesteps: int = 1000
    schedule: Literal["linear", "cosine", "scaled_linear"] = "linear"
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    variance: Literal["small", "large", "learned_range"] = "small"
    reduction: Literal["mean", "sum"] = "mean"
    label_drop: float = 0.1
    fisher_guidance: float = 0.0
    sampler: Literal["ddpm", "ddim", "ddim_diffusers"] = "ddim"
    sampling_steps: int = 50
    eta: float = 0.0
    guidance: float = 2.0
    samples: int = 100
    beta_start: float | None = None
    beta_end: float | None = None
    zero_terminal_snr: bool = False
    spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool | None = None
    latents: Literal["mean", "sampled"] = "mean"
    flip: bool = False
    guided_channels: int | None = None

    def __post_init__(self) -> None:
        process = self.process()
        if self.sampler not in SAMPLERS:
            raise InputError(
                f"sampler is {self.sampler!r}, but must be one of {', '.join(SAMPLERS)}."
            )
        if not 1 <= self.sampling_steps <= self.num_timesteps:
            raise InputError(
                f"sampling_steps is {self.sampling_steps}, but must be from 1 to the "
                f"{self.num_timesteps} timesteps of the diffusion."
            )
        process.timesteps(self.sampling_steps)
        if self.guided_channels is not None and self.guided_channels < 1:
            raise InputError(f"guided_channels is {self.guided_channels}, but must be 1 or more.")
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}, but must be 1 or more.")
        for name, least, most in (
            ("eta", 0.0, 1.0),
            ("guidance", -1.0, math.inf),
            ("fisher_guidance", -1.0, math.inf),
        ):
            value = getattr(self, name)
            if not (least <= value <= most and math.isfinite(value)):
                allowed = "at least -1" if most == math.inf else "from 0 to 1"
                raise InputError(f"{name} is {value!r}, but must be a number {allowed}.")
        if self.label_drop == 0.0 and (self.guidance, self.fisher_guidance) != (0.0, 0.0):
            raise InputError(
                "guidance compares with the prediction for no label, which the model never learns "
                "with label_drop = 0; drop some labels, or set guidance and fisher_guidance to 0."
            )

    def process(self) -> Process:
        """The noise process."""
        return Process(**{each.name: getattr(self, each.name) for each in fields(Process)})

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any], **others: Any) -> "Diffusion":
        """The diffusion that a scheduler of diffusers describes, and its sampler.

        Args:
            config: content of a `scheduler_config.json`.
            **others: other fields, such as the variance that the denoiser has learned.

        Raises:
            InputError: what `Process.from_scheduler` refuses, or a field that is not allowed.

        Example:
            >>> Diffusion.from_scheduler({"_class_name": "DDIMScheduler"}).sampler
            'ddim_diffusers'
        """
        sampler = "ddpm" if config.get("_class_name") == "DDPMScheduler" else "ddim_diffusers"
        read = asdict(Process.from_scheduler(config))
        return cls(**(read | {"sampler": sampler} | others))

    def identity(self) -> dict[str, Any]:
        """The fields as in JSON; those of later versions only if they differ from their default."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER or value != getattr(Diffusion, name)
        }
