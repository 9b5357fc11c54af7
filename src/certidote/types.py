"""The few immutable values, and the protocols, that everything passes around.

Pixels are stored as uint8 and computed with as float32 in [0, 1]; sigma, radii and epsilon are in the same units. Data that
somebody else may have altered travels as `Untrusted`: its labels are open, its pixels can only be had through `noised` (which
adds Gaussian noise) or `unsealed` (which leaves a mark in the lineage that no certificate survives). Two more readings serve people,
not training, and leave the same mark: `movement` (norms only) and `pictured` (a handful of images to look at).
"""

import copy
import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt, UInt8
from torch import Tensor

from certidote.streams import Key, normal_block

ABSTAIN = -1
"""The prediction of a classifier that does not answer; counts as wrong."""

Images = Float[Tensor, "n c h w"]
Json = dict[str, Any]


def digest_of(value: Json) -> str:
    """SHA-256 of a JSON value in canonical form, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images of one shape. Nobody writes into these tensors after construction.

    Attributes:
        images, labels, class_names: the data; `digest` speaks of these and of nothing else.
        names: what a person finds each image by, one for each row (the path inside the folder or archive it came from, "/" between
            the parts); None where images have no names. Not in the digest: no model sees them, and renaming a file changes no result.
        notes: sentences about how the images came to be ("resized to ..."), for every record about them. Not in the digest either:
            what was done is in the pixels.
    Raises: ValueError if shapes disagree, a label is out of range, or there are fewer than two classes or no images.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    class_names: tuple[str, ...]
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("a data set needs at least one image; this one is empty")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels; each image needs exactly one label")
        if self.names is not None and len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.names)} names; give each image its name, or give none")
        if len(self.class_names) < 2:
            raise ValueError(f"{len(self.class_names)} class given; a classifier needs at least 2 classes")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            bad = low if low < 0 else high
            raise ValueError(f"label {bad} is out of range; {len(self.class_names)} classes allow 0 to {len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def pixels(self) -> Images:
        """All images as float32 in [0, 1]."""
        return as_pixels(self.images)

    def digest(self) -> str:
        """SHA-256 over shape, class names, labels and pixels, 64 hex digits."""
        h = hashlib.sha256(json.dumps([list(self.images.shape), list(self.class_names)]).encode())
        h.update(self.labels.numpy().astype("<i8").tobytes())
        h.update(np.ascontiguousarray(self.images.numpy()).data)
        return h.hexdigest()

    def subset(self, rows: Sequence[int] | Int64[Tensor, "m"]) -> "ImageDataset":
        """These rows, in this order, with their names and the same classes."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        names = None if self.names is None else tuple(self.names[row] for row in index.tolist())
        return replace(self, images=self.images[index], labels=self.labels[index], names=names)

    def name_of(self, row: int) -> str:
        """How messages and tables call the image in this row: its name, or "image 17" where it has none."""
        return f"image {row}" if self.names is None else self.names[row]


def content_hashes(images: UInt8[Tensor, "n c h w"]) -> list[int]:
    """A 63-bit hash of each stored image, to recognize the same image in two data sets without keeping its pixels."""
    return [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "big") >> 1 for image in images.numpy()]


def as_pixels(images: UInt8[Tensor, "n c h w"]) -> Images:
    """Stored images as float32 in [0, 1]."""
    return images.to(torch.float32) / 255


# ------------------------------------------------------------------------------------------------- untrusted data, views

Start = Literal["fresh", "trusted", "untrusted"]
"""How a model starts: random weights, weights the attacker cannot have influenced, weights that saw the untrusted data."""


