"""docs/results.md is what the published runs and the claims make of it."""

import pathlib

from experiments import publish_result

ROOT = pathlib.Path(__file__).parents[2]
# bazel: data = docs/claims.toml
# bazel: data = docs/results
# bazel: data = docs/results.md
DOCS = ROOT / "docs"


def test_the_page_is_current():
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    # Not compared by ==: of pages of thousands of lines a difference is told in one.
    made = publish_result.render(DOCS).splitlines()
    kept = page.splitlines()
    different = [pair for pair in zip(made, kept, strict=False) if pair[0] != pair[1]]
    assert not different[:1], "run `python -m experiments.publish_result`"
    assert len(made) == len(kept)
