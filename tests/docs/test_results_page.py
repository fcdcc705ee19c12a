"""docs/results.md and the presets' pages are what runs and claims make of them."""

import pathlib
import re
import urllib.parse

import pytest

from experiments import publish_result
from tff_leak.report.tables import anchor

ROOT = pathlib.Path(__file__).parents[2]
# bazel: data = README.md
# bazel: data = docs/claims.toml
# bazel: data = docs/results
# bazel: data = docs/results.md
# bazel: data = experiments/configs
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages():
    return publish_result.render(DOCS)


def test_the_pages_are_current(pages):
    other = []
    for path, text in pages.items():
        kept = (DOCS / path).read_text("utf-8") if (DOCS / path).is_file() else ""
        # Not compared by ==: of hundreds of lines a difference is told in one.
        lines = zip(text.split("\n"), kept.split("\n"), strict=False)
        other += [(path, *pair) for pair in lines if pair[0] != pair[1]][:1]
        if len(text) != len(kept):
            other.append((path, "length"))
    assert not other[:1], "run `python -m experiments.publish_result`"
    assert publish_result.leftover_pages(DOCS, pages) == []


def test_links_lead_to_files_and_headings(pages):
    """Those of the pages, and the README's to them."""
    texts = {DOCS / path: text for path, text in pages.items()}
    readme = (ROOT / "README.md").read_text("utf-8")
    texts[ROOT / "README.md"] = "".join(re.findall(r"\]\(docs/results[^)]*\)", readme))
    missing = []
    for path, text in texts.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            place, _, heading = urllib.parse.unquote(target).partition("#")
            linked = path.parent / place if place else path
            if not linked.exists():
                missing.append((path, target))
            elif heading:
                titles = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), flags=re.M)
                if heading not in map(anchor, titles):
                    missing.append((path, target))
    assert missing == []
    assert texts[ROOT / "README.md"].count("#") >= 5


def test_every_picture_is_shown(pages):
    shown = {
        (DOCS / path).parent.joinpath(urllib.parse.unquote(target)).resolve()
        for path, text in pages.items()
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    }
    pictures = {path.resolve() for path in (DOCS / "results").rglob("*.png")}
    assert shown == pictures