@dataclass(frozen=True)
class Lineage:
    """What one member's training view was made from. `certification.lineage` reads this and nothing else.

    Attributes:
        sigma: std of the Gaussian noise that was added to every untrusted pixel, [0, 1] units; 0 if none was.
        draws: independent noise draws of one image that the member saw (1 in every certifiable scheme).
        unsealed: why untrusted pixels were read without noise; empty if they never were.
        denoiser: digest of the denoiser that processed the noised images; "" for none.
        start: how the member's weights start.
        trusted: images that the attacker cannot have touched, which were used as they are.
        own_noise: whether all of its noise came from streams below the member's own key.
    """

    sigma: float = 0.0
    draws: int = 0
    unsealed: tuple[str, ...] = ()
    denoiser: str = ""
    start: Start = "fresh"
    trusted: int = 0
    own_noise: bool = True

    def to_json(self) -> Json:
        return {**asdict(self), "unsealed": list(self.unsealed)}

    @staticmethod
    def from_json(value: Json) -> "Lineage":
        return Lineage(**{**value, "unsealed": tuple(value["unsealed"])})


@dataclass(frozen=True, eq=False)
class Traced:
    """Pixels made from untrusted data, with what they were made from.

    `exempt` are the places of trusted images among them, which carry no noise and are not denoised.
    """

    images: Images
    lineage: Lineage
    exempt: tuple[int, ...] = ()

    def denoised(self, denoiser: "Denoiser") -> "Traced":
        """One denoiser call on the noised images at the noise they carry. Post-processing: the proof is not touched."""
        lineage = replace(self.lineage, denoiser=denoiser.card.digest)
        if not self.exempt:
            return Traced(denoiser(self.images, self._sigmas(len(self.images))), lineage)
        noised = torch.ones(len(self.images), dtype=torch.bool)
        noised[list(self.exempt)] = False
        images = self.images.clone()
        if noised.any():
            places = noised.nonzero()[:, 0].to(images.device)
            images[places] = denoiser(self.images[places], self._sigmas(len(places)))
        return Traced(images, lineage, self.exempt)

    def _sigmas(self, count: int) -> Float[Tensor, "n"]:
        return torch.full((count,), self.lineage.sigma, dtype=torch.float32)

    def to(self, device: str) -> "Traced":
        """The same pixels on another device; what follows runs there. `Untrusted.noised` can make them there at once."""
        return Traced(self.images.to(device), self.lineage, self.exempt)


@dataclass
class Reads:
    """What was read of untrusted pixels, written by `Untrusted` itself: schemes cannot forget to mention it."""

    unsealed: list[str] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    noise_ids: list[int] = field(default_factory=list)
    draws: Counter[int] = field(default_factory=Counter)
    used: dict[tuple[int, int], tuple[float, bytes]] = field(default_factory=dict)
    own_noise: bool = True
    trusted: int = 0

    def amend(self, lineage: Lineage) -> Lineage:
        """The lineage that a scheme states, corrected by what was really read."""
        return replace(
            lineage,
            sigma=min(self.sigmas, default=0.0),
            draws=max(self.draws.values(), default=0),
            unsealed=tuple(dict.fromkeys([*lineage.unsealed, *self.unsealed])),
            own_noise=self.own_noise,
            trusted=self.trusted,
        )

    def noise_id(self) -> int:
        """Identity of the noise stream of this member; 0 if no noise was drawn."""
        return self.noise_ids[0] if self.noise_ids else 0


MAX_PICTURES = 64
"""Untrusted images that may be shown to people at once."""


@dataclass(frozen=True, eq=False)
class Movement:
    """How far sanitizing moved each image, [0, 1] pixel units: over all its pixels, and its pixel that moved most."""

    l2: Float64[np.ndarray, "m"]
    linf: Float64[np.ndarray, "m"]


