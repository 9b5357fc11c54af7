"""The gallery of a sanitized set: one self-contained HTML file without scripts or network, like the report."""

from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from certidote.reporting.figures import gallery
from certidote.reporting.html import resource
from certidote.types import Json

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title>
<style>
{{ css }}</style>
</head>
<body>
<main>
<header>
  <p class="kicker">Certidote gallery</p>
  <h1>{{ title }}</h1>
  {% for sentence in sentences %}
  <p>{{ sentence }}</p>
  {% endfor %}
</header>
<section>
{{ pictures }}
</section>
</main>
</body>
</html>
"""


def gallery_page(title: str, sentences: Sequence[str], pictures: Sequence[Json]) -> str:
    """Pictures as `figures.gallery` takes them, with a heading and some sentences; the same bytes for the same input."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        title=title, css=Markup(resource("report.css")), sentences=sentences, pictures=Markup(gallery(pictures))
    )
