"""What a smoothing certificate states, in words."""

from certidote.certification.bounds import Bound

BOUND_NAMES: dict[Bound, str] = {
    "clopper-pearson": "Clopper-Pearson, number of models fixed beforehand",
    "multi-class": "Clopper-Pearson for the answer and for its strongest rival, number of models fixed beforehand",
    "anytime": "anytime-valid, so that stopping at any number of models was allowed",
}


def chance(alpha: float, simultaneous: bool, total: int) -> str:
    """What alpha is the failure probability of."""
    text = f"with probability at least 1 - {alpha!r} over the noise"
    return f"{text}, for all {total} test images together" if simultaneous else f"for each test image separately, {text}"


def changes(trusted: int, sigma_x: float) -> str:
    """Which changes the radius is about."""
    pixels = f"training pixels outside the {trusted} trusted images" if trusted else "training pixels"
    if sigma_x:
        return (
            f"no change of {pixels} and of the test image can change the answer of the smoothed classifier as long as "
            f"sqrt(T^2 / sigma^2 + t^2 / sigma_x^2) < radius / sigma, where T is the Euclidean norm of the change over the whole "
            f"training set, t that of the test image, sigma the noise on training pixels and sigma_x={sigma_x:g} that on the test image"
        )
    return (
        f"no change of {pixels} whose Euclidean norm over the whole training set is below the image's radius can change the answer of "
        "the smoothed classifier"
    )


def noise(sigma: float, trusted: int, sigma_x: float) -> str:
    """What the smoothed classifier is."""
    where = "every untrusted training pixel" if trusted else "every training pixel"
    also = f" and std {sigma_x:g} on every pixel of the test image" if sigma_x else ""
    return f"(the most likely vote under Gaussian noise of std {sigma:g} on {where}{also}, [0, 1] pixel units)"


def bound_used(bound: Bound, n0: int, n: int) -> str:
    """How the probabilities were bounded."""
    answer = f"the answer comes from {n0} other models" if n0 else "the answer comes from the counted votes, at a stricter level"
    return f"Bound: {BOUND_NAMES[bound]}; {n} votes are counted, {answer}."
