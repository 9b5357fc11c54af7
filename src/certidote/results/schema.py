"""The form of a certificate.json, version 1, as pydantic models: `docs/certificate.schema.json` is printed from them.

`python -m certidote.results.schema > docs/certificate.schema.json` prints it again. Fields beyond these are allowed, so that a reader
of version 1 can read later records of version 1.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from certidote.types import Json

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, 64 hex digits")]
Share = Annotated[float, Field(ge=0, le=1)]
Radius = Annotated[
    float, Field(ge=0, description="l2 norm over all pixels of all training images, [0, 1] pixel units; rounded down")
]
Count = Annotated[int, Field(ge=0)]


class Form(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class AssumptionForm(Form):
    """One thing the proof needs."""

    text: str
    verdict: Literal["enforced", "assumed", "reported"]
    evidence: str


class DataForm(Form):
    """A data set: `digest` is over shape, class names, labels and pixels."""

    name: str
    images: Annotated[int, Field(ge=1)]
    image_shape: Annotated[list[int], Field(min_length=3, max_length=3, description="channels, height, width")]
    classes: Annotated[list[str], Field(min_length=2)]
    digest: Digest


class DenoiserForm(Form):
    """The denoiser's card; `trained_on` is the digest of the data it was fitted to, empty where that is unknown or none."""

    name: str
    kind: str
    digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", description="SHA-256 of configuration and weights")]
    trained_on: str
    details: dict[str, Any]


class CodeForm(Form):
    """Digest of the package's sources that can decide a vote or a proof, and versions of the arithmetic below them."""

    certidote: Digest
    torch: str
    numpy: str


class ThreatForm(Form):
    """An attacker who alters each of k training images by at most `epsilon`."""

    norm: Literal["linf", "l2"]
    epsilon: Annotated[float, Field(gt=0, description="[0, 1] pixel units")]
    epsilon_255: int | None
    per_image_norm: Annotated[float, Field(gt=0)]
    median_k: Annotated[int, Field(ge=0, description="k_max of the median test image; 0 where it is wrong or abstains")]
    max_k: Count
    certified_accuracy_at_k: list[Annotated[list[float], Field(min_length=2, max_length=2)]]


class ResultsForm(Form):
    """Shares of test images. `certified_accuracy` lists [radius, CA(radius)] wherever the curve drops."""

    vote_accuracy: Share
    member_accuracy: Share
    abstained: Count
    certified_accuracy: list[Annotated[list[float], Field(min_length=2, max_length=2)]]
    average_radius: Radius | None
    median_radius: Radius | None
    cap: Annotated[float | None, Field(ge=0, description="the radius of a unanimous vote")]
    threats: list[ThreatForm]


class ImagesForm(Form):
    """One entry for each test image, in order; label -1 abstains. Lists other than true and label are empty without a proof.

    Columns named k_max_NORM_EPSILON say how many training images may each move by epsilon; -1 where nothing is certified.
    """

    true: list[Count]
    label: list[Annotated[int, Field(ge=-1)]]
    radius: list[Radius]
    lower_bound: list[Share]
    top_count: list[Count]


class CertificateForm(Form):
    """What one run proves, under which assumptions, or why it proves nothing."""

    format: Literal["certidote certificate"]
    version: Literal[1]
    label: str
    proved: bool
    reasons: Annotated[list[str], Field(description="why nothing is proved; empty where something is")]
    claim: Annotated[str, Field(description="the claim in words")]
    statement: Annotated[
        Literal["per test image", "simultaneous"] | None, Field(description="what alpha is about; null where nothing is proved")
    ]
    bound: Annotated[
        Literal["clopper-pearson", "multi-class", "anytime"], Field(description="on vote shares; the claim says it in words")
    ]
    test_input: Literal["clean", "denoised", "noised-denoised"]
    sigma_x: Annotated[float, Field(ge=0, description="noise std on test images, [0, 1] pixel units; 0 for none")]
    unit: Annotated[str, Field(description="of all radii")]
    alpha: Annotated[float | None, Field(gt=0, lt=0.5, description="failure probability; null where nothing is proved")]
    alpha_each: Annotated[float | None, Field(gt=0, lt=0.5, description="used for each test image; null where nothing is proved")]
    sigma: Annotated[float, Field(gt=0, description="noise std, exactly as added, [0, 1] pixel units")]
    sigma_symmetric: Annotated[float, Field(gt=0, description="the same on [-1, 1]: twice sigma")]
    conditioning: Annotated[str, Field(description="what the denoiser was told about the noise: its t, or the levels of its steps")]
    n0: Annotated[int, Field(ge=0, description="members that select the answer; 0 where the counted ones do")]
    n: Annotated[int, Field(ge=1, description="members whose votes are counted, failed ones included")]
    failed: Count
    trusted: Annotated[int, Field(ge=0, description="training images outside the threat model, used without noise")] = 0
    trusted_rows_digest: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}$", description='SHA-256 of {"rows":[...]}, ascending; there if any image is trusted')
    ] = ""
    assumptions: list[AssumptionForm]
    data: DataForm
    test: DataForm
    denoiser: DenoiserForm
    code: CodeForm
    recipe: dict[str, Any]
    config_digest: Digest
    votes_digest: Digest
    root: Annotated[str, Field(pattern=r"^0x[0-9a-f]+$", description="of all random streams")]
    root_source: Literal["operating system", "given"]
    command: str
    versions: dict[str, str]
    device: str
    dtype: Literal["float32", "bfloat16"]
    seconds: Annotated[float, Field(ge=0, description="of workers, summed")]
    seconds_denoising: Annotated[float, Field(ge=0)]
    workers: Count
    results: ResultsForm
    per_image: ImagesForm


def check_form(record: Json) -> str | None:
    """The first way in which a value is no certificate of version 1, in words; None if it is one."""
    try:
        CertificateForm.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}"
    for name in ("statement", "alpha", "alpha_each"):
        if record["proved"] and record[name] is None:
            return f"{name}: null, although the record says that something is proved"
    lengths = {name: len(values) for name, values in record["per_image"].items() if values}
    if set(lengths.values()) != {record["test"]["images"]}:
        return f"per_image: {record['test']['images']} test images, but columns of {sorted(set(lengths.values()))} entries"
    return None


def json_schema() -> Json:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CertificateForm.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
