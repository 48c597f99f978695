"""A lower bound on epsilon, by the auditor of jax-privacy.

A method unlearns with (epsilon, delta) if for every set S of models, in both directions,

    P[unlearned in S] <= e^epsilon P[retrained in S] + delta.

Any attack that separates the two refutes small epsilons. From its scores the auditor computes the
largest epsilon that they refute with the given confidence (Clopper-Pearson limits of both error
rates, corrected for trying all thresholds; Nasr et al., arXiv 2101.04535).
"""

from jaxunlearn.evaluation.ulira import Scores
from jaxunlearn.types import InputError


def epsilon_lower_bound(scores: Scores, significance: float = 0.05, delta: float = 0.0) -> float:
    """The largest epsilon that the attack refutes; 0 refutes nothing.

    Every score is treated as an independent trial. Scores of one shadow model are not quite
    independent, so with few models the bound is an estimate.

    Args:
        scores: scores from `ulira_scores`.
        significance: allowed probability that the true epsilon is smaller, below 0.5.
        delta: delta of the definition, in [0, 1].

    Raises:
        InputError: jax-privacy is not installed, or a number is out of range.
    """
    for name, value, high in (("significance", significance, 0.5), ("delta", delta, 1.0)):
        if not 0 <= value <= high or (name == "significance" and value in (0, high)):
            raise InputError(
                f"{name} is {value}, but must be between 0 and {high:g}; 0.05 and 0 are usual."
            )
    try:
        from jax_privacy.auditing import CanaryScoreAuditor
    except ModuleNotFoundError as error:
        raise InputError(
            f"bounds on epsilon need the package {error.name}, which is not installed; install "
            "jaxunlearn[audit], or leave --epsilon out."
        ) from error
    auditor = CanaryScoreAuditor(scores.unlearned.ravel(), scores.retrained.ravel())
    return float(auditor.epsilon_clopper_pearson(significance, delta, one_sided=False))
