"""Diffusion from images to noise, and back by a model, as pure functions.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,    0 <= t < T        (`Process`)

A *denoiser* is any function `(x_t [B, ...], t [B], labels [B]) -> output`. The output is the noise
e, the clean x_0, or `v = sqrt(abar_t) e - sqrt(1 - abar_t) x_0`; with a learned variance the last
axis is twice as long, and its second half interpolates between the bounds of the variance.

Sources: Ho et al., Denoising Diffusion Probabilistic Models (2020); Nichol and Dhariwal, Improved
DDPM (2021); Song et al., DDIM (2021); Salimans and Ho, Progressive Distillation (2022); Ho and
Salimans, Classifier-Free Diffusion Guidance (2022).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.models.process import Process
from jaxunlearn.types import InputError

SAMPLERS = ("ddpm", "ddim", "ddim_diffusers")

# denoiser(x_t [B, ...], t [B], labels [B]) -> output
Denoiser = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class _Steps:
    """The constants of the steps back along some of the timesteps, float32 `[S]` each.

    Fewer timesteps make another process, with `beta_i = 1 - abar_i / abar_{i-1}`.
    """

    def __init__(self, process: Process, timesteps: np.ndarray) -> None:
        now = process.alphas_bar[timesteps]
        before = np.append(1.0, now[:-1])
        betas = 1.0 - now / before
        posterior = betas * (1.0 - before) / (1.0 - now)
        # The variance of the last step is 0; in logarithms it takes its neighbour's.
        floor = posterior[1] if len(posterior) > 1 else betas[0]
        self.timesteps = jnp.asarray(timesteps, jnp.int32)
        self.alphas_bar = jnp.asarray(now, jnp.float32)
        self.mean_of_clean = jnp.asarray(betas * np.sqrt(before) / (1.0 - now), jnp.float32)
        self.mean_of_noisy = jnp.asarray(
            (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - now), jnp.float32
        )
        self.small = jnp.asarray(np.log(np.append(floor, posterior[1:])), jnp.float32)
        self.large = jnp.asarray(np.log(np.append(floor, betas[1:])), jnp.float32)
        self.betas = jnp.asarray(np.log(betas), jnp.float32)


def add_noise(
    process: Process, clean: jax.Array, noise: jax.Array, timesteps: jax.Array
) -> jax.Array:
    """Noisy images `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e`, of the shape of `clean`.

    Args:
        process: diffusion process.
        clean: clean images x_0, `[B, ...]`.
        noise: noise e, of the same shape.
        timesteps: timesteps t, `[B]`.

    Example:
        >>> clean, noise = jnp.ones((1, 2)), jnp.zeros((1, 2))
        >>> bool(jnp.all(add_noise(Process(), clean, noise, jnp.array([999])) < 0.01))
        True
    """
    signal, spread = _scales(process, timesteps, clean)
    return signal * clean + spread * noise


def target(process: Process, clean: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
    """The output that a denoiser learns for `add_noise(process, clean, noise, timesteps)`."""
    if process.prediction == "epsilon":
        return noise
    if process.prediction == "sample":
        return clean
    signal, spread = _scales(process, timesteps, clean)
    return signal * noise - spread * clean


def clean_and_noise(
    process: Process, noisy: jax.Array, prediction: jax.Array, timesteps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """x_0 and e, of the shape of `noisy`, computed from the prediction of a denoiser.

    Args:
        process: diffusion process.
        noisy: noisy images x_t, `[B, ...]`.
        prediction: prediction of the denoiser, of the same shape.
        timesteps: timesteps t, `[B]`.

    Example:
        >>> clean, noise, t = jnp.full((1, 2), 0.5), jnp.ones((1, 2)), jnp.array([500])
        >>> noisy = add_noise(Process(), clean, noise, t)
        >>> bool(jnp.allclose(clean_and_noise(Process(), noisy, noise, t)[0], 0.5, atol=1e-4))
        True
    """
    signal, spread = _scales(process, timesteps, noisy)
    if process.prediction == "epsilon":
        return (noisy - spread * prediction) / signal, prediction
    if process.prediction == "sample":
        return prediction, (noisy - signal * prediction) / spread
    return signal * noisy - spread * prediction, spread * noisy + signal * prediction


def _scales(process: Process, timesteps: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = (-1, *(1,) * (like.ndim - 1))
    signal = jnp.asarray(np.sqrt(process.alphas_bar), jnp.float32)[timesteps]
    spread = jnp.asarray(np.sqrt(1.0 - process.alphas_bar), jnp.float32)[timesteps]
    return signal.reshape(shape), spread.reshape(shape)


def antithetic_timesteps(keys: jax.Array, num_timesteps: int) -> jax.Array:
    """One timestep per example: drawn in the first half of a batch, mirrored in the second.

    `t_{i + B/2} = T - 1 - t_i`, so that every batch has as many early timesteps as late ones.

    Args:
        keys: one key for each example, `[B]`.
        num_timesteps: number of timesteps, T.

    Returns:
        Timesteps, int32 `[B]`.

    Example:
        >>> t = antithetic_timesteps(jax.random.split(jax.random.key(0), 4), 10)
        >>> (t[:2] + t[2:]).tolist()
        [9, 9]
    """
    half = (keys.shape[0] + 1) // 2
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_timesteps))(keys[:half])
    return jnp.concatenate([drawn, num_timesteps - 1 - drawn])[: keys.shape[0]]


def split_variance(process: Process, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """A denoiser's prediction, and its output for a learned variance or None."""
    if process.variance != "learned_range":
        return output, None
    prediction, variance = jnp.split(output, 2, axis=-1)
    return prediction, variance


