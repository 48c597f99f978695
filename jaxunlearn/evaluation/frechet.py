"""The Frechet distance between two sets of images, by features of a network.

Fit a Gaussian to the features of each set, with means mu and covariances S. Then

    d = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2}),

the squared 2-Wasserstein distance of the two Gaussians. With features of Inception-v3 it is the
FID of Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", NeurIPS 2017; the closed form is Dowson and Landau, 1982.

The trace of the root is the sum of the roots of the eigenvalues of `S_a^{1/2} S_b S_a^{1/2}`, which
is symmetric, so that no complex number can arise. These roots are computed as the singular values
of `S_a^{1/2} S_b^{1/2}`: for dependent features, the root of a rounded eigenvalue 0 would be far
from 0.

Only distances by the same features and from the same number of images are comparable, as the
distance falls with the number of images. `halves_distance` is the distance by chance alone.
"""

import hashlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxunlearn.types import InputError

_ROWS = 4096  # converted to double precision at once


class Statistics(NamedTuple):
    """A Gaussian fitted to the features of a set of images.

    Attributes:
        mean: mean of the features.                    # shape=(D,), dtype=float64
        covariance: covariance, over N - 1.            # shape=(D, D), dtype=float64
        num_images: number of images, N.
        name: name of the features, such as "inception-v3-pool".
        source: SHA-256 of the features.
    """

    mean: np.ndarray
    covariance: np.ndarray
    num_images: int
    name: str
    source: str

    @property
    def dimension(self) -> int:
        """The number of features of an image, D."""
        return len(self.mean)


def check_features(features: Any, name: str) -> np.ndarray:
    """Features `[N, D]` on the host, after a check; errors call them `name`.

    Raises:
        InputError: another shape, no rows or columns, or values that are not finite numbers.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.size == 0:
        raise InputError(
            f"{name} features have shape {array.shape}, but must have [images, features], one row "
            "for each image."
        )
    real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if not real:
        raise InputError(f"{name} features are {array.dtype}, but must be real numbers.")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{name} features are not finite in {int((~finite).sum())} of {len(array)} rows, but "
            "must be; the images or the network of the features have probably diverged."
        )
    return array


def statistics(features: Any, name: str) -> Statistics:
    """A Gaussian fitted to features, in double precision.

    Args:
        features: features `[N, D]`, one row for each image; N is above D.
        name: name of the features, such as "inception-v3-pool"; only features of one name can be
            compared.

    Returns:
        The `Statistics`.

    Raises:
        InputError: an empty name, malformed features, or too few images for a covariance of full
            rank.

    Example:
        >>> found = statistics(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]), "by hand")
        >>> found.mean.tolist(), found.covariance.tolist(), found.num_images
        ([1.0, 1.0], [[1.0, 0.0], [0.0, 3.0]], 3)
    """
    if not isinstance(name, str) or not name:
        raise InputError(
            f"the name of the features is {name!r}, but must name their network and layer."
        )
    array = check_features(features, f"the {name}")
    count, dimension = array.shape
    if count <= dimension:
        raise InputError(
            f"there are {count} images for {dimension} {name} features, but must be at least "
            f"{dimension + 1} for a covariance of full rank; give more images, or features of "
            "fewer dimensions."
        )
    starts = range(0, count, _ROWS)
    digest = hashlib.sha256(str(array.shape).encode())
    total = np.zeros(dimension)
    for start in starts:
        rows = np.ascontiguousarray(array[start : start + _ROWS], np.float64)
        digest.update(rows.tobytes())
        total += rows.sum(axis=0)
    mean = total / count
    products = np.zeros((dimension, dimension))
    for start in starts:
        rows = array[start : start + _ROWS].astype(np.float64) - mean
        products += rows.T @ rows
    return Statistics(mean, products / (count - 1), count, name, digest.hexdigest())


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The Frechet distance of two Gaussians, which is symmetric.

    Args:
        a: statistics of one set of images.
        b: statistics of the other, by the same features.

    Returns:
        Distance, 0 for equal means and covariances.

    Raises:
        InputError: the statistics are of different features, or are not finite.

    Example:
        >>> a = Statistics(np.zeros(2), np.diag([1.0, 4.0]), 9, "by hand", "")
        >>> b = Statistics(np.array([3.0, 0.0]), np.diag([4.0, 4.0]), 9, "by hand", "")
        >>> frechet_distance(a, b)
        10.0
    """
    for each in (a, b):
        if each.covariance.shape != (each.dimension, each.dimension):
            raise InputError(
                f"the statistics of {each.name} have a mean of shape {each.mean.shape} and a "
                f"covariance of shape {each.covariance.shape}, but must have [D] and [D, D]."
            )
        if not (np.isfinite(each.mean).all() and np.isfinite(each.covariance).all()):
            raise InputError(
                f"the statistics of {each.name} are not all finite, but must be; compute them with "
                "`statistics`."
            )
    if (a.name, a.dimension) != (b.name, b.dimension):
        raise InputError(
            f"one side has {a.dimension} features called {a.name!r} and the other {b.dimension} "
            f"called {b.name!r}, but both must be the same; use one network for both sets of "
            "images."
        )
    means = np.sum((a.mean - b.mean) ** 2)
    cross = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return max(0.0, float(means + traces - 2.0 * cross))


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix R with R R^T = covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def halves_distance(features: Any, seed: int = 0) -> float:
    """The Frechet distance between two random halves of one set of images: the effect of chance.

    A perfect model has this distance on average, with as many images as a half.

    Args:
        features: features `[N, D]` of real images, N at least 2 D + 2; an odd image is left out.
        seed: seed of the division.

    Returns:
        Distance, above 0.

    Raises:
        InputError: malformed features, or too few images.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(4000, 2))
        >>> halves_distance(features) < 0.01
        True
    """
    array = check_features(features, "the halved")
    count, dimension = array.shape
    half = count // 2
    if half <= dimension:
        raise InputError(
            f"there are {count} images for {dimension} features, but must be at least "
            f"{2 * dimension + 2} for two halves; give more images, or features of fewer "
            "dimensions."
        )
    order = np.random.default_rng(seed).permutation(count)
    first, second = order[:half], order[half : 2 * half]
    return frechet_distance(statistics(array[first], "half"), statistics(array[second], "half"))
