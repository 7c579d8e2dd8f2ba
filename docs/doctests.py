"""An extension of griffe: examples in docstrings (`>>> …`) become code blocks of the reference.

Without it, only examples below a heading `Examples:` are code, and others would be read as Markdown.
"""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)  # to the next empty line


class DoctestBlocks(griffe.Extension):
    """Fences each example of each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """griffe calls this for each object that it has read."""
        if obj.docstring is not None:
            lines = obj.docstring.lines
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found.group()}\n```", "\n".join(lines))