def variational_term(
    process: Process,
    clean: jax.Array,
    noisy: jax.Array,
    timesteps: jax.Array,
    prediction: jax.Array,
    variance: jax.Array,
) -> jax.Array:
    """The term of the variational bound that trains the variance, in bits per dimension.

        KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))   for t > 0,   -log p(x_0 | x_1)   for t = 0

    It does not train the prediction of the mean. x_0 are 8-bit images scaled to [-1, 1].

    Args:
        process: diffusion process, with variance "learned_range".
        clean: clean images x_0, `[B, ...]`.
        noisy: noisy images x_t.
        timesteps: timesteps t, `[B]`.
        prediction: prediction of the denoiser.
        variance: output v for the variance, in `log sigma^2 = (v + 1) / 2 log beta + (1 - v) / 2
            log beta_small`.

    Returns:
        Bits per dimension, `[B]`.
    """
    steps = _Steps(process, np.arange(process.num_timesteps))
    rows = (-1, *(1,) * (clean.ndim - 1))

    def at(values: jax.Array) -> jax.Array:
        return values[timesteps].reshape(rows)

    predicted, _ = clean_and_noise(process, noisy, jax.lax.stop_gradient(prediction), timesteps)
    true_mean = at(steps.mean_of_clean) * clean + at(steps.mean_of_noisy) * noisy
    mean = at(steps.mean_of_clean) * predicted + at(steps.mean_of_noisy) * noisy
    log_variance = _learned(variance, at(steps.small), at(steps.betas))
    true_log_variance = at(steps.small)
    divergence = 0.5 * (
        log_variance
        - true_log_variance
        + jnp.exp(true_log_variance - log_variance)
        + (true_mean - mean) ** 2 * jnp.exp(-log_variance)
        - 1.0
    )
    likelihood = -_log_likelihood_of_pixels(clean, mean, 0.5 * log_variance)
    nats = jnp.where(timesteps.reshape(rows) == 0, likelihood, divergence)
    return jnp.mean(nats, axis=tuple(range(1, clean.ndim))) / jnp.log(2.0)


