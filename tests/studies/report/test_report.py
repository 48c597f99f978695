"""The written report: complete, self-contained, escaped, honest about what is missing."""

import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from rich.console import Console

from jaxunlearn.studies.report import read_study, render_table, write_report
from jaxunlearn.studies.report.columns import COLUMNS, GENERATED, LOOKS, REVIVED
from jaxunlearn.studies.report.verdict import headline
from jaxunlearn.types import InputError

VOID = {"meta", "wbr", "br", "img", "line"}

CLASSIFYING = [column for column in COLUMNS if column.group not in (GENERATED, LOOKS, REVIVED)]


class Page(HTMLParser):
    """Collects text, tags and attributes, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Notes an opening tag."""
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Checks that the innermost open tag is closed."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        """Notes visible text."""
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def sources(self):
        """What the pictures are: the beginnings of their addresses."""
        return [value.split(";base64,")[0] for name, value in self.attributes if name == "src"]

    @property
    def text(self):
        """All text, with single spaces."""
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def report(finished_study, tmp_path_factory):
    """The texts written for a copy of the finished study, by kind."""
    folder = tmp_path_factory.mktemp("written") / "study"
    shutil.copytree(finished_study, folder)
    paths = write_report(folder)
    assert {kind: path.name for kind, path in paths.items()} == {
        "markdown": "report.md",
        "html": "report.html",
        "json": "results.json",
    }
    assert not list(folder.glob("*.partial"))
    return {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}


def test_the_page_needs_nothing_else(report):
    page = Page(report["html"])
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert set(page.sources()) == {"data:image/svg+xml"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "href" or value.startswith("#")
    assert "@import" not in report["html"]
    assert not re.search(r"url\((?!#)", report["html"])
    assert len(report["html"].encode()) < 600_000


def test_the_page_opens_with_the_headline_then_the_table(report, finished_study):
    page = report["html"]
    assert headline(read_study(finished_study)) in Page(page).text
    places = [page.index(mark) for mark in ('class="headline"', "<table>", ">Verdict<")]
    assert places == sorted(places)


def test_links_lead_somewhere(report):
    page = Page(report["html"])
    targets = {value for name, value in page.attributes if name == "id"}
    links = {value[1:] for name, value in page.attributes if name == "href"}
    assert links <= targets


def test_the_page_shows_every_request_row_column_and_picture(report):
    page = Page(report["html"])
    for words in (
        "Forgetting handwritten digits",
        "random-0.1",
        "all of class 3",
        "Retrained again",
        "fine-tune",
        "Means over 2 seeds",
        "Examples: 60 forget, 300 retain, 80 validation, 120 test.",
        "processor 2 cores",
        *(column.meaning for column in CLASSIFYING),
    ):
        assert words in page.text
    # Original, three methods and retrained; three methods; all methods in the plane.
    assert page.tags.count("figure") == 2 * (5 + 3 + 1)
    assert page.tags.count("table") == 2 + 2  # and a ranking of each


def test_best_values_are_marked_only_in_rows_of_methods(report):
    bodies = re.findall(r'<tbody class="(\w+)">(.*?)</tbody>', report["html"], re.DOTALL)
    assert [kind for kind, _ in bodies] == ["references", "methods"] * 2
    for kind, body in bodies:
        assert ('class="best"' in body) == (kind == "methods")


def test_markdown_has_the_same_numbers_as_the_page(report):
    rows = [line for line in report["markdown"].splitlines() if line.startswith("| eupmu")]
    assert len(rows) == 2
    cells = [cell.strip(" *") for cell in rows[0].split("|")[2:-1]]
    assert len(cells) == len(CLASSIFYING) - 1
    assert re.fullmatch(r"[\d.]+ \[[\d.]+ and [\d.]+\] \([+−][\d.]+\)", cells[0])
    text = Page(report["html"]).text
    for cell in cells:
        for token in re.findall(r"[\d.]+", cell):
            assert token in text


def test_aggregated_results_are_json(report):
    content = json.loads(report["json"])
    assert set(content["requests"]) == {"random-0.1", "class-3"}
    assert content["seeds"] == [0, 1]


def test_the_two_attacks_are_never_called_by_their_common_name(report, finished_study):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_table(read_study(finished_study)))
    for text in (*report.values(), console.export_text()):
        assert not re.search(r"\bMIA\b|membership inference", text, re.IGNORECASE)


def test_everything_from_data_is_escaped(small_study):
    evil = "<img src=x onerror=alert(1)>&$x_"
    study = json.loads((small_study / "study.json").read_text())
    study.update(title="<script>alert(1)</script>", dataset=evil, machine={evil: [evil]})
    (small_study / "study.json").write_text(json.dumps(study))
    request = small_study / "seed-0" / "random-0.1"
    (request / "eupmu").rename(request / evil)
    request.rename(request.parent / '"><b>request|')
    (small_study / "seed-0" / "class-1" / evil).mkdir(parents=True)
    paths = write_report(small_study)
    page = Page(paths["html"].read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags)
    assert set(page.sources()) == {"data:image/svg+xml"}
    assert "<script>alert(1)</script>" in page.text
    assert evil in page.text
    markdown = paths["markdown"].read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "request\\|" in markdown
    screen = io.StringIO()
    Console(width=200, file=screen).print(render_table(small_study))
    assert evil in screen.getvalue()


def test_a_study_in_progress_is_reported_as_far_as_it_is(small_study):
    shutil.rmtree(small_study / "seed-0" / "random-0.1" / "retrain")
    (small_study / "seed-0" / "class-3" / "sfron").mkdir(parents=True)
    paths = write_report(small_study)
    text = Page(paths["html"].read_text(encoding="utf-8")).text
    assert "seed 0, class-3, sfron: no step logged yet" in text
    assert "No run has finished yet." in text
    assert "There is no retrained model" in text
    assert "One seed has no intervals" in text
    assert "±" not in text.split("What the rows")[0]
    assert "**Not finished:**" in paths["markdown"].read_text(encoding="utf-8")
    assert json.loads(paths["json"].read_text())["unfinished"][0]["run"] == "sfron"


def test_seeds_that_are_missing_from_a_row_are_named(finished_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished_study, folder)
    (folder / "seed-1" / "random-0.1" / "eupmu" / "results.json").unlink()
    text = Page(write_report(folder)["html"].read_text(encoding="utf-8")).text
    assert "1 of 2 seeds" in text
    assert "seed 1, random-0.1, eupmu: last logged step 120" in text


def test_a_broken_study_writes_nothing(small_study):
    path = small_study / "seed-0" / "random-0.1" / "eupmu" / "metrics.jsonl"
    path.write_text("oops\n")
    with pytest.raises(InputError, match="metrics.jsonl, line 1"):
        write_report(small_study)
    names = [path.name for path in small_study.iterdir() if not path.name.startswith(".lock")]
    assert sorted(names) == ["seed-0", "study.json"]


@pytest.mark.parametrize("width", [100, 120])
def test_the_terminal_table_fits(finished_study, width):
    screen = io.StringIO()
    Console(width=width, file=screen).print(render_table(str(finished_study)))
    text = screen.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for words in ("random-0.1", "class-3", "Retrained again", "fine-tune", "means over 2 seeds"):
        assert words in text
    marked = [line.split()[0] for line in text.splitlines() if re.search(r"\*\d", line)]
    assert marked
    assert set(marked) <= {"fine-tune", "sfron", "eupmu"}


def test_the_budget_of_a_guarded_run_is_proven(small_study):
    path = small_study / "seed-0" / "random-0.1" / "eupmu" / "results.json"
    results = json.loads(path.read_text())
    guard = {"start": 0.25, "limit": 0.3, "end": 0.2984, "rollbacks": 3}
    path.write_text(json.dumps(results | {"guard": guard}))
    paths = write_report(small_study)
    row = "| eupmu | 0.2500 | 0.3000 | 0.2984 | 3 | held |"
    assert row in paths["markdown"].read_text()
    assert "<td>0.2984</td><td>3</td><td>held</td>" in paths["html"].read_text()
    path.write_text(json.dumps(results | {"guard": guard | {"end": "0.2"}}))
    with pytest.raises(InputError, match="guard"):
        write_report(small_study)