class Untrusted:
    """A data set that somebody else may have altered: labels and shapes are open, pixels are sealed, names of files are not there.

    Clean-label threat model: an attacker may have changed pixels, but not labels, number or order of the images.

    Args:
        data: the images, or one block of consecutive rows of a set that is never in memory as a whole.
        trusted: distinct rows that the attacker cannot have touched, by assumption; their pixels are used without noise.
        first_row: where in the whole set this block begins; row numbers of methods are those of the whole set.
    Raises: ValueError if a trusted row does not exist, is given twice, no untrusted row is left, or trusted rows are given for a block.
    """

    def __init__(self, data: ImageDataset, trusted: Sequence[int] = (), first_row: int = 0) -> None:
        if trusted and first_row:
            raise ValueError("trusted rows go with a whole set, not with one block of it; give the whole set")
        self.trusted = _checked_rows(trusted, len(data))
        self.__data = data
        self.__ids = np.arange(first_row, first_row + len(data))
        self.first_row = first_row
        self.labels = data.labels
        self.class_names = data.class_names
        self.image_shape = data.image_shape
        self.__digest = data.digest()
        self.__on: dict[str, tuple[Tensor, Tensor]] = {}
        self.__member: Key | None = None
        self.reads = Reads()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """Of the stored images. A function of un-noised pixels: a member that asks for it leaves a mark as `unsealed` does."""
        self._content_told("the digest of the images")
        return self.__digest

    def watched(self, member: Key) -> "Untrusted":
        """The same data set with an empty record of reads, for the member with this key.

        Raises: RuntimeError if a member asks for it: its reads are recorded in one place.
        """
        if self.__member is not None:
            raise RuntimeError("this data set is watched already; a member must not start another record of what it reads")
        twin = copy.copy(self)
        twin.reads, twin.__member = Reads(), member
        return twin

    def _content_told(self, what: str) -> None:
        if self.__member is not None:
            self.reads.unsealed.append(what)

    def labels_on(self, device: str) -> Int64[Tensor, "n"]:
        """The labels on this device, copied there once."""
        return self.__copied(device)[1]

    def __copied(self, device: str) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, "n"]]:
        """Stored images and labels on a device; a GPU keeps them, a byte for each value, for all members it trains."""
        if torch.device(device).type == "cpu":
            return self.__data.images, self.labels
        if device not in self.__on:
            self.__on[device] = self.__data.images.to(device), self.labels.to(device)
        return self.__on[device]

    def noised(self, sigma: float, key: Key, rows: range, device: str = "cpu") -> Traced:
        """One block of images plus N(0, sigma^2) noise, added in float32 before anything else happens to them.

        Args:
            sigma: noise std, [0, 1] pixel units, > 0.
            key: the member's noise stream, below the member's own key, or the votes are not independent.
            rows: an aligned block from `streams.row_blocks`.
            device: where the noise is drawn and added, and the images stay.
        Returns: (len(rows), c, h, w), not clipped, and the lineage that says so. Trusted images among them are as they are.
        """
        if not sigma > 0:
            raise ValueError(f"sigma={sigma} adds no noise; give sigma > 0 ([0, 1] pixel units)")
        clean = as_pixels(self.__rows(rows, device))
        noise = normal_block(key, rows, self.image_shape, device)
        self.reads.sigmas.append(sigma)
        ids = self.__ids[rows.start - self.first_row : rows.stop - self.first_row]
        self.reads.draws.update(ids.tolist())
        self.reads.trusted = max(self.reads.trusted, len(self.trusted))
        identity = key.identity()
        if identity not in self.reads.noise_ids:
            self.reads.noise_ids.append(identity)
        if self.__member is not None and not key.under(self.__member):
            self.reads.own_noise = False
        use = sigma, hashlib.sha256(ids.tobytes()).digest()
        if self.reads.used.setdefault((identity, rows.start), use) != use:
            # y1 = x + s1 z and y2 = x + s2 z together give x away; x1 + s z and x2 + s z give x1 - x2.
            self.reads.unsealed.append(
                "one noise draw at two strengths or on two sets of images, from which pixels can be solved for"
            )
        within = slice(bisect_left(self.trusted, rows.start), bisect_left(self.trusted, rows.stop))
        exempt = tuple(row - rows.start for row in self.trusted[within])
        images = noise.mul_(sigma).add_(clean)
        if exempt:
            images[list(exempt)] = clean[list(exempt)]
        return Traced(images, Lineage(sigma=sigma, draws=1, trusted=len(self.trusted)), exempt)

    def restricted(self, rows: Sequence[int]) -> "Untrusted":
        """These rows only, in this order. What is read of them goes into the record of the whole.

        Raises: ValueError if a row is given twice: every image has one noise draw.
        """
        index = np.asarray(rows, dtype=np.int64)
        if len(np.unique(index)) != len(index):
            raise ValueError("a row is given twice, but every image has one noise draw; give each row once")
        known = set(self.trusted)
        twin = copy.copy(self)
        twin.__on = {}
        twin.__data = self.__data.subset(rows)
        twin.labels = twin.__data.labels
        twin.__ids, twin.first_row = self.__ids[index], 0
        twin.trusted = tuple(place for place, row in enumerate(rows) if row in known)
        return twin

    def overlap(self, hashes: frozenset[int]) -> int:
        """How many of the images have one of these content hashes. For reports; a member that asks leaves a mark."""
        self._content_told("how many images are among known ones")
        return sum(value in hashes for value in content_hashes(self.__data.images))

    def movement(self, made: UInt8[Tensor, "m c h w"], rows: range) -> "Movement":
        """How far each image lies from what was made of it: two norms for each image, and not one pixel.

        For people who look for poisons, after sanitizing. Norms of differences tell something about the pixels all the same, so the
        reading is on record: in a member's view it would void the certificate like `unsealed`.

        Args:
            made: the images made of these rows, as stored.
            rows: consecutive rows.
        """
        self.reads.unsealed.append("per-image movement, computed after sanitizing")
        l2, linf = np.empty(len(rows)), np.empty(len(rows))
        original = self.__rows(rows)
        for first in range(0, len(rows), 64):  # eight bytes a pixel, so a few images at a time
            some = slice(first, first + 64)
            steps = (made[some].to(torch.int64) - original[some].to(torch.int64)).flatten(1)
            l2[some] = steps.square().sum(1).to(torch.float64).sqrt().div(255).numpy()
            linf[some] = steps.abs().amax(1).to(torch.float64).div(255).numpy()
        return Movement(l2, linf)

    def pictured(self, rows: Sequence[int], reason: str) -> UInt8[Tensor, "m c h w"]:
        """A few images as they are, for people to look at, never to train on.

        The reading is on record with its reason: in a member's view it would void the certificate like `unsealed`. Reports ask the
        data set itself, after the last vote, and members only ever had a `watched` twin: their lineage is not touched.

        Raises: ValueError for more than `MAX_PICTURES` rows.
        """
        if len(rows) > MAX_PICTURES:
            raise ValueError(f"{len(rows)} pictures were asked for; at most {MAX_PICTURES} untrusted images are shown at once")
        self.reads.unsealed.append(reason)
        return torch.stack([self.__rows(range(row, row + 1))[0] for row in rows])

    def __rows(self, rows: range, device: str = "cpu") -> UInt8[Tensor, "m c h w"]:
        first, last = rows.start - self.first_row, rows.stop - self.first_row
        if first < 0 or last > len(self):
            raise ValueError(
                f"rows {rows.start} to {rows.stop - 1} are not all among {self.first_row} to {self.first_row + len(self) - 1}"
            )
        return self.__copied(device)[0][first:last]

    def unsealed(self, reason: str, rows: Int64[Tensor, "m"] | None = None) -> Traced:
        """All images, or these rows in this order, without noise. The lineage records `reason`, and no smoothing certificate follows."""
        self.reads.unsealed.append(reason)
        images = self.__data.images if rows is None else self.__data.images[rows]
        return Traced(as_pixels(images), Lineage(unsealed=(reason,)))


