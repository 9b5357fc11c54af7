"""What a report is evidence for in public catalogues of attacks and controls. Titles and sentences are ours.

Nothing here says that a system complies with anything, and reports tell their readers to check identifiers. `docs/frameworks.md` is
printed from here: `python -m certidote.reporting.frameworks > docs/frameworks.md`.
"""

from dataclasses import dataclass

from certidote.reporting import words
from certidote.types import Json


@dataclass(frozen=True)
class Entry:
    """One entry of a catalogue.

    Attributes:
        id: as published.
        source: where the id was read.
        title: what it is about, in our words.
        evidence: what a run that certifies something shows about it; `evidence_of` fills in the words in braces.
        unproved: what remains of that if nothing is certified; "" if nothing.
    """

    id: str
    source: str
    title: str
    evidence: str
    unproved: str = ""


_QUOTED = "second-hand: as other public repositories quote it; the ATLAS data themselves were not at hand"
_NOTES = "read in the research notes that are locked with version 1.0; the locked chapters themselves were not at hand"
_TRANSLATED = "second-hand: from the English lines of a translation of version 1.0; the locked chapters themselves were not at hand"

_DIGESTS = "digests of {sets} below, recorded before the first model trained."
_SHA = "the SHA-256 of the training set as it was used, to compare with that of the set as it was delivered."
_LINEAGE = "{steps}, recipe, versions and command below; the lineage of every model is in the run's ledger."

ATLAS = (
    Entry(
        "AML.T0020",
        _QUOTED,
        "Somebody alters the training data",
        "certified accuracy against the radius, and the table of altered images, bound what changed pixels can do. Changed labels, "
        "and images added or removed, are outside the claim.",
        "the accuracy of the vote was measured; nothing bounds what altered images can do.",
    ),
    Entry(
        "AML.T0018",
        _QUOTED,
        "Somebody manipulates a model, by poisoning it or planting a backdoor",
        "in part: inside the radius, changed training pixels cannot alter the answers for these test images. Test images that carry "
        "a trigger, and changed weights, are outside the claim.",
    ),
    Entry(
        "AML.M0007",
        _QUOTED,
        "Clean the training data of poison",
        "every model learned from {made} images only{trusted}; {means} listed below.",
        "the images were {made} before training{trusted}; {means} listed below{wrong}.",
    ),
    Entry("AML.M0025", _QUOTED, "Keep track of where data sets come from and what became of them", _DIGESTS, _DIGESTS),
)

AISVS = (
    Entry(
        "v1.0-C1.3.5",
        _NOTES,
        "Defend against clean-label poisoning",
        "{defense} with a proof: the claim above, its radii, and what it rests on.",
        "{defense}, empirical only.",
    ),
    Entry("v1.0-C1.1.3", _NOTES, "Protect the integrity of training data in storage and transfer", _SHA, _SHA),
    Entry("v1.0-C12.5.1", _TRANSLATED, "Record what was done to a data set before a model learned from it", _LINEAGE, _LINEAGE),
)

FRAMEWORKS = (("MITRE ATLAS", ATLAS), ("OWASP AISVS", AISVS))


def evidence_of(entry: Entry, certificate: Json) -> str:
    """What a run shows about an entry, "" for nothing. It speaks of denoising only where there was a denoiser."""
    text = entry.evidence if words.certified_share(certificate) else entry.unproved
    denoised = certificate["denoiser"]["kind"] != "none"
    return _filled(text, denoised, bool(certificate.get("trusted")), certificate["proved"])


def _filled(text: str, denoised: bool, trusted: bool, proved: bool) -> str:
    return text.format(
        made="noised and denoised" if denoised else "noised",
        means="sigma, denoiser and its digest are" if denoised else "sigma is",
        trusted=", apart from the trusted ones" if trusted else "",
        wrong="" if proved else "; the reasons above say what went wrong",
        sets="training set, test set, denoiser and configuration" if denoised else "training set, test set and configuration",
        defense="input purification" if denoised else "noise on the training images",
        steps="noise, denoiser" if denoised else "noise",
    )


def frameworks_page() -> str:
    """`docs/frameworks.md`: every entry, what a run shows about it, and where its identifier comes from."""
    lines = [
        "# What a run is evidence for",
        "",
        "Reports list the entries of public catalogues that a run shows something about. Titles and sentences are ours. Evidence is not",
        "compliance: nothing here says that a system complies with anything. Check identifiers against the version of the catalogue that you",
        "use; drafts number them otherwise. The sentences are those of reports: above and below mean places there. This page is printed by",
        "`python -m certidote.reporting.frameworks > docs/frameworks.md`.",
    ]
    for heading, entries in FRAMEWORKS:
        lines += ["", f"## {heading}", ""]
        lines += _row("entry", "a run that certifies something shows", "a run that certifies nothing", "source of the identifier")
        lines += _row(*["---"] * 4)
        for entry in entries:
            unproved = _example(entry.unproved) or "nothing"
            lines += _row(f"{entry.id}: {entry.title}", _example(entry.evidence), unproved, entry.source)
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _example(text: str) -> str:
    """A sentence as it reads for a run with a denoiser and without trusted images."""
    return _filled(text, denoised=True, trusted=False, proved=True)


if __name__ == "__main__":
    print(frameworks_page(), end="")
