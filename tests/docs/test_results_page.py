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
# bazel: data = docs/runtime.md
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
    """Those of the pages, and other documents' to them."""
    texts = {DOCS / path: text for path, text in pages.items()}
    for path in {ROOT / "README.md", *DOCS.glob("*.md")} - set(texts):
        links = re.findall(r"\]\((?:docs/)?results[^)]*\)", path.read_text("utf-8"))
        texts[path] = "".join(links)
    assert len([path for path, text in texts.items() if text]) >= len(pages) + 2
    missing = []
    for path, text in texts.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            place, _, heading = urllib.parse.unquote(target).partition("#")
            linked = path.parent / place if place else path
            if not linked.exists():
                missing.append((path, target))
            elif heading and heading not in _anchors(linked):
                missing.append((path, target))
    assert missing == []


def _anchors(path):
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def test_every_picture_is_shown(pages):
    shown = {
        (DOCS / path).parent.joinpath(urllib.parse.unquote(target)).resolve()
        for path, text in pages.items()
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    }
    pictures = {path.resolve() for path in (DOCS / "results").rglob("*.png")}
    assert shown == pictures
