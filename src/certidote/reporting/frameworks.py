"""What a report is evidence for in public catalogues of attacks and controls. Titles and sentences are ours.

Nothing here says that a system complies with anything, and reports tell their readers to check identifiers. Where these come from:

- MITRE ATLAS (AML.*): second-hand. They are as other public repositories quote them; the ATLAS data themselves were not at hand.
- OWASP AISVS 1.0, locked in 2026: C1.1.3 and C1.3.5 were read in the research notes that are locked with it. C12.5.1 is second-hand,
  from the English lines of a translation. The locked chapters themselves were not at hand; earlier drafts use other numbers.
"""

from dataclasses import dataclass

from certidote.reporting import words
from certidote.types import Json


@dataclass(frozen=True)
class Entry:
    """One entry of a catalogue.

    Attributes:
        id: as published.
        title: what it is about, in our words.
        evidence: what a run that certifies something shows about it; `evidence_of` fills in the words in braces.
        unproved: what remains of that if nothing is certified; "" if nothing.
    """

    id: str
    title: str
    evidence: str
    unproved: str = ""


_DIGESTS = "digests of {sets} below, recorded before the first model trained."
_SHA = "the SHA-256 of the training set as it was used, to compare with that of the set as it was delivered."
_LINEAGE = "{steps}, recipe, versions and command below; the lineage of every model is in the run's ledger."

ATLAS = (
    Entry(
        "AML.T0020",
        "Somebody alters the training data",
        "certified accuracy against the radius, and the table of altered images, bound what changed pixels can do. Changed labels, "
        "and images added or removed, are outside the claim.",
        "the accuracy of the vote was measured; nothing bounds what altered images can do.",
    ),
    Entry(
        "AML.T0018",
        "Somebody manipulates a model, by poisoning it or planting a backdoor",
        "in part: inside the radius, changed training pixels cannot alter the answers for these test images. Test images that carry "
        "a trigger, and changed weights, are outside the claim.",
    ),
    Entry(
        "AML.M0007",
        "Clean the training data of poison",
        "every model learned from {made} images only{trusted}; {means} listed below.",
        "the images were {made} before training{trusted}; {means} listed below{wrong}.",
    ),
    Entry("AML.M0025", "Keep track of where data sets come from and what became of them", _DIGESTS, _DIGESTS),
)

AISVS = (
    Entry(
        "v1.0-C1.3.5",
        "Defend against clean-label poisoning",
        "{defense} with a proof: the claim above, its radii, and what it rests on.",
        "{defense}, empirical only.",
    ),
    Entry("v1.0-C1.1.3", "Protect the integrity of training data in storage and transfer", _SHA, _SHA),
    Entry("v1.0-C12.5.1", "Record what was done to a data set before a model learned from it", _LINEAGE, _LINEAGE),
)

FRAMEWORKS = (("MITRE ATLAS", ATLAS), ("OWASP AISVS", AISVS))


def evidence_of(entry: Entry, certificate: Json) -> str:
    """What a run shows about an entry, "" for nothing. It speaks of denoising only where there was a denoiser."""
    denoised = certificate["denoiser"]["kind"] != "none"
    text = entry.evidence if words.certified_share(certificate) else entry.unproved
    return text.format(
        made="noised and denoised" if denoised else "noised",
        means="sigma, denoiser and its digest are" if denoised else "sigma is",
        trusted=", apart from the trusted ones" if certificate.get("trusted") else "",
        wrong="" if certificate["proved"] else "; the reasons above say what went wrong",
        sets="training set, test set, denoiser and configuration" if denoised else "training set, test set and configuration",
        defense="input purification" if denoised else "noise on the training images",
        steps="noise, denoiser" if denoised else "noise",
    )
