"""Linear probes: the information about forgotten examples in the features of a model.

Features are the inputs of the model's last dense layer. A logistic regression learns the classes
from the features of retain examples and of one half of the forget examples, and predicts the
classes of the other half. It succeeds on a model that forgot in its last layer only; the retrained
model gives the accuracy for features that never saw the forgotten examples.
"""

import numpy as np

from jaxunlearn.evaluation.features import last_features
from jaxunlearn.types import Arrays, Task, Weights

_RETAIN_EXAMPLES = 2000


def probe_accuracy(task: Task, weights: Weights, forget: Arrays, retain: Arrays) -> float | None:
    """Percent of the other half of the forget examples that a linear probe classifies correctly.

    At most 2,000 retain examples are used, always the same. A single forget example, which has no
    halves, gives None.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    kept = np.sort(rng.permutation(len(retain["label"]))[:_RETAIN_EXAMPLES])
    order = rng.permutation(len(forget["label"]))
    learned, asked = np.array_split(order, 2)
    if len(asked) == 0:
        return None
    of_forget = last_features(task, weights, forget)
    of_retain = last_features(task, weights, {name: v[kept] for name, v in retain.items()})
    labels = np.asarray(forget["label"])
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(
        np.concatenate([of_retain, of_forget[learned]]),
        np.concatenate([np.asarray(retain["label"])[kept], labels[learned]]),
    )
    return 100.0 * float(np.mean(probe.predict(of_forget[asked]) == labels[asked]))
