"""Results of frozen networks are computed once, and again if anything they depend on changes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.models import latent
from jaxunlearn.studies.runs import cache
from jaxunlearn.tasks.diffusion import as_signal

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
IDS = np.arange(12, dtype=np.int32).reshape(2, 6)


def counted(monkeypatch, name):
    """A list that grows by one at each call of a function of `latents`."""
    calls, function = [], getattr(cache.latents, name)
    monkeypatch.setattr(cache.latents, name, lambda *a, **k: calls.append(1) or function(*a, **k))
    return calls


def test_latents(tmp_path, monkeypatch):
    model = latent.create_autoencoder("tiny", channels=1)
    params = jax.jit(model.init)(KEY, as_signal(jnp.asarray(IMAGES)))["params"]
    path, calls = tmp_path / "new" / "latents.npz", counted(monkeypatch, "encode")
    first, again = (cache.cached_latents(path, model, params, IMAGES) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    assert calls == [1]
    others = cache.cached_latents(path, model, params, IMAGES[::-1])
    assert calls == [1, 1]
    chex.assert_trees_all_close(others, first[::-1], atol=1e-5)
    path.write_bytes(path.read_bytes()[:50])  # a damaged file is replaced
    for _ in range(2):
        chex.assert_trees_all_equal(cache.cached_latents(path, model, params, IMAGES), first)
    assert calls == [1, 1, 1]


def test_states_of_prompts(tmp_path, monkeypatch):
    model = latent.create_text_encoder("tiny", vocabulary=12, length=6)
    params = jax.jit(model.init)(KEY, IDS)["params"]
    path, calls = tmp_path / "states.npz", counted(monkeypatch, "encode_prompts")
    first, again = (cache.cached_prompt_states(path, model, params, IDS) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    assert calls == [1]
    moved = jax.tree.map(lambda x: x + 1.0, params)
    assert not np.allclose(cache.cached_prompt_states(path, model, moved, IDS), first)
    assert calls == [1, 1]
