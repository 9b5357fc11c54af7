"""What voids a certificate: every fault of the pipeline that the recorded lineage can show.

The proof needs independent votes that see the untrusted pixels only through one noise draw per image and member. Each objection
names the fault and what to do; a run with objections is "empirical only".
"""

import math
from typing import Any

import numpy as np

from certidote.types import Assumption, Ballots, DenoiserCard, Json, Lineage, Retrained


def objections(
    ballots: Ballots,
    sigma: float,
    members: int,
    denoiser: DenoiserCard,
    described: Json | None = None,
    *,
    selecting: int = 0,
    anytime: bool = False,
    together: int | None = None,
    sigma_x: float = 0.0,
) -> tuple[str, ...]:
    """Why no smoothing certificate follows from these ballots; empty if one does.

    Args:
        ballots: the recorded votes with their lineages.
        sigma: the noise std that the scheme promised, [0, 1] pixel units.
        members: n0 + n, fixed before the first member trained.
        denoiser: of the scheme.
        described: the scheme's description of itself, compared with the one recorded before the first member trained.
        selecting: n0, of these.
        anytime: whether the bound holds at every number of counted members, so that the first few of them are enough.
        together: test images that one simultaneous statement was divided among; None if each has a statement of its own.
        sigma_x: the noise std that the scheme promised on test images; 0 if they may not have been tampered with.
    """
    found = []
    recorded = ballots.provenance.scheme
    if recorded is not None and described is not None and recorded != described:
        name, old, new = first_difference(recorded, described)
        found.append(
            f"the members were trained for {name}={old}, but the claim is about {name}={new}; nothing may change after votes were "
            "cast: start another run"
        )
    if together is not None and ballots.votes.shape[1] != together:
        found.append(
            f"alpha was divided among {together} test images, but {ballots.votes.shape[1]} were voted on; a simultaneous statement needs "
            "num_tests to be their number"
        )
    found.extend(stack_objections(ballots.provenance.retrained))
    if anytime and ballots.provenance.mixture:
        found.append(
            "members were computed with different numerics, for which the anytime bound is not proved; use machines of one kind, or "
            "another bound"
        )
    if len({lineage.trusted for lineage in ballots.lineages}) > 1:
        found.append("members were given different trusted images, so no one claim is about all of them; fix the list for the run")
    if anytime and len(ballots) < members:
        if len(ballots) <= selecting:
            found.append(
                f"{len(ballots)} members have voted, and the first {selecting} only select the answer; resume the run until some "
                "are counted"
            )
    elif len(ballots) != members:
        found.append(f"{len(ballots)} members have voted, but {members} were fixed beforehand; resume the run until all have")
    if len(np.unique(ballots.noise_ids)) != len(ballots.noise_ids):
        found.append("two counted members share one noise draw, so their votes are not independent; every member needs its own")
    if denoiser.trained_on and denoiser.trained_on == ballots.provenance.data_digest:
        found.append(
            "the denoiser was trained on the untrusted images themselves, so votes see them without noise; train it on images "
            "the attacker cannot have touched"
        )
    if sigma_x and ballots.failed.any() and any(lineage.test_sigma is None for lineage in ballots.lineages):
        found.append(
            "some members failed, and the ledger does not tell whether they did so on a test image, which the attacker may have sent; run "
            "it again with this release"
        )
    for lineage in ballots.lineages:
        found.extend(_lineage_objections(lineage, sigma, denoiser))
        found.extend(_input_objections(lineage, sigma_x) if sigma_x else [])
    return tuple(found)


ROUNDING_SHARE = 0.05
"""Votes of a member that may come out otherwise where kernels round otherwise in another stack: what lies on an edge between classes."""