def _checked_rows(trusted: Sequence[int], images: int) -> tuple[int, ...]:
    rows = tuple(sorted(int(row) for row in trusted))
    if rows and (rows[0] < 0 or rows[-1] >= images):
        bad = rows[0] if rows[0] < 0 else rows[-1]
        raise ValueError(f"trusted row {bad} does not exist; {images} images have rows 0 to {images - 1}")
    for row, following in pairwise(rows):
        if row == following:
            raise ValueError(f"trusted row {row} is given twice; name each trusted image once")
    if len(rows) == images:
        raise ValueError(
            f"all {images} images are trusted, so there is no attacker to certify against; leave out those that may have been "
            "altered, or train on them without a certificate"
        )
    return rows


@dataclass(frozen=True, eq=False)
class View:
    """What one member trains on, and what that was made from."""

    images: Images
    labels: Int64[Tensor, "n"]
    num_classes: int
    lineage: Lineage


# -------------------------------------------------------------------------------------------------- attacks and poisons

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Budget:
    """What the attacker may do: how many images, how far each. `epsilon` is in [0, 1] pixel units."""

    num_poisons: int
    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if self.num_poisons < 1:
            raise ValueError(f"num_poisons={self.num_poisons}; a budget allows at least 1 poison")
        if self.norm == "linf" and not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon={self.epsilon} is outside [0, 1] pixel units; for 16 of 255 levels give 16/255")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon={self.epsilon}; give a number of at least 0, in [0, 1] pixel units")


