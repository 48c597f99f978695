"""An NNX model in an own loop forgets ten wrong labels and keeps the rest.

python docs/examples/nnx_loop.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxunlearn as ju


def mean_loss(model, x, y):
    """The mean cross-entropy."""
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(model(x), y))


def main():
    """Trains and unlearns; returns the shares of wrong and of right labels that are known."""
    x = jax.random.normal(jax.random.key(0), (100, 4))
    truth = (x[:, 0] > 0).astype(jnp.int32)
    learned = truth.at[:10].set(1 - truth[:10])  # ten labels were wrong, and the model learned them
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 32, rngs=rngs), nnx.tanh, nnx.Linear(32, 2, rngs=rngs))
    surgery = ju.implicit_surgery(optax.adam(1.0), tolerance=0.0, log_loss=True)
    trainer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    unlearner = nnx.Optimizer(model, optax.chain(optax.adam(5e-3), surgery), wrt=nnx.Param)

    @nnx.jit
    def train(model, trainer):
        trainer.update(model, nnx.grad(mean_loss)(model, x, learned))

    @nnx.jit
    def unlearn(model, unlearner):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def losses(params):
            net = nnx.merge(graph, params, rest)
            forget = jax.nn.relu(3.0 - mean_loss(net, x[:10], learned[:10]))  # bounded ascent
            return ju.LossPair(forget=forget, retain=mean_loss(net, x[10:], learned[10:]))

        pair, grads = ju.surgery_value_and_grad(losses, surgery)(params, state=unlearner.opt_state)
        rise = {"retain_value": pair.retain, "retain_value_fn": lambda p: losses(p).retain}
        unlearner.update(model, grads, **rise)

    for optimizer, step in ((trainer, train), (unlearner, unlearn)):
        for _ in range(400):
            step(model, optimizer)
        right = jnp.argmax(model(x), axis=1) == learned
        known = float(jnp.mean(right[:10])), float(jnp.mean(right[10:]))
        print("known: {:.0%} of the wrong labels, {:.0%} of the others".format(*known))
    return known


if __name__ == "__main__":
    main()
