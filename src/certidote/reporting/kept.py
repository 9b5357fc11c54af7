"""The form of a run's pictures.json. The file may have been edited or damaged, and a report is complete without it."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from certidote.reporting.figures import checked_png
from certidote.types import Json


def _png_or_nothing(text: str) -> str:
    if text:
        checked_png(text)
    return text


def _class_and_votes(pair: list[str | int]) -> list[str | int]:
    if [type(each) for each in pair] != [str, int]:
        raise ValueError("give a class name and its votes")
    return pair


Png = Annotated[str, AfterValidator(_png_or_nothing)]


class Form(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class ExampleForm(Form):
    """A test image with its votes; `png` is "" and `name` None where images were left out."""

    test_image: int
    name: str | None = None
    kind: str
    true: str
    label: str | None
    radius: float | None
    top: list[Annotated[list[str | int], AfterValidator(_class_and_votes)]]
    png: Png


class RowForm(Form):
    """Pictures side by side."""

    label: str
    pngs: list[Png]


class PictureForm(Form):
    """Training images, one row for each stage."""

    title: str
    rows: list[RowForm]
    captions: list[str] = []


class KeptForm(Form):
    """All that a run keeps for the pictures of its report."""

    examples: list[ExampleForm]
    gallery: list[PictureForm]


def kept_pictures(value: object) -> Json | None:
    """The examples and the gallery of a pictures.json, as `html.render` takes them; None if anything in them cannot be shown."""
    try:
        KeptForm.model_validate(value)
    except ValidationError:
        return None
    assert isinstance(value, dict)
    return {"examples": value["examples"], "gallery": value["gallery"]}


def holds_images(pictures: Json) -> bool:
    """Whether there is an image or the name of one among them, and not only votes."""
    return bool(pictures["gallery"]) or any(each["png"] or each.get("name") for each in pictures["examples"])
