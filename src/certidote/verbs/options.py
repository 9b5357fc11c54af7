"""The options that several verbs share: one spelling, one help text and one default each."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Argument(help="digits, digits:SPLIT, an .npz file, or a folder with one sub-folder per class")]
Sigma = Annotated[float, typer.Option(help="noise std, [0, 1] pixel units")]
DenoiserName = Annotated[
    str,
    typer.Option(
        help="a name from 'certidote denoiser list', a directory, none (noise only), linear-mmse:TRUSTED or kernel:TRUSTED "
        "(closed forms over images you trust), or auto (by image shape)"
    ),
]
BoundName = Annotated[
    str,
    typer.Option(
        help="clopper-pearson; multi-class (also bounds the strongest rival); or anytime (valid at every number of models, so that a "
        "run may be looked at and stopped)"
    ),
]
TestInputName = Annotated[str, typer.Option(help="what models see of a test image: clean, denoised or noised-denoised")]
SigmaX = Annotated[
    float | None,
    typer.Option(
        help="noise std on test images, one draw for each model: the certificate then covers changed test images too; "
        "default: sigma with noised-denoised, else none"
    ),
]
Trusted = Annotated[
    Path | None,
    typer.Option(
        help="text file naming the images of DATA that nobody can have altered, one path or row number a line: no noise on them"
    ),
]
RecipeName = Annotated[str, typer.Option(help="mlp, cnn, a .toml file, or auto (mlp for tiny images, cnn otherwise)")]
Seed = Annotated[int | None, typer.Option(help="root of all random streams, for a reproduction; default: the operating system's")]
Dtype = Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Force = Annotated[bool, typer.Option(help="replace an earlier result in the output directory")]