def _learned(variance: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    share = (variance + 1.0) / 2.0
    return share * high + (1.0 - share) * low


def _log_likelihood_of_pixels(x: jax.Array, mean: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Log mass of a normal distribution in the bin around each 8-bit value in [-1, 1]."""

    def below(edge: jax.Array) -> jax.Array:
        return jax.scipy.stats.norm.cdf((edge - mean) * jnp.exp(-log_scale))

    upper = jnp.where(x > 0.999, 1.0, below(x + 1.0 / 255.0))
    lower = jnp.where(x < -0.999, 0.0, below(x - 1.0 / 255.0))
    return jnp.log(jnp.maximum(upper - lower, 1e-12))


def guided(
    process: Process,
    denoiser: Denoiser,
    guidance: float | jax.Array,
    null_label: int,
    channels: int | None = None,
) -> Denoiser:
    """Classifier-free guidance: `(1 + w) out(x, t, label) - w out(x, t, null)`.

    Both outputs come from one pass over twice the batch. A learned variance is not guided: it is
    the output for the label.

    Args:
        process: diffusion process.
        denoiser: denoiser, trained with some of its labels dropped.
        guidance: guidance w, which may be traced; 0 returns the denoiser's own output.
        null_label: label that means no condition.
        channels: number of the first channels that are guided, 3 of 4 in the released DiT; the
            others are the output for the label. None guides all.

    Returns:
        A denoiser.

    Example:
        >>> denoiser = lambda x, t, labels: labels[:, None] * x
        >>> double = guided(Process(), denoiser, 1.0, null_label=0)
        >>> double(jnp.ones((1, 1)), jnp.zeros(1), jnp.array([3])).tolist()
        [[6.0]]
    """

    def both(noisy: jax.Array, timesteps: jax.Array, labels: jax.Array) -> jax.Array:
        nothing = jnp.full_like(labels, null_label)
        out = denoiser(
            jnp.concatenate([noisy, noisy]),
            jnp.concatenate([timesteps, timesteps]),
            jnp.concatenate([labels, nothing]),
        )
        with_label, without = jnp.split(out, 2)
        prediction, variance = split_variance(process, with_label)
        unconditional, _ = split_variance(process, without)
        mixed = (1.0 + guidance) * prediction - guidance * unconditional
        parts = [mixed]
        if channels is not None:
            parts = [mixed[..., :channels], prediction[..., channels:]]
        return jnp.concatenate(parts if variance is None else [*parts, variance], axis=-1)

    return both


def sample(
    process: Process,
    denoiser: Denoiser,
    keys: jax.Array,
    labels: jax.Array,
    shape: tuple[int, ...],
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    eta: float | jax.Array = 0.0,
    clip: bool = True,
) -> jax.Array:
    """Images from noise, in one compiled scan.

    "ddpm" draws each step back from the posterior given the predicted x_0; with fewer steps than T
    it uses the process on these timesteps. A step of "ddim" is

        x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) e + sigma z,
        sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)

    so that eta = 0 draws only the first noise, and eta = 1 is "ddpm" with the small variance.
    "ddim_diffusers" takes these steps as the DDIMScheduler of diffusers does, which differs in two
    points: s is t - T // S, even where that is not the next visited timestep, and a clipped x_0
    leaves the predicted e unchanged.

    Args:
        process: diffusion process.
        denoiser: function `(x_t, t, labels) -> output`, guided or not.
        keys: one key for each image, `[B]`; images are independent.
        labels: label of each image, `[B]`.
        shape: shape of one image.
        sampler: "ddpm", "ddim" or "ddim_diffusers".
        num_steps: number of timesteps S, by the spacing of the process.
        eta: share of fresh noise of DDIM.
        clip: whether to keep the predicted x_0 in [-1, 1], as for images; latents have no bounds.
            The `clip_sample` of a process has precedence.

    Returns:
        Images, float32 `[B, *shape]`.

    Raises:
        InputError: an unknown sampler, or a number of steps that the process refuses.

    Example:
        >>> keys, labels = jax.random.split(jax.random.key(0), 2), jnp.zeros(2, jnp.int32)
        >>> nothing = lambda x, t, labels: 0.0 * x
        >>> sample(Process(), nothing, keys, labels, (4, 4, 1), num_steps=5).shape
        (2, 4, 4, 1)
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler is {sampler!r}, but must be one of {', '.join(SAMPLERS)}.")
    visited = process.timesteps(num_steps)
    steps, before = _Steps(process, visited), _ends_of_ddim(process, visited, sampler)
    recomputed = sampler != "ddim_diffusers"
    if process.clip_sample is not None:
        clip = process.clip_sample

    def draw(i: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)

    def back(noisy: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        timesteps = jnp.full(labels.shape, steps.timesteps[i])
        output = denoiser(noisy, timesteps, labels)
        prediction, variance = split_variance(process, output)
        clean, noise = clean_and_noise(process, noisy, prediction, timesteps)
        if clip:
            clean = jnp.clip(clean, -1.0, 1.0)
        if clip and recomputed:
            noise = (noisy - jnp.sqrt(steps.alphas_bar[i]) * clean) / jnp.sqrt(
                1.0 - steps.alphas_bar[i]
            )
        if sampler != "ddpm":
            now, end = steps.alphas_bar[i], before[i]
            sigma = eta * jnp.sqrt((1.0 - end) / (1.0 - now) * (1.0 - now / end))
            direction = jnp.sqrt(jnp.maximum(1.0 - end - sigma**2, 0.0))
            return jnp.sqrt(end) * clean + direction * noise + sigma * draw(i), None
        mean = steps.mean_of_clean[i] * clean + steps.mean_of_noisy[i] * noisy
        log_variance = steps.large[i] if process.variance == "large" else steps.small[i]
        if variance is not None:
            log_variance = _learned(variance, steps.small[i], steps.betas[i])
        fresh = jnp.where(i > 0, draw(i), 0.0)  # the last step draws no noise
        return mean + jnp.exp(0.5 * log_variance) * fresh, None

    first = draw(jnp.int32(num_steps))
    images, _ = jax.lax.scan(back, first, jnp.arange(num_steps - 1, -1, -1))
    return images


def _ends_of_ddim(process: Process, visited: np.ndarray, sampler: str) -> jax.Array:
    """`abar_s` at the end of each step of DDIM, float32 `[S]`."""
    bars = process.alphas_bar
    final = 1.0 if process.set_alpha_to_one else bars[0]
    if sampler == "ddim_diffusers":
        ends = visited - process.num_timesteps // len(visited)
        before = np.where(ends >= 0, bars[ends], final)
    else:
        before = np.append(final, bars[visited[:-1]])
    return jnp.asarray(before, jnp.float32)
