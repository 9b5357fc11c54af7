"""The table of altered images: how many training images somebody may alter, and by how much, before answers may change."""

from collections.abc import Sequence

from certidote.reporting import figures, words
from certidote.types import Json

COLUMNS = 5
"""Numbers of altered images that have a column, at most."""


def threat_table(proved: Sequence[Json]) -> Json:
    """One group of rows for each threat, one row for each certificate that records it; a single certificate has no groups.

    Returns: `numbers`, headings of the columns after median and best; `groups` with `change`, `note` and `rows` of (heading, cells).
    """
    groups: dict[tuple[str, float], Json] = {}
    numbers = sorted({k for each in proved for threat in each["results"]["threats"] for k, _ in threat["certified_accuracy_at_k"]})
    shown = [numbers[i] for i in figures.spread(len(numbers), COLUMNS)] if numbers else []
    for certificate in proved:
        for threat in certificate["results"]["threats"]:
            group = groups.setdefault((threat["norm"], threat["epsilon"]), {"change": words.change(threat), "note": "", "rows": []})
            if threat["norm"] == "linf":
                group["note"] = f"at most {words.length(threat['per_image_norm'], up=True)} in l2 norm for one image"
            group["rows"].append((certificate["label"], _cells(threat, shown)))
    if len(proved) == 1:  # one row per threat needs no groups
        rows = [(group["change"], cells) for group in groups.values() for _, cells in group["rows"]]
        groups = {("", 0.0): {"change": "", "note": "", "rows": rows}} if rows else {}
    return {"numbers": [words.counted(k, "image") for k in shown], "groups": list(groups.values())}


def threat_lines(certificate: Json) -> list[str]:
    """The table of one certificate for a terminal; nothing where no answer is certified."""
    table = threat_table([certificate]) if words.certified_share(certificate) else {"groups": []}
    if not table["groups"]:
        return []
    rows = [("change of each", ["median", "best", *table["numbers"]]), *table["groups"][0]["rows"]]
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(rows[0][1]))]
    first = max(len(heading) for heading, _ in rows)
    image = "untrusted training images" if certificate.get("trusted") else "training images"
    return [
        f"Altered {image} that the median and the best answer survive, and certified accuracy after altering so many:",
        *(
            f"  {heading:<{first}}  {'  '.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))}"
            for heading, cells in rows
        ),
    ]


def _cells(threat: Json, numbers: Sequence[int]) -> list[str]:
    shares = {k: words.percent(share, down=True) for k, share in threat["certified_accuracy_at_k"]}
    return [f"{int(threat['median_k']):,}", f"{threat['max_k']:,}", *(shares.get(k, "") for k in numbers)]
