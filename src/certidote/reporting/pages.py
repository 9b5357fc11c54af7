"""Self-contained HTML pages: one style sheet, no script, no network, everything printed escaped."""

from importlib.resources import files

import jinja2
from markupsafe import Markup


def resource(name: str) -> str:
    """A file beside this one: a template, or the style sheet."""
    return (files("certidote.reporting") / name).read_text(encoding="utf-8")


def page(template: str, title: str, **content: object) -> str:
    """A complete HTML document from one of our templates; the same bytes for the same input.

    Args:
        content: what the template names; plain text is escaped, `Markup` is not.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(resource),
    )
    return environment.get_template(template).render(title=title, css=Markup(resource("report.css")), **content)


def both_widths(wide: str, narrow: str) -> Markup:
    """A figure for wide and one for narrow windows; the style sheet shows one of them."""
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')
