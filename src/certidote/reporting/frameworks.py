"""What a report is evidence for in public catalogues of attacks and controls.

Identifiers were looked up in the published texts; titles and sentences are ours. Nothing here says that a system complies with
anything. Sources: MITRE ATLAS data, releases 2026.07 and 2026.09; OWASP AISVS 1.0, June 2026, whose identifiers are frozen.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One entry of a catalogue.

    Attributes:
        id: as published.
        title: what it is about, in our words.
        evidence: what a proved run shows about it.
        unproved: what remains of that without a certificate; "" if nothing.
    """

    id: str
    title: str
    evidence: str
    unproved: str = ""


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
        "every model learned from noised and denoised images only; sigma, denoiser and its digest are listed below.",
        "the images were noised and denoised before training as listed below; the reasons above say what went wrong.",
    ),
    Entry(
        "AML.M0025",
        "Keep track of where data sets come from and what became of them",
        "digests of training set, test set, denoiser and configuration below, recorded before the first model trained.",
        "digests of training set, test set, denoiser and configuration below, recorded before the first model trained.",
    ),
)

AISVS = (
    Entry(
        "v1.0-C1.3.5",
        "Defend against clean-label poisoning",
        "input purification with a proof: the claim above, its radii, and what it rests on.",
        "input purification, empirical only.",
    ),
    Entry(
        "v1.0-C1.1.4",
        "Protect the integrity of training data in storage and transfer",
        "the SHA-256 of the training set as it was used, to compare with that of the set as it was delivered.",
        "the SHA-256 of the training set as it was used, to compare with that of the set as it was delivered.",
    ),
    Entry(
        "v1.0-C12.6.1",
        "Record what was done to a data set before a model learned from it",
        "noise, denoiser, recipe, versions and command below; the lineage of every model is in the run's ledger.",
        "noise, denoiser, recipe, versions and command below; the lineage of every model is in the run's ledger.",
    ),
)

FRAMEWORKS = (("MITRE ATLAS", ATLAS), ("OWASP AISVS", AISVS))
