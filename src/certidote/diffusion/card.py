"""A denoiser's model card for people: what it is, what it was made from, and how it compares with closed forms."""

from certidote.types import Denoiser, Json

CLOSED_FORMS = {
    "linear-mmse": "linear-mmse is a closed form fitted to the same training images: it knows their mean and covariance.",
    "kernel": "kernel is a closed form over the training images themselves, at most 5,000 of them.",
    "wiener": "wiener is a closed form fitted to the same training images: it knows their mean and how pixels resemble each other at each "
    "distance, wherever they are; linear-mmse would know more.",
}


def closed_forms_in_words(validation: Json) -> list[str]:
    """What stands beside the network in a table of PSNRs, and what does not, and why; one sentence each."""
    return [
        *(sentence for name, sentence in CLOSED_FORMS.items() if name in validation["psnr"]),
        *(f"{name} is not in this table: {reason}." for name, reason in validation.get("omitted", {}).items()),
    ]


def card_text(denoiser: Denoiser) -> str:
    """The model card in Markdown."""
    card, details = denoiser.card, denoiser.card.details
    shape = "any" if card.image_shape is None else "x".join(map(str, card.image_shape))
    known = "unknown" if card.training_images is None else f"{len(card.training_images)} distinct images"
    lines = [
        f"# Denoiser {card.name}",
        "",
        f"- kind: {card.kind}",
        f"- images: {shape} (channels x height x width), pixels in [0, 1]",
        f"- noise: sigma {denoiser.sigma_min:g} to {denoiser.sigma_max:g}, [0, 1] pixel units",
        f"- trained on: {details['data'] + ', ' if 'data' in details else ''}{known}, data digest {card.trained_on or 'unknown'}",
        f"- digest of configuration and weights: {card.digest}",
    ]
    recipe = details.get("recipe")
    if recipe:
        lines.append(f"- training: {recipe['steps']} steps of {recipe['batch']} images, in {details.get('trained_in', 'float32')}")
    lines += [
        "",
        "Whoever trained it asserts that nobody who could alter the images to be purified influenced its training images.",
    ]
    validation = details.get("validation")
    if validation:
        lines += _table(f"{validation['images']} held-out images", validation)
        lines += ["", *closed_forms_in_words(validation)]
    compared = details.get("compared")
    if compared:
        lines += _table(f"{compared['images']} images of {compared['data']}", compared)
        lines += ["", "The mean over images. Widths of blur and median are the best for each sigma on other images."]
    return "\n".join(lines) + "\n"


def _table(images: str, measured: Json) -> list[str]:
    names = list(measured["psnr"])
    lines = ["", f"## PSNR on {images}, dB (higher is better)", ""]
    lines += [f"| sigma | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row, sigma in enumerate(measured["sigmas"]):
        cells = [f"{values[row]:.2f}" if values[row] is not None else "-" for values in measured["psnr"].values()]
        lines.append(f"| {sigma:g} | {' | '.join(cells)} |")
    return lines
