"""docs/results.md and the presets' pages are what runs and claims make of them."""

import pathlib
import re

from experiments import publish_result

ROOT = pathlib.Path(__file__).parents[2]
# bazel: data = docs/claims.toml
# bazel: data = docs/results
# bazel: data = docs/results.md
DOCS = ROOT / "docs"


def test_the_pages_are_current():
    pages = publish_result.render(DOCS)
    # Not compared by ==: of hundreds of lines a difference is told in one.
    other = [
        path
        for path, text in pages.items()
        if not (DOCS / path).is_file() or (DOCS / path).read_text("utf-8") != text
    ]
    other += publish_result.leftover_pages(DOCS, pages)
    assert not other[:1], "run `python -m experiments.publish_result`"
    assert len(pages) > 100


def test_links_and_pictures_of_the_pages_are_there():
    linked = set()
    for path, text in publish_result.render(DOCS).items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            linked.add((DOCS / path).parent / target)
    missing = [path for path in linked if not path.is_file()]
    assert missing == []
    pictures = set((DOCS / "results").rglob("*.png"))
    shown = {path.resolve() for path in linked}
    assert {path for path in pictures if path.resolve() not in shown} == set()
