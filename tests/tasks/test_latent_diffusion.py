"""Text-to-image diffusion in latent space: prompts are labels, images are latents."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn import methods
from jaxunlearn.methods import objectives
from jaxunlearn.models import latent
from jaxunlearn.models.process import Process
from jaxunlearn.models.tokenizer import WordTokenizer
from jaxunlearn.tasks import autoencoding, latent_diffusion, latents
from jaxunlearn.tasks.inversion import inversion, token_inversion
from jaxunlearn.tasks.latent_diffusion import PROMPT_STATES, Prompted
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.types import InputError

pytestmark = pytest.mark.long

KEY = jax.random.key(0)
WORDS = WordTokenizer(("a", "inverted", "coat", "shoe"), length=6)
PROMPTS = ["a coat", "a shoe", "a inverted coat", ""]
IDS = WORDS.encode(PROMPTS)
SHAPE = (4, 4, 4)
ENCODER = latent.create_text_encoder("tiny", vocabulary=WORDS.size, length=6)
UNET = latent.create_text_unet("tiny", widths=(8,), attention_levels=())
TASK = latent_diffusion(ENCODER, UNET, Process(20), ids=IDS, latent_shape=SHAPE, label_drop=0.0)
BATCH = {
    "image": jax.random.normal(KEY, (4, *SHAPE)),
    "label": jnp.array([0, 1, 2, 0]),
    "index": jnp.arange(4),
    "epoch": jnp.zeros(4, jnp.int32),
}


@pytest.fixture(scope="module")
def params():
    """Random ones: published ones begin with outputs of zero."""
    shapes, rng = jax.eval_shape(TASK.init, KEY)[0], np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def applied(module, params, *args, **options):
    """The result of a model, compiled as a whole."""
    return jax.jit(lambda p, *a: module.apply({"params": p}, *a, **options))(params, *args)


@jax.jit
def outputs(params, labels):
    return TASK.outputs(params, {}, BATCH | {"label": labels}, KEY, True)[0]


def test_a_label_is_a_prompt(params):
    assert TASK.num_classes == 3 and TASK.predict is None
    assert set(params) == {"text_encoder", "unet"}
    x, t, labels = BATCH["image"], jnp.arange(4), jnp.array([2, 0, 1, 3])
    states = applied(ENCODER, params["text_encoder"], IDS[np.asarray(labels)])
    expected = applied(UNET, params["unet"], x, t, states)
    ids = tuple(tuple(int(i) for i in row) for row in IDS)
    found = applied(Prompted(ENCODER, UNET, ids), params, x, t, labels)
    chex.assert_trees_all_close(found, expected, atol=1e-5)


@pytest.mark.parametrize("labels", [[2, 0], [2, 0, 1, 3, 0]])
def test_prompts_are_encoded_with_the_batch_or_before(params, labels):
    """Fewer prompts in the batch than there are, more, or none that is left to encode."""
    model = Prompted(ENCODER, UNET, tuple(tuple(int(i) for i in row) for row in IDS))
    x = jax.random.normal(KEY, (len(labels), *SHAPE))
    args = x, jnp.arange(len(labels)), jnp.array(labels)
    states = applied(ENCODER, params["text_encoder"], IDS[np.array(labels)])
    expected = applied(UNET, params["unet"], *args[:2], states)
    chex.assert_trees_all_close(applied(model, params, *args), expected, atol=1e-5)
    kept = latents.encode_prompts(ENCODER, params["text_encoder"], IDS)
    resting = {"params": {"unet": params["unet"]}, PROMPT_STATES: {"states": kept}}
    chex.assert_trees_all_close(jax.jit(model.apply)(resting, *args), expected, atol=1e-5)


def test_inversion_moves_prompt_states_or_tokens_and_nothing_else(params):
    """Both begin at the model's own answer; a token that no prompt of the batch has is at rest."""
    tokens = tuple(int(WORDS.encode([word])[0][1]) for word in ("inverted", "shoe"))
    batch = BATCH | {"label": jnp.array([0, 2, 2, 0])}
    own = jax.jit(lambda p: TASK.forget_losses(p, {}, batch, KEY, True)[0].sum())(params)
    moving = [True, False, True, False], [True, False]
    for part, rows in zip((inversion(TASK), token_inversion(TASK, tokens)), moving, strict=True):
        found, frozen = part.split(params, {}, KEY)

        def loss(found, part=part, frozen=frozen):
            return part.task.losses(found, frozen, batch, KEY, True)[0].sum()

        value, gradient = jax.jit(jax.value_and_grad(loss))(found)
        chex.assert_trees_all_close(value, own, rtol=1e-4)
        assert np.any(gradient != 0, axis=tuple(range(1, found.ndim))).tolist() == rows
        merged, state = part.merge(found + 1.0, frozen)
        if PROMPT_STATES in state:
            chex.assert_trees_all_equal(merged, params)
            chex.assert_trees_all_equal(state[PROMPT_STATES]["states"], found + 1.0)
        else:
            table = merged["text_encoder"]["tokens"]["embedding"]
            chex.assert_trees_all_equal(table[jnp.array(tokens)], found + 1.0)


