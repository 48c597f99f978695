"""Diffusion as a task: what it draws, drops, guides and matches."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxunlearn import methods
from jaxunlearn.methods import objectives
from jaxunlearn.methods.generating import anchors_of, match_anchor, match_noise
from jaxunlearn.models import denoisers
from jaxunlearn.models.diffusion_process import add_noise, antithetic_timesteps
from jaxunlearn.models.process import Process
from jaxunlearn.tasks.diffusion import as_signal, diffusion
from jaxunlearn.types import InputError, example_keys
from tests.toy_diffusion import CLASSES, KEY, PROCESS, SHAPE, Toy, batch_of, toy

pytestmark = pytest.mark.long


def by_hand(params, batch, labels):
    """The squared errors, from the parts."""
    keys = example_keys(KEY, batch)
    t = antithetic_timesteps(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys), 50)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), SHAPE))(keys)
    noisy = add_noise(PROCESS, batch["image"], noise, t)
    return (Toy().apply({"params": params}, noisy, t, labels) - noise) ** 2


def test_no_key_is_both_drawn_from_and_a_parent(monkeypatch):
    """Of a key with children, draws would share bits with one of them."""
    task, batch = toy(label_drop=0.5), batch_of(2)
    weights, drawn, parents = task.init(KEY), [], []

    def watch(name, seen):
        function = getattr(jax.random, name)

        def watched(key, *args, **kwargs):
            seen.append(tuple(jax.random.key_data(key).tolist()))
            return function(key, *args, **kwargs)

        monkeypatch.setattr(jax.random, name, watched)

    def one_by_one(function):
        return lambda *args: jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(function(*row) for row in zip(*args, strict=True))
        )

    for name in ("randint", "normal", "uniform"):
        watch(name, drawn)
    watch("fold_in", parents)
    monkeypatch.setattr(jax, "vmap", one_by_one)  # so that keys are no tracers
    task.losses(*weights, batch, KEY, True)
    assert len(drawn) == len(set(drawn)) == 5  # mirrored timesteps: one draw for two examples
    assert not set(parents) & set(drawn)


def test_the_loss_is_the_squared_error_of_the_noise_as_sum_or_mean():
    params, state = toy().init(KEY)
    batch = batch_of()
    errors = by_hand(params, batch, batch["label"])
    for reduction, of in (("sum", jnp.sum), ("mean", jnp.mean)):
        task = toy(reduction=reduction, label_drop=0.0)
        losses, new_state = task.losses(params, state, batch, KEY, True)
        chex.assert_trees_all_close(losses, of(errors, axis=(1, 2, 3)), rtol=1e-5)
        assert new_state == {}


def test_training_drops_a_share_of_the_labels_and_forget_objectives_drop_none():
    params, state = toy().init(KEY)
    batch = batch_of(600)
    kept = by_hand(params, batch, batch["label"]).sum(axis=(1, 2, 3))
    dropped = by_hand(params, batch, jnp.full(600, CLASSES)).sum(axis=(1, 2, 3))
    task = toy(label_drop=0.3)
    losses, _ = task.losses(params, state, batch, KEY, True)
    is_dropped = jnp.abs(losses - dropped) < 1e-3
    assert 0.25 < float(is_dropped.mean()) < 0.35
    chex.assert_trees_all_close(jnp.where(is_dropped, kept, losses), kept, rtol=1e-4)
    forget, _ = task.forget_losses(params, state, batch, KEY, True)
    chex.assert_trees_all_close(forget, kept, rtol=1e-5)
    chex.assert_trees_all_close(objectives.ascent(task, params, state, batch, KEY), -kept.mean())
    later, _ = task.losses(params, state, batch | {"epoch": batch["epoch"] + 1}, KEY, True)
    assert not jnp.allclose(later, losses)  # another visit, other noise


def test_saliency_alone_is_measured_on_the_guided_prediction():
    """Unseen examples, guards and teachers are compared with what training sees."""
    task = toy(fisher_guidance=2.0)
    params, state = task.init(KEY)
    batch = batch_of()
    plain, null = (
        toy().outputs(params, state, batch | {"label": labels}, KEY, False)[0]
        for labels in (batch["label"], jnp.full(6, CLASSES))
    )
    keys = example_keys(KEY, batch)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), SHAPE))(keys)
    for losses, prediction in (
        (task.saliency_losses, 3.0 * plain - 2.0 * null),
        (task.losses, plain),
    ):
        found, _ = losses(params, state, batch, KEY, False)
        expected = jnp.sum((prediction - noise) ** 2, axis=(1, 2, 3))
        chex.assert_trees_all_close(found, expected, rtol=1e-4)
    for train in (True, False):
        unguided, _ = task.outputs(params, state, batch, KEY, train)
        chex.assert_trees_all_close(unguided, plain, rtol=1e-5)


def test_images_are_scaled_and_latents_are_not():
    batch = batch_of(2)
    stored = batch | {"image": jnp.round((batch["image"] + 1) * 127.5).astype(jnp.uint8)}
    task = toy()
    params, state = task.init(KEY)
    of_stored, of_signal = (
        task.losses(params, state, b, KEY, False)[0]
        for b in (stored, stored | {"image": as_signal(stored["image"])})
    )
    chex.assert_trees_all_close(of_stored, of_signal)


def test_dropout_is_drawn_in_training_only():
    task = toy(Toy(rate=0.5), label_drop=0.0)
    params, state = task.init(KEY)
    batch = batch_of()
    trained = [
        task.losses(params, state, batch | {"epoch": batch["epoch"] + e}, KEY, True)[0]
        for e in (0, 0)
    ]
    chex.assert_trees_all_equal(*trained)
    evaluated, _ = task.losses(params, state, batch, KEY, False)
    assert not jnp.allclose(trained[0], evaluated)


def test_a_learned_variance_adds_its_term_and_stays_out_of_outputs():
    process = Process(50, variance="learned_range")
    task = toy(Toy(channels=2), process, label_drop=0.0)
    params, state = task.init(KEY)
    batch = batch_of()
    outputs, _ = task.outputs(params, state, batch, KEY, True)
    assert outputs.shape == (6, *SHAPE)
    keys = example_keys(KEY, batch)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), SHAPE))(keys)
    squared = jnp.sum((outputs - noise) ** 2, axis=(1, 2, 3))
    losses, _ = task.losses(params, state, batch, KEY, True)
    assert jnp.all(losses > squared)


def test_matching_the_anchor_moves_the_forgotten_label_and_leaves_the_anchor():
    task = toy(reduction="mean")
    params, state = task.init(KEY)
    batch = batch_of() | {"label": jnp.zeros(6, jnp.int32), "anchor": jnp.full(6, 2)}

    def loss(p):
        return match_anchor(task, p, state, batch, KEY)

    # The toy's output is linear in its embedding: the loss is the distance of two embeddings.
    table = params["Embed_0"]["embedding"]
    chex.assert_trees_all_close(loss(params), jnp.mean((table[0] - table[2]) ** 2), rtol=1e-4)
    slope = jax.grad(loss)(params)["Embed_0"]["embedding"]
    assert jnp.all(slope[2] == 0) and jnp.any(slope[0] != 0)
    del batch["anchor"]  # then it is the next class
    chex.assert_trees_all_close(loss(params), jnp.mean((table[0] - table[1]) ** 2), rtol=1e-4)


def test_a_guided_anchor_lies_beyond_the_anchor():
    task = toy(reduction="mean")
    params, state = task.init(KEY)
    batch = batch_of() | {"label": jnp.zeros(6, jnp.int32), "anchor": jnp.full(6, 2)}
    table, weight = params["Embed_0"]["embedding"], 1.5
    value, slope = jax.value_and_grad(
        lambda p: match_anchor(task, p, state, batch, KEY, anchor_guidance=weight)
    )(params)
    beyond = (1 + weight) * table[2] - weight * table[CLASSES]
    chex.assert_trees_all_close(value, jnp.mean((table[0] - beyond) ** 2), rtol=1e-4)
    assert jnp.all(slope["Embed_0"]["embedding"][1:] == 0)
    plain, unguided = (
        match_anchor(task, params, state, batch, KEY, anchor_guidance=w) for w in (None, 0.0)
    )
    chex.assert_trees_all_close(plain, unguided)


def test_random_anchors_are_drawn_from_the_candidates_at_each_visit():
    task = toy()
    batch = batch_of(300) | {"anchor": jnp.tile(jnp.array([False, True, True]), (300, 1))}
    drawn = [anchors_of(task, batch | {"epoch": jnp.full(300, n)}, KEY) for n in (0, 0, 1)]
    chex.assert_trees_all_equal(drawn[0], drawn[1])
    assert jnp.any(drawn[0] != drawn[2]) and set(drawn[0].tolist()) == {1, 2}
    assert 0.4 < float(jnp.mean(drawn[0] == 1)) < 0.6


def test_matching_noise_is_the_loss_on_other_images_within_bounds():
    task = toy()
    params, state = task.init(KEY)
    batch = batch_of()
    blank = batch | {"image": jnp.zeros_like(batch["image"])}
    one, other = (match_noise(task, params, state, b, KEY) for b in (batch, blank))
    chex.assert_trees_all_close(one, other)  # the images themselves do not matter


def images_of(task, batch, train=True):
    """The norms of the clean images of a visit, seen by a denoiser that answers 0 for x_0."""
    params, state = task.init(KEY)
    blank = jax.tree.map(jnp.zeros_like, params)
    return jnp.sqrt(task.losses(blank, state, batch, KEY, train)[0])


SEES = {"process": Process(50, prediction="sample"), "label_drop": 0.0}


def test_latents_are_drawn_from_their_gaussians_at_every_visit():
    task, plain = toy(sampled=True, **SEES), toy(**SEES)
    batch = batch_of(6)
    mean, none = batch["image"], jnp.zeros_like(batch["image"])
    fixed = batch | {"image": jnp.concatenate([mean, none], axis=-1)}
    chex.assert_trees_all_equal(images_of(task, fixed), images_of(plain, batch))
    moments = batch | {"image": jnp.concatenate([none, none + 2.0], axis=-1)}
    chex.assert_trees_all_equal(images_of(task, moments, train=False), jnp.zeros(6))
    visits = jnp.stack([images_of(task, moments | {"epoch": jnp.full(6, i)}) for i in range(40)])
    assert len(set(visits.ravel().tolist())) == 240
    spread = jnp.sqrt(jnp.mean(visits**2) / 16)  # of 16 pixels each
    assert abs(float(spread) - 2.0) < 0.1
    chex.assert_trees_all_equal(  # noise in place of images has no deviations
        match_noise(plain, *plain.init(KEY), batch, KEY),
        methods.objectives.named("match_noise", task=task)(task, *task.init(KEY), moments, KEY),
    )


@pytest.mark.parametrize("stacked", [False, True])
def test_half_of_the_images_are_mirrored(stacked):
    """The denoiser answers with the image, so a mirrored one shows."""
    image = jax.random.uniform(KEY, SHAPE, minval=-1.0)
    mirrored = jnp.full(SHAPE, 0.5) if stacked else image[:, ::-1]

    class Answers(Toy):
        @nn.compact
        def __call__(self, images, timesteps, labels, train=False):
            return jnp.broadcast_to(image, images.shape) + self.param(
                "w", nn.initializers.zeros, ()
            )

    task = toy(Answers(), flip=True, **SEES)
    leaf = jnp.concatenate([image, mirrored], axis=-1) if stacked else image
    size = 400
    batch = {"image": jnp.broadcast_to(leaf, (size, *leaf.shape)), "label": jnp.zeros(size, int)}
    batch |= {"index": jnp.arange(size), "epoch": jnp.zeros(size, int)}
    seen = images_of(task, batch)
    turned = float(jnp.sqrt(jnp.sum((image - mirrored) ** 2)))
    assert float(jnp.min(seen)) == 0.0
    assert 0.4 < float(jnp.mean(seen > 0.1)) < 0.6
    chex.assert_trees_all_close(seen[seen > 0.1], jnp.full((seen > 0.1).sum(), turned), rtol=1e-4)
    chex.assert_trees_all_equal(images_of(task, batch, train=False), jnp.zeros(size))


@pytest.mark.parametrize("name", ["match_anchor", "match_noise"])
def test_objectives_of_the_task_are_known_by_name(name):
    found = objectives.named(name, task=toy())
    assert getattr(found, "func", found) in (match_anchor, match_noise)
    with pytest.raises(InputError, match=f"objective is '{name}'"):
        objectives.named(name)


NEED_CLASSES = {"scrub_r", "boundary_shrinking", "boundary_expanding", "unsir", "eupmu_budget"}
NEED_CLASSES |= {"amun", "dmm"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in methods.available() if name not in {*NEED_CLASSES, "ct"}),
        ("sfron", {"num_fast_steps": 1, "share_optimizer": True, "objective": "match_anchor"}),
        ("eupmu", {"objective": "match_anchor"}),
        ("eupmu", {"estimator": "next_batch", "objective": "match_noise"}),
        ("eupmu_sfron", {"num_fast_steps": 2, "objective": "match_anchor"}),
    ],
)
def test_methods_drive_it(name, settings):
    task = toy()
    small = {"selection": 0.1} if name == "ssd" else {}
    chosen = methods.settings(name, {"learning_rate": 1e-3, **small, **settings})
    method = methods.build(task, name, chosen)
    arrays = {k: v for k, v in batch_of(12).items() if k != "epoch"}
    forget, retain = ({k: v[i : i + 6] for k, v in arrays.items()} for i in (0, 6))
    state = method.init(KEY, *task.init(KEY), forget, retain)
    retain_batches = jax.tree.map(
        lambda x: jnp.stack([x] * method.retain_batches), batch_of() | {"index": retain["index"]}
    )
    after, metrics = jax.jit(method.step)(state, batch_of(), retain_batches)
    chex.assert_tree_all_finite((after.params, metrics))
    original, _ = task.init(KEY)
    moved = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), after.params, original)
    assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", sorted(NEED_CLASSES))
def test_methods_that_need_predicted_classes_say_so(name):
    with pytest.raises(InputError, match=f"{name} needs a model that predicts classes"):
        methods.build(toy(), name, methods.settings(name))


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"reduction": "max"}, "sum, mean"), ({"label_drop": 1.0}, "below 1")],
)
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(InputError, match=words):
        toy(**bad)


def unet(num_classes, **fields):
    """A task of a real U-Net over 4x4 pixels."""
    settings = {f: fields.pop(f) for f in ("label_drop", "fisher_guidance") if f in fields}
    model = denoisers.create("ddpm-tiny", (4, 4, 1), num_classes).clone(**fields)
    return diffusion(model, PROCESS, image_shape=(4, 4, 1), num_classes=10, **settings)


@pytest.mark.parametrize("name", ["match_anchor", "match_noise", "random_labels"])
def test_a_model_without_classes_refuses_objectives_that_need_them(name):
    """The forget loss would be 0, or that of ordinary training; or all would become noise."""
    task = unet(None)
    assert (task.conditional, task.null_label) == (False, None)
    batch = {"image": jnp.zeros((2, 4, 4, 1)), "label": jnp.array([3, 3])}
    batch |= {"index": jnp.arange(2), "epoch": jnp.zeros(2, jnp.int32)}
    objective = objectives.named(name, task=task)
    params, state = jax.eval_shape(task.init, KEY)
    with pytest.raises(InputError, match="but .*num_classes is None"):
        jax.eval_shape(lambda p: objective(task, p, state, batch, KEY), params)
    ascent = objectives.named("ascent", task=task)
    jax.eval_shape(lambda p: ascent(task, p, state, batch, KEY), params)


def test_methods_that_ask_for_another_class_say_so():
    unconditional, without_null = unet(None), unet(10, null_class=False, label_drop=0)
    with pytest.raises(InputError, match="concept_ablation needs a model with classes, but this"):
        methods.concept_ablation(unconditional, None)
    methods.concept_ablation(without_null, None)
    for task in (unconditional, without_null):
        with pytest.raises(
            InputError, match="esd needs a model with a label for .no class., but this"
        ):
            methods.esd(task, None)
    assert methods.esd(unet(10), None)


@pytest.mark.parametrize(
    ("num_classes", "fields", "words"),
    [
        (9, {}, "num_classes is 10, but must be 9, as in the model"),
        (11, {}, "num_classes is 10, but must be 11"),
        (10, {"null_class": False}, "label_drop is 0.1, but must be 0 .*; give label_drop=0"),
        (
            10,
            {"null_class": False, "label_drop": 0, "fisher_guidance": 2.0},
            "fisher_guidance is 2.0, but must be 0",
        ),
    ],
)
def test_models_of_other_classes_are_refused(num_classes, fields, words):
    with pytest.raises(InputError, match=words):
        unet(num_classes, **fields)
