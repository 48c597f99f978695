"""The diffusion process and its samplers, against closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.diffusion_process import (
    add_noise,
    antithetic_timesteps,
    clean_and_noise,
    guided,
    sample,
    target,
    variational_term,
)
from jaxunlearn.models.process import Process
from jaxunlearn.types import InputError

KEY = jax.random.key(0)
PROCESSES = [
    Process(schedule=schedule, prediction=prediction)
    for schedule in ("linear", "cosine")
    for prediction in ("epsilon", "v")
]


def test_the_linear_schedule_is_the_published_one():
    betas = 1.0 - Process().alphas_bar / np.append(1.0, Process().alphas_bar[:-1])
    chex.assert_trees_all_close(betas, np.linspace(1e-4, 2e-2, 1000), rtol=1e-9)


def test_the_scaled_linear_schedule_is_that_of_stable_diffusion():
    bars = Process(schedule="scaled_linear").alphas_bar
    t = np.arange(1000) / 999
    betas = (0.00085**0.5 + t * (0.012**0.5 - 0.00085**0.5)) ** 2
    chex.assert_trees_all_close(bars, np.cumprod(1 - betas), rtol=1e-9)


def test_the_cosine_schedule_is_the_published_one():
    def f(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    t = np.arange(1, 999)
    chex.assert_trees_all_close(
        Process(schedule="cosine").alphas_bar[t - 1], f(t) / f(0), rtol=1e-6
    )


@pytest.mark.parametrize("num_timesteps", [20, 100, 1000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_last_image_is_noise_however_few_timesteps_there_are(schedule, num_timesteps):
    alphas_bar = Process(num_timesteps, schedule).alphas_bar
    assert alphas_bar[-1] < 1e-3
    assert np.all(np.diff(alphas_bar) < 0)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_a_perfect_prediction_gives_image_and_noise_back(process):
    clean, noise = jax.random.normal(KEY, (2, 5, 3))
    t = jnp.array([0, 10, 200, 600, 900])
    noisy = add_noise(process, clean, noise, t)
    found = clean_and_noise(process, noisy, target(process, clean, noise, t), t)
    chex.assert_trees_all_close(found, (clean, noise), atol=3e-4)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_timesteps_are_mirrored_and_cover_the_whole_range(batch):
    t = antithetic_timesteps(jax.random.split(KEY, batch), 10)
    half = batch // 2
    assert t.shape == (batch,) and t.min() >= 0 and t.max() <= 9
    chex.assert_trees_all_equal(t[:half] + t[(batch + 1) // 2 :], jnp.full(half, 9))
    if batch == 64:
        assert set(np.asarray(t).tolist()) == set(range(10))


def perfect(process, mean, variance):
    """The denoiser that is right for images that are normal with this mean and variance."""

    def denoiser(noisy, t, labels):
        bar = jnp.asarray(process.alphas_bar, jnp.float32)[t].reshape(-1, 1)
        centre = jnp.sqrt(bar) * mean
        noise = jnp.sqrt(1 - bar) * (noisy - centre) / (bar * variance + 1 - bar)
        clean = (noisy - jnp.sqrt(1 - bar) * noise) / jnp.sqrt(bar)
        if process.prediction == "epsilon":
            return noise
        return jnp.sqrt(bar) * noise - jnp.sqrt(1 - bar) * clean

    return denoiser


@pytest.mark.parametrize(
    ("sampler", "num_steps", "eta"),
    [("ddpm", 200, 0.0), ("ddim", 60, 0.0), ("ddim", 200, 1.0)],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_samples_follow_the_distribution_that_the_denoiser_knows(
    sampler, num_steps, eta, prediction
):
    process = Process(200, "cosine", prediction)
    keys, labels = jax.random.split(KEY, 4000), jnp.zeros(4000, jnp.int32)
    images = jax.jit(
        lambda: sample(
            process,
            perfect(process, 0.3, 0.04),
            keys,
            labels,
            (1,),
            sampler=sampler,
            num_steps=num_steps,
            eta=eta,
            clip=False,
        )
    )()
    assert abs(float(images.mean()) - 0.3) < 0.015
    assert abs(float(images.std()) - 0.2) < 0.015


def test_ddim_with_all_noise_is_ddpm():
    process = Process(100)
    keys, labels = jax.random.split(KEY, 3), jnp.zeros(3, jnp.int32)
    one, other = (
        sample(process, perfect(process, 0.0, 1.0), keys, labels, (4,), num_steps=20, **how)
        for how in ({"sampler": "ddpm"}, {"sampler": "ddim", "eta": 1.0})
    )
    chex.assert_trees_all_close(one, other, atol=1e-5)


def test_an_image_does_not_depend_on_the_others():
    process, labels = Process(50), jnp.zeros(4, jnp.int32)
    keys = jax.random.split(KEY, 4)

    def draw(keys, labels):
        return sample(
            process, perfect(process, 0.0, 1.0), keys, labels, (2,), sampler="ddpm", num_steps=10
        )

    chex.assert_trees_all_close(draw(keys, labels)[1:3], draw(keys[1:3], labels[1:3]), atol=1e-6)


def test_a_learned_variance_at_its_bounds_is_the_fixed_one():
    keys, labels = jax.random.split(KEY, 3), jnp.zeros(3, jnp.int32)

    def with_variance(value):
        inner = perfect(Process(50), 0.0, 1.0)

        def denoiser(x, t, labels):
            out = inner(x, t, labels)
            return jnp.concatenate([out, jnp.full_like(out, value)], axis=-1)

        return denoiser

    def draw(variance, denoiser):
        return sample(
            Process(50, variance=variance),
            denoiser,
            keys,
            labels,
            (2,),
            sampler="ddpm",
            num_steps=50,
        )

    for variance, value in (("small", -1.0), ("large", 1.0)):
        chex.assert_trees_all_close(
            draw(variance, perfect(Process(50), 0.0, 1.0)),
            draw("learned_range", with_variance(value)),
            atol=1e-5,
        )


def test_guidance_extrapolates_from_no_label_and_can_be_mapped():
    def denoiser(x, t, labels):
        return x + 10.0 * labels[:, None] + t[:, None]

    x, t, labels = jnp.ones((2, 3)), jnp.array([1.0, 2.0]), jnp.array([4, 5])

    def out(guidance):
        return guided(Process(), denoiser, guidance, null_label=9)(x, t, labels)

    chex.assert_trees_all_equal(out(0.0), denoiser(x, t, labels))
    expected = 3.0 * denoiser(x, t, labels) - 2.0 * denoiser(x, t, jnp.full(2, 9))
    chex.assert_trees_all_close(out(2.0), expected)
    chex.assert_trees_all_close(
        jax.vmap(out)(jnp.array([0.0, 2.0])), jnp.stack([out(0.0), out(2.0)])
    )


def test_guidance_leaves_a_learned_variance_as_it_is():
    """Extrapolated, it would leave the range from -1 to 1 that it is learned in."""

    def denoiser(x, t, labels):
        variance = jnp.where(labels == 9, -1.0, 1.0)[:, None, None, None]
        return jnp.concatenate([x * labels[:, None, None, None], variance + 0.0 * x], axis=-1)

    x, labels = jnp.ones((2, 1, 1, 3)), jnp.array([4, 5])
    process = Process(50, variance="learned_range")
    out = guided(process, denoiser, 2.0, null_label=9)(x, jnp.zeros(2), labels)
    chex.assert_trees_all_equal(out[..., 3:], jnp.ones_like(x))
    expected = jnp.array([3 * 4 - 2 * 9, 3 * 5 - 2 * 9.0])
    chex.assert_trees_all_equal(out[:, 0, 0, 0], expected)


def test_the_sampler_can_be_mapped_over_guidance():
    process, keys = Process(50), jax.random.split(KEY, 3)
    labels = jnp.array([1, 2, 3])

    def denoiser(x, t, labels):
        return 0.1 * x + 0.01 * labels[:, None]

    def images(guidance):
        one = guided(process, denoiser, guidance, null_label=9)
        return sample(process, one, keys, labels, (4,), num_steps=5, clip=False)

    mapped = jax.jit(jax.vmap(images))(jnp.array([0.0, 2.0]))
    chex.assert_trees_all_close(mapped, jnp.stack([images(0.0), images(2.0)]), rtol=1e-4)
    assert not np.allclose(mapped[0], mapped[1])


def test_the_variational_term_vanishes_for_the_true_posterior_and_grows_off_it():
    process = Process(100, variance="learned_range")
    clean, noise = jnp.clip(jax.random.normal(KEY, (2, 3, 4)), -1, 1)
    t = jnp.array([5, 50, 99])
    noisy = add_noise(process, clean, noise, t)
    at_low = jnp.full_like(clean, -1.0)
    exact = variational_term(process, clean, noisy, t, noise, at_low)
    chex.assert_trees_all_close(exact, jnp.zeros(3), atol=1e-4)
    assert jnp.all(variational_term(process, clean, noisy, t, noise + 0.5, at_low) > 1e-4)
    assert float(variational_term(process, clean, noisy, t, noise, at_low + 2.0)[0]) > 1e-2


def test_the_variational_term_of_the_first_timestep_is_a_likelihood_of_pixels():
    process = Process(100, variance="learned_range")
    clean = (jnp.arange(256.0) / 127.5 - 1.0)[:, None]
    t = jnp.zeros(256, jnp.int32)
    noise = jnp.zeros_like(clean)
    noisy = add_noise(process, clean, noise, t)
    bits = variational_term(process, clean, noisy, t, noise, jnp.full_like(clean, -1.0))
    assert jnp.all(bits >= -1e-4)  # a probability is at most 1
    off = variational_term(process, clean, noisy, t, noise + 30.0, jnp.full_like(clean, -1.0))
    assert float(off.mean()) > float(bits.mean()) + 1.0


def test_the_mean_is_not_trained_by_the_variational_term():
    process = Process(100, variance="learned_range")
    x, t = jax.random.normal(KEY, (3, 4)), jnp.array([5, 50, 99])
    slopes = jax.grad(
        lambda p, v: jnp.sum(variational_term(process, x, x, t, p, v)), argnums=(0, 1)
    )(x, x)
    assert jnp.all(slopes[0] == 0) and jnp.any(slopes[1] != 0)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"num_timesteps": 1}, "2 or more"),
        ({"schedule": "sine"}, "linear, cosine, scaled_linear"),
        ({"prediction": "x"}, "epsilon, v, sample"),
        ({"variance": "none"}, "small, large, learned_range"),
    ],
)
def test_bad_processes_are_refused(bad, words):
    with pytest.raises(InputError, match=words):
        Process(**bad)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"sampler": "euler"}, "ddpm, ddim, ddim_diffusers"),
        ({"num_steps": 0}, "1 to the"),
        ({"num_steps": 2000}, "1 to"),
    ],
)
def test_bad_samplings_are_refused(bad, words):
    with pytest.raises(InputError, match=words):
        sample(Process(), lambda x, t, c: x, jax.random.split(KEY, 1), jnp.zeros(1), (1,), **bad)


def test_guidance_may_act_on_the_first_channels_only():
    """As in the released DiT: the last channel is the output for the label."""

    def denoiser(x, t, labels):
        return labels[:, None, None, None] * x

    images, t, label = jnp.ones((1, 2, 2, 4)), jnp.zeros(1), jnp.array([3])
    whole, first = (
        guided(Process(), denoiser, 1.0, null_label=1, channels=n)(images, t, label)
        for n in (None, 3)
    )
    assert jnp.all(whole == 5.0) and jnp.all(first[..., :3] == 5.0) and jnp.all(first[..., 3] == 3)
