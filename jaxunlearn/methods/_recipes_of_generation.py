"""Recipes for models that generate: see `_recipes`. Parts of a study are named in their texts.

EUPMU's objectives are logarithms, whose gradients constant weights of the losses do not change.
"""

from typing import Any

Settings = dict[str, Any]

_ADAM: Settings = {"learning_rate_schedule": "constant", "weight_decay": 0.0}
_EUPMU: Settings = _ADAM | {"project": False}
_LOGS: Settings = _EUPMU | {"objective": "match_anchor", "log_objective": True}
_ONE_ADAM: Settings = _ADAM | {"num_fast_steps": 1, "share_optimizer": True, "clip_norm": 1.0}

# name: method, text, settings
GENERATING: dict[str, tuple[str, str, Settings]] = {
    "eupmu_ddpm_released": (
        "eupmu",
        """EUPMU as released (arXiv 2510.22124): a DDPM of CIFAR-10 forgets a class.

The study has anchor = "class+1" and reduction = "sum". The weight 1e-3 of the retain loss has no
effect in its logarithm, and is left out. The estimator and the numbers of steps and examples are
this library's.""",
        _LOGS
        | {
            "optimizer": "clipped_adamw",
            "learning_rate": 1e-4,
            "multiplier_learning_rate": 0.025,
        },
    ),
    "eupmu_sd_released": (
        "eupmu",
        """EUPMU as released (arXiv 2510.22124): Stable Diffusion v1.4 forgets an Imagenette class.

The study has anchor = "random" and latents = "sampled". The weights 0.1 and 0.5 of the losses have
no effect in their logarithms, and are left out. The estimator and the number of steps are this
library's.""",
        _LOGS
        | {
            "optimizer": "adamw",
            "learning_rate": 1e-5,
            "forget_batch_size": 8,
            "retain_batch_size": 8,
            "convex": True,
            "multiplier_learning_rate": 3.0,
        },
    ),
    "eupmu_nsfw_released": (
        "eupmu",
        """EUPMU as released (arXiv 2510.22124): Stable Diffusion v1.4 forgets nudity.

The study has the clothed prompt as its anchor. The weight 100 of the forget loss has no effect in
its logarithm, and is left out. The released run denoises two different latents; here both
predictions are of the forget image. The learning rate, the estimator and the numbers of steps and
examples are this library's.""",
        _LOGS
        | {
            "optimizer": "adamw",
            "learning_rate": 1e-5,
            "multiplier_learning_rate": 10.0,
            "tolerance": -0.5,
        },
    ),
    "eupmu_spm_released": (
        "eupmu",
        """EUPMU on SPM as released (arXiv 2510.22124): Stable Diffusion v1.4 forgets a style.

The study has adapter_rank = 1, trainable = "^unet/" and an anchor. The multiplier compares the
losses, not their logarithms, since the anchoring loss begins at 0. Latents are noisy examples, not
partly denoised ones. The learning rate, which is the step size too, the estimator and the numbers
of examples are this library's.""",
        _EUPMU
        | {
            "objective": "spm",
            "retain_objective": "match_original",
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "num_steps": 1000,
            "convex": True,
            "log_loss": False,
            "multiplier_learning_rate": 0.3,
            "tolerance": -0.003,
            "step_size": 1e-4,
        },
    ),
    "sfron_ddpm_released": (
        "sfron",
        """SFR-on as released (arXiv 2409.19732): a DDPM of CIFAR-10 forgets a class in 50 steps.

The study has reduction = "sum", flip = true and fisher_guidance = 2. The released configuration has
150 steps, and averages the weights with the decay 0.9999, which 50 steps hardly move. The exponent
of the adaptive weights is this library's.""",
        _ONE_ADAM
        | {
            "optimizer": "clipped_adamw",
            "learning_rate": 1e-4,
            "num_steps": 50,
            "forget_batch_size": 128,
            "alpha": 10.0,
            "alpha_schedule": "cosine",
            "epsilon": 1e-8,
            "per_example_fisher": False,
            "fisher_clip_norm": 1.0,
            "mask_batch_size": 128,
        },
    ),
    "sfron_dit_released": (
        "sfron",
        """SFR-on as released (arXiv 2409.19732): DiT-XL/2 of ImageNet 256 forgets a class.

The study has guided_channels = 3 and latents = "sampled". Released runs have 500 to 1,000 steps,
and average the weights with the decay 0.9999; here they are not averaged. The Fisher diagonals are
of single examples.""",
        _ONE_ADAM
        | {
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "num_steps": 500,
            "forget_batch_size": 1,
            "retain_batch_size": 1,
            "alpha": 1e-3,
            "alpha_schedule": "constant",
            "objective": "ascent",
        },
    ),
    "sfron_sd_released": (
        "sfron",
        """SFR-on as released (arXiv 2409.19732): Stable Diffusion v1.4 forgets nudity.

The study has the clothed prompt as its anchor. The released run denoises two different latents;
here both predictions are of the forget image. The mask, alpha, its schedule and the clipping are
this library's.""",
        _ONE_ADAM
        | {
            "optimizer": "adamw",
            "learning_rate": 1e-5,
            "num_steps": 1000,
            "forget_batch_size": 2,
            "retain_batch_size": 2,
            "alpha_schedule": "constant",
            "objective": "match_anchor",
        },
    ),
    "sa_released": (
        "selective_amnesia",
        """Selective amnesia with the Fisher diagonal of its released code (NeurIPS 2023).

It sums the gradients of each example over all 1,000 timesteps; num_fisher_batches limits the
examples. The retain data take the place of replayed images. Other settings are this library's.""",
        {"fisher": "timesteps"},
    ),
}