def _lineage_objections(lineage: Lineage, sigma: float, denoiser: DenoiserCard) -> list[str]:
    found = [f"untrusted pixels were read without noise ({reason}); only noised pixels may be used" for reason in lineage.unsealed]
    if lineage.start == "untrusted":
        found.append("members started from weights trained on the untrusted data; start fresh or from trusted data")
    if not lineage.own_noise:
        found.append(
            "noise was drawn from a stream that is not the member's own, so members may share it or the data may decide it; draw it "
            "below the member's key"
        )
    if lineage.sigma != sigma and not lineage.unsealed:
        found.append(f"members saw noise of std {lineage.sigma}, but the claim is about sigma={sigma}")
    if lineage.denoiser != denoiser.digest and not lineage.unsealed:
        found.append(f"members used denoiser {lineage.denoiser[:12] or 'none'}, but the claim is about {denoiser.digest[:12]}")
    return found


def _input_objections(lineage: Lineage, sigma_x: float) -> list[str]:
    """What voids the statement about changed test images: they must enter through one noise draw of each member's own."""
    found = []
    if lineage.test_sigma == 0:
        found.append(f"test images were read without noise, but the claim is about sigma_x={sigma_x}; only noised ones may be used")
    elif lineage.test_sigma not in (None, sigma_x):
        found.append(f"members saw test images with noise of std {lineage.test_sigma}, but the claim is about sigma_x={sigma_x}")
    if lineage.test_draws > 1:
        found.append(
            f"members saw {lineage.test_draws} noise draws of one test image; draw once, or the noise on it is less than sigma_x"
        )
    if not lineage.test_own_noise:
        found.append(
            "noise on test images was drawn from a stream that is not the member's own, or that its training images had already; draw it "
            "below the member's key"
        )
    if lineage.unanswered:
        found.append(
            "a member with finite weights gave a logit that is NaN or infinite for some test image, and lost its votes about all others, so "
            "one test image decides about the answers to others; bound the logits, or ask about each test image in a run of its own"
        )
    return found


def stack_objections(retrained: Retrained | None) -> list[str]:
    """What a member that was trained again, alone, says against votes that must be independent."""
    if retrained is None or not retrained.differing:
        return []
    if not retrained.same_noise:
        return [
            f"member {retrained.member}, trained again, drew other noise than is on record for it; its votes are not those of its key"
        ]
    if not retrained.exact and retrained.differing <= ROUNDING_SHARE * retrained.votes:
        return []
    return [
        f"member {retrained.member}, trained again alone, cast {retrained.differing} of {retrained.votes} votes otherwise; something "
        "crosses the stack (gradient clipping, batch statistics, a shared loss scale) or is drawn from no key, so votes are not "
        "independent: compute everything for each member by itself"
    ]


def first_difference(old: Json, new: Json, path: str = "") -> tuple[str, Any, Any]:
    """The first entry in which two JSON objects differ, in alphabetical order: its dotted name and both values."""
    for name in sorted({*old, *new}):
        left, right = old.get(name, "nothing"), new.get(name, "nothing")
        if left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            return first_difference(left, right, f"{path}{name}.")
        return f"{path}{name}", left, right
    raise RuntimeError("the two values are equal")


def draws_divisor(ballots: Ballots) -> float:
    """sqrt(u) for at most u noise draws per image and member: together they act like noise sigma / sqrt(u)."""
    return math.sqrt(max(max(lineage.draws, 1) for lineage in ballots.lineages))


