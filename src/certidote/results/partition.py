"""What a certificate of partitioned smoothing says beyond a radius: how many images, and the paper's sum of norms."""

import numpy as np
from jaxtyping import Int64

from certidote.certification.partition import altered_images, part_sizes, replaced_images, sum_radius
from certidote.types import Certificate, ImageDataset, Json, PartVotes


def altered_counts(parts: PartVotes, image_norm: float, untrusted: int) -> Int64[np.ndarray, "n_test"]:
    """The most untrusted images that may each move by `image_norm` in l2; -1 where nothing is certified."""
    sizes = part_sizes(untrusted, parts.votes.shape[1])
    return altered_images(parts.votes, parts.radii, sizes, parts.num_classes, image_norm)


def partition_results(certificate: Certificate, labels: Int64[np.ndarray, "n_test"], train: ImageDataset) -> Json:
    """One block of results: the parts, and two threats that a radius does not speak of.

    Returns: "partition" with the number of parts and their smallest size; for the sum of the images' l2 norms the median and largest
        radius; for images replaced altogether, labels included, the median and largest number that answers survive, and
        certified accuracy at each number. Answers that are wrong or abstain survive nothing.
    """
    parts = certificate.parts
    assert parts is not None
    sizes = part_sizes(len(train) - certificate.trusted, parts.votes.shape[1])
    correct = certificate.labels == labels
    summed = np.where(correct, sum_radius(parts.votes, parts.radii, parts.num_classes), 0.0)
    replaced = np.where(correct, np.maximum(replaced_images(parts.votes, parts.radii, sizes, parts.num_classes), 0), 0)
    return {
        "partition": {
            "parts": len(sizes),
            "images_in_a_part": int(sizes.min()) + certificate.trusted,
            "abstaining_parts": float((parts.radii == 0).mean()),
            "sum_of_norms": {"median": float(np.median(summed)), "max": float(summed.max())},
            "replaced_images": {
                "median_k": int(np.median(replaced)),
                "max_k": int(replaced.max()),
                "certified_accuracy_at_k": [[k, float((replaced >= k).mean())] for k in range(1, int(replaced.max()) + 1)],
            },
        }
    }
