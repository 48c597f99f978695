"""The report as one HTML page that needs no other file: style, tables and pictures are inside it.

The template `templates/report.html` escapes everything that comes from data; the page has no
scripts.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from jaxunlearn.studies.report import sections, wording
from jaxunlearn.studies.report.aggregate import Table, shown_columns
from jaxunlearn.studies.report.columns import DIRECTIONS, REFERENCE_MEANINGS, REFERENCES
from jaxunlearn.studies.report.evidence import MEANINGS
from jaxunlearn.studies.report.extras import ULIRA_FOLDER, Extras
from jaxunlearn.studies.report.guards import GUARD_NOTE, guard_rows
from jaxunlearn.studies.report.samples import Samples
from jaxunlearn.studies.report.study import Study
from jaxunlearn.studies.report.ulira import AUDITS, ENOUGH_SHADOWS
from jaxunlearn.studies.report.verdict import SETTLED_NOTE, headline, make_verdict

_CONSTANTS = {
    "DIRECTIONS": DIRECTIONS,
    "ENOUGH_SHADOWS": ENOUGH_SHADOWS,
    "GUARD_NOTE": GUARD_NOTE,
    "AUDITS": AUDITS,
    "MEANINGS": MEANINGS,
    "RANKING_NOTE": wording.RANKING_NOTE,
    "REFERENCES": REFERENCES,
    "REFERENCE_MEANINGS": REFERENCE_MEANINGS,
    "SETTLED_NOTE": SETTLED_NOTE,
    "ULIRA_FOLDER": ULIRA_FOLDER,
}


def render_page(
    study: Study,
    tables: Sequence[Table],
    extras: Extras,
    samples: Mapping[str, Samples | None] | None = None,
) -> str:
    """Renders the report as one HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=PackageLoader("jaxunlearn.studies.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= _CONSTANTS | {"wording": wording}
    # Names may break after their underscores; the name of a metric in one place only.
    for kind, before in (("breakable", ""), ("metric", "member")):
        environment.filters[kind] = lambda name, before=before: escape(name).replace(
            f"_{before}", Markup(f"_<wbr>{before}")
        )
    return environment.get_template("report.html").render(
        study=study,
        headline=headline(study),
        sections=[_section(study, table, extras, (samples or {})) for table in tables],
        columns=shown_columns(study, list(tables)),
    )


def _section(
    study: Study, table: Table, extras: Extras, samples: Mapping[str, Samples | None]
) -> dict[str, Any]:
    """The content of the page on one request."""
    request = table.request
    groups = [(name, list(same)) for name, same in groupby(table.columns, lambda c: c.group)]
    return {
        "table": table,
        "words": wording.describe_request(request),
        "groups": [(name, len(same)) for name, same in groups],
        "first": {same[0].key for _, same in groups},
        "verdict": make_verdict(study, table, extras.ulira_on(request)),
        "guards": guard_rows(study, request),
        "settings": wording.settings_lines(study, request),
        "samples": sections.samples(samples.get(request)),
        "attacks": sections.attacks(table),
        "plane": sections.plane(study, table),
        "confidence": sections.confidence(study, table),
        "evidence": sections.evidence(table, extras),
        "ulira": sections.ulira(table, extras),
        "histories": sections.histories(study, table),
        "multipliers": sections.multipliers(study, table),
    }