@dataclass(frozen=True, eq=False)
class Target:
    """A triggerless goal: one test image, its class, and the class the attacker wants for it."""

    image: UInt8[Tensor, "c h w"]
    true_label: int
    adversarial_label: int
    test_index: int


class BudgetExceeded(ValueError):
    """Poisons that break the budget they claim to keep."""


@dataclass(frozen=True, eq=False)
class Poison:
    """Replacements for some training rows. It has no labels: clean-label by construction."""

    indices: Int64[Tensor, "m"]
    images: UInt8[Tensor, "m c h w"]
    goal: Target
    budget: Budget

    def apply(self, train: ImageDataset) -> ImageDataset:
        """The training set with the poisons in place; every other row, and every label, is unchanged.

        Raises: BudgetExceeded if there are more poisons than the budget allows, indices repeat or are out of range, a base image
            is not of the adversarial class, or an 8-bit perturbation exceeds epsilon; ValueError if shapes disagree.
        """
        self.verify(train)
        images = train.images.clone()
        images[self.indices] = self.images
        return replace(train, images=images)

    def verify(self, train: ImageDataset) -> None:
        """Check the budget on the 8-bit images, exactly; raises as `apply` does."""
        m, budget = len(self.indices), self.budget
        if self.images.shape != (m, *train.image_shape):
            raise ValueError(f"poisons of shape {tuple(self.images.shape)} for {m} rows of a {train.image_shape} training set")
        if m > budget.num_poisons:
            raise BudgetExceeded(f"{m} poisons, but the budget allows {budget.num_poisons}")
        if m != len(torch.unique(self.indices)):
            raise BudgetExceeded(
                f"{m} poisons on {len(torch.unique(self.indices))} distinct rows; each base image may be used once"
            )
        if m and (int(self.indices.min()) < 0 or int(self.indices.max()) >= len(train)):
            raise BudgetExceeded(f"poison indices must lie in 0 to {len(train) - 1}")
        wrong = (train.labels[self.indices] != self.goal.adversarial_label).sum()
        if wrong:
            raise BudgetExceeded(f"{int(wrong)} base images are not of the adversarial class {self.goal.adversarial_label}")
        steps = (self.images.to(torch.int64) - train.images[self.indices].to(torch.int64)).flatten(1)
        if budget.norm == "linf":
            moved = steps.abs().amax(1).to(torch.float64) / 255
        else:
            moved = steps.square().sum(1).to(torch.float64).sqrt() / 255
        worst = float(moved.max()) if m else 0.0
        if worst > budget.epsilon * (1 + 1e-12):
            raise BudgetExceeded(
                f"a poison moved by {worst:.6f} in {budget.norm}, but epsilon is {budget.epsilon:.6f} ([0, 1] pixel units)"
            )