def assumptions(ballots: Ballots, denoiser: DenoiserCard, sigma_x: float = 0.0, anytime: bool = False) -> tuple[Assumption, ...]:
    """What the certificate rests on: what software enforced, and what its reader must believe.

    Args:
        sigma_x: noise std on the test image; 0 if it is not noised and may not have been tampered with.
        anytime: whether the number of models may depend on counts, because the bound holds at every number.
    """
    draws = max(lineage.draws for lineage in ballots.lineages)
    entries = [
        Assumption(
            "Labels, number and order of the training images are as they should be (clean-label threat model).",
            "assumed",
            "outside the threat model; the certificate speaks of changed pixels only",
        ),
        Assumption(
            "Members saw untrusted pixels only after Gaussian noise was added to them.",
            "enforced",
            f"pixels are sealed; lineage of {len(ballots)} members: noise std {ballots.lineages[0].sigma}, "
            f"{draws} draw(s) per image and member, no un-noised reads",
        ),
        Assumption(
            "Votes are independent: every member has its own noise, and coins are its own or fixed once for all members.",
            "enforced",
            f"{len(np.unique(ballots.noise_ids))} distinct noise streams for {len(ballots)} members{_alone(ballots.provenance.retrained)}",
        ),
        Assumption(
            f"{'Bound' if anytime else 'Number of models'}, alpha, noise, recipe and test images were fixed before the first member "
            "trained." + (" The number of models may depend on the votes: the bound holds at every number." if anytime else ""),
            "enforced",
            "the ledger stores the configuration digest first and refuses to go on under another",
        ),
        Assumption(
            "Members that diverged are counted and vote for nobody; none is trained again under new noise.",
            "enforced",
            f"{int(ballots.failed.sum())} of {len(ballots)} members diverged",
        ),
        _root_assumption(ballots),
        _denoiser_assumption(denoiser, ballots.provenance.denoiser_overlap),
    ]
    if ballots.provenance.mixture:
        entries.append(
            Assumption(
                "Members were computed by machines that may round differently; the claim is about their mixture, and who computes which "
                "members was fixed before any of them voted.",
                "reported",
                "; ".join(ballots.provenance.mixture),
            )
        )
    trusted = ballots.lineages[0].trusted
    if trusted:
        entries.insert(
            1,
            Assumption(
                f"{trusted} trusted images: the attacker cannot have touched them. Members see them without noise.",
                "assumed",
                "named by whoever ran this; their rows are part of the recorded configuration",
            ),
        )
    if sigma_x:
        entries.append(
            Assumption(
                "Models, votes and noise were secret until the test images were fixed.",
                "assumed",
                f"needed because the test image may come from the attacker; every member adds its own noise of std {sigma_x:g} to it",
            )
        )
        if all(lineage.test_sigma is not None for lineage in ballots.lineages):
            entries.append(
                Assumption(
                    "Members saw test images only after Gaussian noise was added to them.",
                    "enforced",
                    f"test images are sealed; lineage of {len(ballots)} members: noise std {sigma_x:g}, one draw per test image and "
                    "member from a stream of its own, no un-noised reads",
                )
            )
    if any(lineage.start == "trusted" for lineage in ballots.lineages):
        entries.append(
            Assumption(
                "The weights members start from come from data the attacker cannot have touched.",
                "assumed",
                "stated by whoever ran this",
            )
        )
    entries.append(
        Assumption(
            "Noise is pseudo-random and added in floating point; attacks on that are not covered.",
            "reported",
            f"{ballots.provenance.noise} streams keyed by run, member and block of rows; float32",
        )
    )
    return tuple(entries)


def _alone(retrained: Retrained | None) -> str:
    if retrained is None:
        return ""
    same = f"{retrained.votes - retrained.differing} of {retrained.votes} votes again"
    rounding = "" if retrained.exact else " (kernels of this device may round otherwise in another stack)"
    return f"; member {retrained.member}, picked after it voted and trained again alone, cast {same}{rounding}"


def _root_assumption(ballots: Ballots) -> Assumption:
    text = "Whoever made the data could not know the noise."
    if ballots.provenance.root_source == "operating system":
        return Assumption(
            text, "enforced", "the root of all random streams came from the operating system after the data digest was recorded"
        )
    return Assumption(text, "assumed", "reproduction: the seed was set by hand, so it must have been unknown to the attacker")


def _denoiser_assumption(denoiser: DenoiserCard, overlap: int | None) -> Assumption:
    if denoiser.kind == "none":
        return Assumption("No denoiser is used (noise only).", "reported", "baseline")
    text = "The denoiser is a constant: nobody who could alter the training set influenced it."
    if overlap is None:
        return Assumption(
            text,
            "assumed",
            f"{denoiser.name}: its training images are not on record; accuracy may be optimistic if it saw these images",
        )
    if overlap:
        return Assumption(
            text,
            "assumed",
            f"{denoiser.name} was trained on {overlap} of the very images it purifies: the certificate is valid if those were "
            "clean originals, the accuracy is optimistic",
        )
    return Assumption(
        text, "assumed", f"{denoiser.name}: none of its training images is in the untrusted set (content hashes compared)"
    )
