"""Pages of HTML that need no other file: one look, and nothing from outside that is not escaped.

The templates are Jinja2's, which escapes whatever they are given. A page's policy allows no
request, and no style or script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from jtl.common.text import for_terminal


def render(
    package: str, template: str, *, style: str = "", script: str = "", **content: Any
) -> str:
    """A page.

    Args:
        package: Whose folder `templates` has the template; it extends `base.html`.
        template: The file's name.
        style: CSS after that of all pages; not from outside.
        script: JavaScript; not from outside.
        content: What the template shows: texts are escaped.
    """
    loaders = [jinja2.PackageLoader(each, "templates") for each in (package, "jtl.common")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = part("jtl.common", "base.css") + style
    return environment.get_template(template).render(
        content, style=Markup(style), script=Markup(script), policy=_policy(style, script)
    )


def part(package: str, name: str) -> str:
    """A file of a package's folder `templates`."""
    return (importlib.resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    """Text without control characters, which HTML cannot hold, and without halves of characters."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return for_terminal(value).encode("utf-8", "backslashreplace").decode()
    return value


def _policy(style: str, script: str) -> str:
    """The content security policy: images that the page holds, its own style and script."""
    allowed = [f"style-src {_hash(style)}"]
    allowed += [f"script-src {_hash(script)}"] if script else []
    return "; ".join(
        ["default-src 'none'", "img-src data:", *allowed, "base-uri 'none'", "form-action 'none'"]
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