@runtime_checkable
class FeatureExtractor(Protocol):
    """A surrogate in eval mode that takes [0, 1] pixels (normalisation is inside it)."""

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """What the attacker works on: the clean training set, the goal, and the budget."""

    train: ImageDataset
    goal: Target
    budget: Budget


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker knows: surrogate models (one or several)."""

    surrogates: tuple[FeatureExtractor, ...]


Attack = Callable[[Task, Knowledge, Key], Poison]


# ------------------------------------------------------------------------------------------------------------- denoisers


@dataclass(frozen=True)
class DenoiserCard:
    """What a denoiser is and what it was made from.

    Attributes:
        name: as given by the user, or in the catalogue.
        kind: "network", "diffusers", "linear-mmse", "kernel" or "none".
        digest: SHA-256 of configuration and weights.
        image_shape: (c, h, w) it accepts; None for any.
        trained_on: digest of the data set it was fitted to; "" if unknown or none.
        training_images: content hashes of its training images, to report overlaps; None where they are unknown.
        details: anything else worth printing, JSON values only.
    """

    name: str
    kind: str
    digest: str
    image_shape: tuple[int, int, int] | None = None
    trained_on: str = ""
    training_images: frozenset[int] | None = None
    details: Json = field(default_factory=dict, compare=False, hash=False)


@runtime_checkable
class Denoiser(Protocol):
    """An estimate of the clean image from a noised one: one call, [0, 1] units, any noise level in its range."""

    sigma_min: float
    sigma_max: float
    card: DenoiserCard

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images: ...

    def conditioning(self, sigma: float) -> str:
        """What the network is told about the noise, for reports (a timestep, say)."""
        ...


# ------------------------------------------------------------------------------------------- members, ballots, certificates


@runtime_checkable
class Stack(Protocol):
    """Trained members. Calling it classifies: [0, 1] pixels (n, c, h, w) -> logits (members, n, classes).

    A member that diverged is marked in `failed`, (members,) bool. `member` is one of them alone: pixels -> logits (n, classes).
    """

    failed: Bool[Tensor, "members"]

    def __call__(self, images: Images) -> Float[Tensor, "members n classes"]: ...

    def member(self, index: int) -> Callable[[Images], Float[Tensor, "n classes"]]: ...


@runtime_checkable
class Trainer(Protocol):
    """How members learn. Many at once, so that small models can be trained as one stack.

    Votes must be independent given the data: a member may depend on its own view, its own key, and on `common`, the stream of
    coins fixed for *all* members of a run, and on nothing else (not on the others in its stack).
    """

    stack_size: int
    start: Start

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> Stack: ...

    def describe(self) -> Json:
        """Everything that decides a member's weights, for the configuration digest."""
        ...


@dataclass(frozen=True)
class Retrained:
    """One member trained again without the others of its stack: votes that differ show that something crosses the stack.

    Attributes:
        member: its number, drawn from the operating system after its votes were committed.
        votes: how many it cast.
        differing: how many of them came out otherwise, all of them if it diverged only once.
        exact: whether arithmetic on this device does not depend on the stack, so that none may differ.
    """

    member: int
    votes: int
    differing: int
    exact: bool


