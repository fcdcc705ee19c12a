"""Prose of presets and claims as Markdown, with links to the presets that it names."""

import re
from collections.abc import Collection

from tff_leak.report.tables import page_path

# Where presets are, seen from the top of the repository.
CONFIGS = "experiments/configs"


def linked_prose(
    text: str, pages: Collection[str], presets: Collection[str], page: str | None = None
) -> str:
    """Returns prose as Markdown, with links to the presets that it names.

    Args:
      text: what is between backticks stays as it is. A name without an underscore
        counts in backticks only.
      pages: presets that have a page, which is linked.
      presets: others, whose files are.
      page: on whose page the text stands; None is `results.md`.
    """

    def link(name, shown):
        if name == page:
            return shown
        if name in pages:
            path = page_path(name) if page is None else f"../{name}/README.md"
            return f"[{shown}]({path})"
        if name in presets:
            top = "../" if page is None else "../../../"
            return f"[{shown}]({top}{CONFIGS}/{name}.flags)"
        return shown

    parts = []
    for part in re.split(r"(`[^`]*`)", text):
        if part[:1] == "`":
            parts.append(link(part[1:-1], part))
            continue
        # A browser takes <words> for a tag, and shows nothing.
        escaped = part.replace("<", "&lt;")
        name = r"(?<![\w/.*])\w+_\w+(?![\w/*]|\.\w)"
        parts.append(re.sub(name, lambda found: link(found[0], found[0]), escaped))
    return "".join(parts)
