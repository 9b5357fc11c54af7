"""Data that somebody else may have altered, what members get of it, and the record of how they got it.

Labels are open; pixels can only be had through `noised` (which adds Gaussian noise) or `unsealed` (which leaves a mark in the lineage
that no certificate survives). Two more readings serve people, not training, and leave the same mark: `movement` (norms only) and
`pictured` (a handful of images to look at).
"""

import copy
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.numerics import sent
from certidote.streams import Key, normal_block
from certidote.types.datasets import ImageDataset, as_pixels, content_hashes, short_hashes
from certidote.types.lineage import InputReads, Lineage, Movement, Reads, Traced
from certidote.types.values import Images

MAX_PICTURES = 64
"""Untrusted images that may be shown to people at once."""

BUCKETS = "the bucket of each image, by a hash of its pixels"
"""The mark that `Untrusted.buckets` leaves."""


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
        self.__on: dict[torch.device, tuple[Tensor, Tensor]] = {}
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
        where = torch.device(device)
        if where.type == "cpu":
            return self.__data.images, self.labels
        if where not in self.__on:
            self.__on[where] = self.__data.images.to(where), self.labels.to(where)
        return self.__on[where]

    def __copy__(self) -> "Untrusted":
        twin = object.__new__(Untrusted)
        twin.__dict__.update(self.__dict__)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_Untrusted__on": {}}  # copies stay on their device

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
            places = sent(torch.tensor(exempt), device)
            images[places] = clean[places]
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
        """How many of the images have one of these short hashes. For reports; a member that asks leaves a mark."""
        self._content_told("how many images are among known ones")
        return sum(value in hashes for value in short_hashes(self.__data.images))

    def buckets(self, count: int) -> Int64[np.ndarray, "n"]:
        """The bucket of each image: a hash of its stored pixels modulo `count`, whatever its label, its place and the other images are.

        A function of un-noised pixels: a member that asks for it leaves the mark `BUCKETS`.
        """
        self._content_told(BUCKETS)
        return np.array(content_hashes(self.__data.images), dtype=np.int64) % count

    def replaced(self, rows: Int64[Tensor, "m"], images: UInt8[Tensor, "k c h w"]) -> "Untrusted":
        """The set with other images in these rows, as an attacker leaves it. What is read of it goes into the record of the whole.

        A member that asks for it leaves a mark: known images under its noise would tell the noise, and with it the pixels.

        Raises: ValueError if shapes disagree, a row does not exist, or it is trusted.
        """
        if len(images) != len(rows) or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"{tuple(images.shape)} images for {len(rows)} rows of {self.image_shape} images; give one for each row"
            )
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows to replace must lie in 0 to {len(self) - 1}")
        if touched := sorted(set(rows.tolist()) & set(self.trusted)):
            raise ValueError(f"row {touched[0]} is trusted, so no attacker can have replaced it; leave it alone")
        self._content_told("known images put in the place of its own")
        twin = copy.copy(self)
        twin.__on = {}
        changed = self.__data.images.clone()
        changed[rows] = images
        twin.__data = replace(self.__data, images=changed)
        twin.__digest = twin.__data.digest()
        return twin

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
        self.reads.open_rows.append(self.__ids if rows is None else self.__ids[rows.numpy()])
        images = self.__data.images if rows is None else self.__data.images[rows]
        return Traced(as_pixels(images), Lineage(unsealed=(reason,)))


class SealedInputs:
    """Consecutive test images that an attacker may have sent, for one member: their pixels can be had with noise only.

    Args:
        images: (n, c, h, w), [0, 1] pixels of `rows`.
        rows: of the test set, from a multiple of `ROW_BLOCK`.
        member: the member's key.
        reads: where everything is recorded that the member is shown.
    """

    def __init__(self, images: Images, rows: range, member: Key, reads: InputReads) -> None:
        self.__images, self.__member, self.__reads = images, member, reads
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def noised(self, sigma_x: float, key: Key, rows: range, device: str = "cpu") -> Images:
        """One block of test images plus N(0, sigma_x^2) noise, not clipped.

        Args:
            sigma_x: noise std, [0, 1] pixel units, > 0.
            key: the member's stream for test noise, below the member's own key and not that of its training noise.
            rows: an aligned block of `self.rows`.
            device: where the noise is drawn and added.
        Raises: ValueError for a sigma_x that adds no noise, or rows that are not there or not one aligned block.
        """
        if not sigma_x > 0:
            raise ValueError(f"sigma_x={sigma_x} adds no noise; give sigma_x > 0 ([0, 1] pixel units)")
        first, last = rows.start - self.rows.start, rows.stop - self.rows.start
        if first < 0 or last > len(self):
            raise ValueError(
                f"test images {rows.start} to {rows.stop - 1} are not all among {self.rows.start} to {self.rows.stop - 1}"
            )
        clean = self.__images[first:last].to(device)
        noisy = normal_block(key, rows, tuple(clean.shape[1:]), device).mul_(sigma_x).add_(clean)
        self.__reads.sigmas.append(sigma_x)
        self.__reads.streams.add(key.identity())
        self.__reads.draws.update(rows)
        self.__reads.own_noise &= key.under(self.__member)
        return noisy

    def unsealed(self) -> Images:
        """All of these images without noise. That is on record, and no certificate about changes of the test image follows."""
        self.__reads.sigmas.append(0.0)
        return self.__images


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