def test_only_the_prompts_of_a_small_batch_are_encoded(params):
    def flops(size: int) -> float:
        ids = tuple(tuple(int(i) for i in row) for row in np.tile(IDS, (size, 1)))
        model, labels = Prompted(ENCODER, UNET, ids), jnp.zeros(2, jnp.int32)
        args = {"params": params}, jnp.zeros((2, *SHAPE)), labels, labels
        return jax.jit(model.apply).lower(*args).compile().cost_analysis()["flops"]

    assert flops(100) == flops(1)


def test_each_prompt_is_answered_in_its_own_way(params):
    said = [outputs(params, jnp.full(4, label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert float(jnp.abs(said[i] - said[j]).max()) > 1e-4


def test_a_prompt_is_forgotten_by_matching_another_with_the_text_frozen(params):
    part = trainable_subset(TASK, "^unet/")
    chosen = methods.settings(
        "scalarization",
        {
            "retain_weight": 0.0,
            "objective": "match_anchor",
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "learning_rate_schedule": "constant",
        },
    )
    method = methods.build(part.task, "scalarization", chosen)
    forget = BATCH | {"label": jnp.zeros(4, jnp.int32), "anchor": jnp.ones(4, jnp.int32)}
    retain = jax.tree.map(lambda x: x[None], BATCH | {"label": jnp.array([1, 2, 1, 2])})
    arrays = {name: values for name, values in forget.items() if name != "epoch"}
    state = method.init(KEY, *part.split(params, {}, KEY), arrays, arrays)
    step, history = jax.jit(method.step), []
    for _ in range(40):
        state, metrics = step(state, forget, retain)
        history.append(float(metrics["forget_loss"]))
    assert history[-1] < 0.5 * history[0]
    after, _ = part.merge(state.params, state.model_state)
    before, now = (flatten_dict(tree, sep="/") for tree in (params, after))
    for path in now:
        if path.startswith("text_encoder"):
            assert np.array_equal(before[path], now[path])


def test_objectives_of_diffusion_hold_for_prompts(params):
    objective = objectives.named("match_noise", task=TASK)
    value = jax.jit(lambda p: objective(TASK, p, {}, BATCH, KEY))(params)
    assert np.isfinite(float(value))


@pytest.mark.parametrize("ids", [IDS[0], IDS[:1], IDS.astype(float)])
def test_bad_token_ids_are_refused(ids):
    with pytest.raises(InputError, match="must be the token ids .* of at least one prompt"):
        latent_diffusion(ENCODER, UNET, Process(), ids=ids, latent_shape=SHAPE)


AUTOENCODER = latent.create_autoencoder("tiny", channels=1, widths=(4, 8), groups=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def coder():
    task = autoencoding(AUTOENCODER, image_shape=(8, 8, 1), num_classes=2)
    return task, jax.jit(task.init)(KEY)[0]


def test_the_loss_of_an_autoencoder_from_its_parts(coder):
    task, params = coder
    batch = {"image": jnp.asarray(IMAGES), "index": jnp.arange(5), "epoch": jnp.zeros(5, jnp.int32)}
    signal = IMAGES / 127.5 - 1.0
    mean, log_variance = AUTOENCODER.apply({"params": params}, signal, method="encode")
    back = AUTOENCODER.apply({"params": params}, mean, method="decode")
    kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(axis=(1, 2, 3))
    expected = ((back - signal) ** 2).mean(axis=(1, 2, 3)) + 1e-2 * kl / 64
    chex.assert_trees_all_close(task.losses(params, {}, batch, KEY, False)[0], expected, rtol=1e-4)
    drawn, again = (task.losses(params, {}, batch, KEY, True)[0] for _ in range(2))
    chex.assert_trees_all_equal(drawn, again)
    assert not np.allclose(drawn, expected)
    chex.assert_trees_all_close(task.outputs(params, {}, batch, KEY, False)[0], back, atol=1e-5)


@pytest.mark.parametrize("factor", [255.0, -1.5, np.nan])
def test_images_of_another_range_are_refused(factor):
    images = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1) * np.float32(factor)
    with pytest.raises(InputError, match="float32 with values from .* but must be uint8, or float"):
        latents.encode(AUTOENCODER, {}, images)
    with pytest.raises(InputError, match="int64 with values from 0 to 255"):
        latents.encode(AUTOENCODER, {}, np.array([[[[0], [255]]]]))


def test_latents_are_scaled_means_and_are_decoded_again(coder):
    _, params = coder
    mean, _ = AUTOENCODER.apply({"params": params}, IMAGES / 127.5 - 1.0, method="encode")
    found = latents.encode(AUTOENCODER, params, IMAGES)
    chex.assert_trees_all_close(found, AUTOENCODER.scaling_factor * np.asarray(mean), atol=1e-5)
    back = AUTOENCODER.apply({"params": params}, mean, method="decode")
    decoded = latents.decode(AUTOENCODER, params, found)
    chex.assert_trees_all_close(decoded, np.clip(back, -1, 1), atol=1e-4)
    compiled = latents._decoded._cache_size()
    latents.decode(AUTOENCODER, jax.tree.map(jnp.copy, params), found)
    assert latents._decoded._cache_size() == compiled


def test_a_negative_weight_is_refused():
    with pytest.raises(InputError, match="kl_weight is -1"):
        autoencoding(AUTOENCODER, image_shape=(8, 8, 1), num_classes=2, kl_weight=-1.0)
