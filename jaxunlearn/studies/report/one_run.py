"""The results of one run as lines of text."""

from typing import Any

from jaxunlearn.evaluation.units import unit_of


def render(metrics: dict[str, float], retrained: dict[str, float]) -> str:
    """Metrics as lines of text, beside the metrics of the retrained model, which may be empty.

    Example:
        >>> print(render({"forget_accuracy": 97.5, "tow": 0.9876}, {"forget_accuracy": 98.0}))
                                             model  retrained  difference
        forget_accuracy                      97.50      98.00       -0.50  %
        tow                                  0.988                         best at 1
    """
    lines = [f"{'':32}{'model':>10}{'retrained':>11}{'difference':>12}"] if retrained else []
    for name, value in metrics.items():
        unit = unit_of(name).name
        digits = 2 if unit in ("%", "percentage points") else 3
        line = f"{name:32}{value:10.{digits}f}"
        if name in retrained and unit != "best at 1":
            line += f"{retrained[name]:11.{digits}f}{value - retrained[name]:+12.{digits}f}"
        lines.append(f"{line:{len(lines[0]) if retrained else 0}}  {unit}".rstrip())
    return "\n".join(lines)


def render_judge(results: dict[str, Any]) -> str:
    """The judge of generated images, as a line of text.

    Example:
        >>> features = {"name": "mlp", "dimension": 16}
        >>> judge = {"model": "mlp", "test_accuracy": 97.5}
        >>> counts = {"generated_retain": 900, "retain": 10800}
        >>> print(render_judge({"features": features, "judge": judge, "counts": counts}))
        judge: mlp, 97.50 % of the real test images; features: mlp, 16 dimensions, 900 generated
        images of the other classes against 10,800 real ones
    """
    features, judge, counts = (results[key] for key in ("features", "judge", "counts"))
    return (
        f"judge: {judge['model']}, {judge['test_accuracy']:.2f} % of the real test images; "
        f"features: {features['name']}, {features['dimension']:,} dimensions, "
        f"{counts['generated_retain']:,} generated\nimages of the other classes against "
        f"{counts['retain']:,} real ones"
    )


def render_drift(drift: dict[str, Any]) -> str:
    """The entry "drift" of `results.json` as a table: the requests, oldest first, and kept data.

    Example:
        >>> requests = [{"request": "class-3", "examples": 9, "accuracy": 4.0}]
        >>> print(render_drift({"requests": requests, "kept": {"model": {"test_accuracy": 97.5}}}))
        request (examples)                model
        class-3 (9)                        4.00            %
        test_accuracy                     97.50            %
    """
    kept = drift["kept"]
    rows = [
        (f"{row['request']} ({row['examples']})", row["accuracy"], row.get("original_accuracy"))
        for row in drift["requests"]
    ]
    rows += [(name, v, kept.get("original", {}).get(name)) for name, v in kept["model"].items()]
    beside = "original" if any(original is not None for _, _, original in rows) else ""
    lines = [f"{'request (examples)':30}{'model':>9}{beside:>10}".rstrip()]
    for name, model, original in rows:
        unit = "" if name == "frechet_retain" else "%"
        shown = "" if original is None else f"{original:.2f}"
        lines.append(f"{name:30}{model:9.2f}{shown:>10}  {unit}".rstrip())
    if "js_to_original" in drift:
        lines.append(f"{'js_to_original':30}{drift['js_to_original']:9.4f}{'':10}  nats")
    return "\n".join(lines)
