"""The noise of a diffusion, its timesteps, and the schedulers of diffusers that describe it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.diffusion_process import add_noise, clean_and_noise, sample, target
from jaxunlearn.models.process import Process
from jaxunlearn.types import InputError

SD_V1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.2.2",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
ZERO = {
    "_class_name": "DDIMScheduler",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


@pytest.mark.parametrize("num_timesteps", [10, 1000])
def test_given_betas_are_not_scaled(num_timesteps):
    linear = Process(num_timesteps, beta_start=1e-4, beta_end=2e-2)
    chex.assert_trees_all_close(linear.betas, np.linspace(1e-4, 2e-2, num_timesteps), rtol=1e-12)
    scaled = Process(num_timesteps, "scaled_linear", beta_start=1e-3, beta_end=1e-2)
    roots = np.linspace(1e-3**0.5, 1e-2**0.5, num_timesteps)
    chex.assert_trees_all_close(scaled.betas, roots**2, rtol=1e-12)


def test_with_zero_terminal_snr_the_last_image_is_noise_and_the_first_is_unchanged():
    plain, zero = Process(prediction="v"), Process(prediction="v", zero_terminal_snr=True)
    assert zero.alphas_bar[-1] == 0.0
    assert zero.alphas_bar[0] == pytest.approx(plain.alphas_bar[0], rel=1e-12)
    assert np.all(np.diff(zero.alphas_bar) < 0)
    steps = np.diff(np.sqrt(zero.alphas_bar)) / np.diff(np.sqrt(plain.alphas_bar))
    chex.assert_trees_all_close(steps, np.full(999, steps[0]), rtol=1e-6)  # stretched alike


def test_a_predicted_sample_gives_image_and_noise_back():
    process = Process(prediction="sample", zero_terminal_snr=True)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 4, 3))
    t = jnp.array([10, 200, 600, 999])
    assert target(process, clean, noise, t) is clean
    found = clean_and_noise(process, add_noise(process, clean, noise, t), clean, t)
    chex.assert_trees_all_close(found, (clean, noise), atol=3e-4)


@pytest.mark.parametrize(
    ("spacing", "offset", "visited"),
    [
        ("linspace", 1, [0, 16, 33, 50, 66, 82, 99]),  # only leading timesteps have an offset
        ("leading", 0, [0, 14, 28, 42, 56, 70, 84]),
        ("leading", 1, [1, 15, 29, 43, 57, 71, 85]),
        ("trailing", 0, [13, 28, 42, 56, 70, 85, 99]),
    ],
)
def test_samplers_visit_the_timesteps_of_the_spacing(spacing, offset, visited):
    process = Process(100, spacing=spacing, steps_offset=offset)
    assert process.timesteps(7).tolist() == visited


def exact(process):
    """The denoiser that is right for images that are normal with variance 1/2."""
    bars = jnp.asarray(process.alphas_bar, jnp.float32)

    def denoiser(noisy, t, labels):
        a = bars[t][:, None]
        clean = jnp.sqrt(a) * 0.5 * noisy / (a * 0.5 + 1.0 - a)
        noise = (noisy - jnp.sqrt(a) * clean) / jnp.sqrt(1.0 - a)
        v = jnp.sqrt(a) * noise - jnp.sqrt(1.0 - a) * clean
        return {"epsilon": noise, "sample": clean, "v": v}[process.prediction]

    return denoiser


# The end of DDIM from the noise 1, by diffusers 0.42.1: with this denoiser every step is linear.
ENDS = [
    (SD_V1 | {"_class_name": "DDIMScheduler"}, 50, 0.6845384240),
    ({"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}, 7, 0.5756887197),
    (ZERO, 7, 0.5119931698),
]


@pytest.mark.parametrize(("config", "num_steps", "end"), ENDS, ids=["sd", "linspace", "zero-snr"])
def test_ddim_ends_where_diffusers_ends(config, num_steps, end):
    process = Process.from_scheduler(config | {"clip_sample": False})
    keys = jax.random.split(jax.random.key(1), 2)
    images = sample(
        *(process, exact(process), keys, jnp.zeros(2, jnp.int32), (3,)),
        sampler="ddim_diffusers",
        num_steps=num_steps,
    )
    first = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, num_steps), (3,)))(keys)
    chex.assert_trees_all_close(images / first, jnp.full((2, 3), end), rtol=2e-5)


def test_ddim_of_diffusers_keeps_the_predicted_noise_of_a_clipped_image():
    """One step from t = 9 to t = 4: diffusers takes e as predicted, OpenAI computes it again."""
    process = Process(10, spacing="trailing", steps_offset=0, clip_sample=True)
    keys, labels = jax.random.split(jax.random.key(0), 2), jnp.zeros(2, jnp.int32)

    def denoiser(x, t, labels):
        return jnp.where(t[:, None] == 9, 2.0, 0.5) * jnp.ones_like(x)

    def by_hand(recomputed):
        bars = process.alphas_bar
        x = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 2), (3,)))(keys)
        x = np.asarray(x, np.float64)
        for now, end, noise in ((bars[9], bars[4], 2.0), (bars[4], 1.0, 0.5)):
            clean = np.clip((x - np.sqrt(1 - now) * noise) / np.sqrt(now), -1, 1)
            if recomputed:
                noise = (x - np.sqrt(now) * clean) / np.sqrt(1 - now)
            x = np.sqrt(end) * clean + np.sqrt(1 - end) * noise
        return x

    for sampler in ("ddim", "ddim_diffusers"):
        images = sample(process, denoiser, keys, labels, (3,), sampler=sampler, num_steps=2)
        expected = by_hand(sampler == "ddim")
        chex.assert_trees_all_close(np.asarray(images, np.float64), expected, atol=1e-4)
    assert np.abs(by_hand(True) - by_hand(False)).max() > 0.05


@pytest.mark.parametrize(
    "config",
    [
        SD_V1,
        ZERO,
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log", "beta_end": 0.01},
        {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2"},
        {
            "_class_name": "EulerDiscreteScheduler",
            **{"beta_start": 1e-3, "beta_end": 1e-2, "beta_schedule": "linear"},
            "use_karras_sigmas": True,
        },
    ],
    ids=lambda config: config["_class_name"],
)
def test_a_scheduler_is_written_back_as_it_was_read(config):
    process = Process.from_scheduler(config)
    assert process.to_scheduler(like=config) == config
    assert Process.from_scheduler(process.to_scheduler(like={**config, "steps_offset": 3})) == (
        process
    )


def test_stable_diffusions_scheduler_is_read():
    assert Process.from_scheduler(SD_V1) == Process(
        *(1000, "scaled_linear", "epsilon", "small", 0.00085, 0.012),
        spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
    )


def test_the_default_betas_are_written_as_they_are():
    config = Process(500).to_scheduler()
    assert config["_class_name"] == "DDIMScheduler" and config["timestep_spacing"] == "linspace"
    assert (config["beta_start"], config["beta_end"]) == (2e-4, 4e-2)
    chex.assert_trees_all_close(Process.from_scheduler(config).betas, Process(500).betas)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "LCMScheduler"}, "the scheduler is 'LCMScheduler', but must be one of"),
        (
            {"trained_betas": [0.1]},
            r"'trained_betas' of the scheduler is \[0.1\], but must be None",
        ),
        ({"thresholding": True}, "'thresholding' of the scheduler is True, but must be False"),
        ({"beta_schedule": "sigmoid"}, "must be one of linear, scaled_linear, squaredcos_cap_v2"),
        ({"prediction_type": "flow_prediction"}, "one of epsilon, v_prediction, sample"),
        ({"clip_sample": True, "clip_sample_range": 2.0}, "'clip_sample_range' of the scheduler"),
        ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "prediction v or sample"),
        ({"_class_name": "HeunDiscreteScheduler"}, "'beta_start' of the scheduler is None, but"),
    ],
)
def test_unsupported_schedulers_are_refused_by_name(change, words):
    with pytest.raises(InputError, match=words):
        Process.from_scheduler(ZERO | change)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"spacing": "even"}, "linspace, leading, trailing"),
        ({"beta_start": 0.1}, "beta_end is None, but must be above 0"),
        ({"beta_start": 1.0, "beta_end": 1.0}, "beta_start is 1.0, but must be"),
        ({"schedule": "cosine", "beta_start": 0.1, "beta_end": 0.2}, "'cosine', which has its own"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr is true, but must be false"),
        ({"steps_offset": -1}, "steps_offset is -1, but must be 0 or more"),
    ],
)
def test_bad_processes_are_refused(bad, words):
    with pytest.raises(InputError, match=words):
        Process(**bad)


def test_an_offset_beyond_the_last_timestep_is_refused():
    process = Process(100, spacing="leading", steps_offset=1)
    with pytest.raises(InputError, match="steps_offset is 1, but must be below 1 for 100 of 100"):
        process.timesteps(100)
    with pytest.raises(InputError, match="num_timesteps is 20, but must be 21 or more"):
        Process(20).to_scheduler()
