"""Results as text."""

from jaxunlearn.studies.report.one_run import render


def test_results_as_lines():
    metrics = {"forget_accuracy": 95.0, "kl_to_retrained": 0.12345, "tow": 1.0}
    assert render(metrics, {}).splitlines() == [
        "forget_accuracy                      95.00  %",
        "kl_to_retrained                      0.123  nats",
        "tow                                  1.000  best at 1",
    ]
    rows = render(metrics, {"forget_accuracy": 97.5, "tow": 0.5}).splitlines()
    assert rows[0].split() == ["model", "retrained", "difference"]
    assert rows[1].split() == ["forget_accuracy", "95.00", "97.50", "-2.50", "%"]
    assert rows[3].split() == ["tow", "1.000", "best", "at", "1"]