@dataclass(frozen=True)
class Provenance:
    """Facts about a run that decide what its ballots may prove, recorded before the first member trained.

    Attributes:
        data_digest: of the untrusted training set.
        root_source: who drew the root of all random streams: "operating system" after the data digest was recorded, or "given".
        denoiser_overlap: images of the untrusted set that the denoiser was trained on; None where its training set is unknown.
        mixture: which members were computed with which numerics, if not all with the same; assigned before any of them voted.
        scheme: the recorded description of the scheme that the ballots were cast for; None if none was recorded.
        retrained: the member that was trained again, alone; None if none was.
    """

    data_digest: str
    root_source: Literal["operating system", "given"]
    denoiser_overlap: int | None
    mixture: tuple[str, ...] = ()
    scheme: Json | None = None
    retrained: Retrained | None = None


@dataclass(frozen=True, eq=False)
class Ballots:
    """The raw evidence: what every member predicted for every test image.

    Attributes:
        votes: (members, n_test) predicted classes; row i is member i.
        failed: (members,) members that diverged: counted, voting for nobody.
        num_classes: votes are below it.
        lineages: the distinct lineages among the members.
        noise_ids: (members,) identity of each member's noise stream.
        provenance: facts about the run.
        ranks: each member's place for each class, 0 for its first choice, if the scheme asked for them (`KeepsRankings`).
    """

    votes: Integer[np.ndarray, "members n_test"]
    failed: Bool[np.ndarray, "members"]
    num_classes: int
    lineages: tuple[Lineage, ...]
    noise_ids: Int64[np.ndarray, "members"]
    provenance: Provenance
    ranks: UInt[np.ndarray, "members n_test classes"] | None = None

    def __len__(self) -> int:
        return len(self.votes)

    def counts(self, first: int, last: int) -> Int64[np.ndarray, "n_test classes"]:
        """Votes of members first..last-1 for each test image and class; failed members vote for nobody."""
        counts = np.zeros((self.num_classes, self.votes.shape[1]), dtype=np.int64)
        for start in range(first, min(last, len(self)), 255):  # so many that a count of them fits into a byte
            stop = min(start + 255, last)
            block = self.votes[start:stop]
            if self.failed[start:stop].any():
                block = block[~self.failed[start:stop]]
            for c in range(self.num_classes):
                counts[c] += (block == c).view(np.uint8).sum(axis=0, dtype=np.uint8)
        return np.ascontiguousarray(counts.T)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the defended classifier answers: classes, or ABSTAIN."""

    labels: Int64[np.ndarray, "n_test"]


Verdict = Literal["enforced", "assumed", "reported"]


@dataclass(frozen=True)
class Assumption:
    """One thing the proof needs, whether software enforced it or the reader must believe it, and the evidence."""

    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, eq=False)
class PartVotes:
    """What each part of a partitioned training set answers.

    Attributes:
        votes: (n_test, parts) certified votes, or ABSTAIN.
        radii: (n_test, parts) certified Frobenius radius of each vote within its part; 0 where it abstains.
        num_classes: votes are below it.
    """

    votes: Int64[np.ndarray, "n_test parts"]
    radii: Float64[np.ndarray, "n_test parts"]
    num_classes: int


@dataclass(frozen=True, eq=False)
class Certificate:
    """A proved statement for each test image.

    Attributes:
        labels: (n_test,) the certified class, or ABSTAIN.
        radii: (n_test,) no training set with ||D' - D||_F < radius changes the answer; 0 where it abstains. Rounded down.
        lower_bounds: (n_test,) lower bound on the probability of the certified class.
        top_counts: (n_test,) votes for the selected class among the n counted members.
        sigma, n0, n, failed: noise std, selecting members, counted members, counted members that failed.
        alpha: failure probability of the statement; `alpha_each` the level used for each test image.
        statement: whether alpha holds for each test image separately or for all together.
        claim: the statement in words.
        assumptions: what it rests on.
        bound: how probabilities were bounded, one of `certification.bounds.BOUNDS`.
        cap: the radius of a unanimous vote; no test image can have a larger one.
        trusted: training images that the attacker cannot have touched, by assumption.
        parts: the votes behind a plurality of parts, which say more than `radii`; then `n0`, `n`, `top_counts` (parts that agree) and
            `alpha_each` speak of parts, and `lower_bounds` are 0.
        sigma_x: noise std on the test image, [0, 1] pixel units. If positive, the answer also stays the same when the test image
            moves by t and the training set by T, as long as sqrt(T^2 / sigma^2 + t^2 / sigma_x^2) < radius / sigma.
    """

    labels: Int64[np.ndarray, "n_test"]
    radii: Float64[np.ndarray, "n_test"]
    lower_bounds: Float64[np.ndarray, "n_test"]
    top_counts: Int64[np.ndarray, "n_test"]
    sigma: float
    n0: int
    n: int
    failed: int
    alpha: float
    alpha_each: float
    statement: Literal["per test image", "simultaneous"]
    claim: str
    assumptions: tuple[Assumption, ...]
    bound: str
    cap: float
    trusted: int = 0
    sigma_x: float = 0.0
    parts: PartVotes | None = None


Unit = Literal[
    "samples inserted or removed",
    "images altered in place",
    "pixels altered in place",
    "labels flipped",
    "images altered in few features",
]
"""What one unit of a counted budget buys an attacker; `certification.budgets` says how units compare.

