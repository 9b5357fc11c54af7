"""The gallery of a sanitized set or of a poison pack: one self-contained HTML file without scripts or network, like the report."""

from collections.abc import Sequence

from markupsafe import Markup

from certidote.reporting.figures import gallery
from certidote.reporting.pages import page
from certidote.types import Json


def gallery_page(title: str, sentences: Sequence[str], pictures: Sequence[Json]) -> str:
    """Pictures as `figures.gallery` takes them, with a heading and some sentences; the same bytes for the same input."""
    return page("gallery.html", title, sentences=sentences, pictures=Markup(gallery(pictures)))