"samples inserted or removed" is the symmetric difference of two sets. "images altered in place" leaves number and order of the images
alone, but may change an image and its label in any way; "pixels altered in place" leaves all labels alone, too (clean-label).
"images altered in few features" changes some features of each such image.
"""


@dataclass(frozen=True, eq=False)
class CountCertificate:
    """A proved statement for each test image, counted in whole units of an attacker's budget.

    Attributes:
        labels: (n_test,) the certified class, or ABSTAIN.
        radii: (n_test,) units the attacker may spend without changing the answer, this number included; -1 where it abstains.
        unit: what one unit is.
        alpha: failure probability for each test image; 0 where nothing is estimated.
    """

    labels: Int64[np.ndarray, "n_test"]
    radii: Int64[np.ndarray, "n_test"]
    unit: Unit
    alpha: float = 0.0


@dataclass(frozen=True)
class Unproved:
    """No certificate follows, and why. The ballots may still be worth reporting as "empirical only"."""

    reasons: tuple[str, ...]


@runtime_checkable
class Scheme(Protocol):
    """How a defended classifier is made of members, and what their ballots prove."""

    @property
    def members(self) -> int: ...

    def view(self, data: Untrusted, member: int, key: Key) -> View: ...

    def aggregate(self, ballots: Ballots) -> Prediction: ...

    def certify(self, ballots: Ballots) -> Certificate | CountCertificate | Unproved: ...

    def describe(self) -> Json: ...


@runtime_checkable
class PreparesInputs(Protocol):
    """A scheme that changes test images before members see them; members of other schemes see them as they are.

    Attributes:
        inputs_per_member: whether every member has inputs of its own (noise); if not, `key` must not matter.
    """

    @property
    def inputs_per_member(self) -> bool: ...

    def inputs(self, images: Images, rows: range, key: Key) -> Images:
        """What the member with this key sees instead of `images`, which are `rows` (from a multiple of `ROW_BLOCK`)."""
        ...


@runtime_checkable
class KeepsRankings(Protocol):
    """A scheme may say that its certificate needs each member's ranking of the classes, not the first choice alone."""

    keeps_rankings: bool


@runtime_checkable
class TrainsInGroups(Protocol):
    """A trainer that gains nothing from more than `together` members at once: so many are viewed, trained and polled at a time."""

    together: int


# ---------------------------------------------------------------------------------------------------------------- progress


@runtime_checkable
class Progress(Protocol):
    """Where long work reports to; silent by default. `note` is a figure worth showing beside the bar."""

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None: ...

    def advance(self, by: int = 1, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...


class Silent:
    """Progress for tests and notebooks: says nothing."""

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        pass

    def advance(self, by: int = 1, note: str = "") -> None:
        pass

    def finish(self, note: str = "") -> None:
        pass
