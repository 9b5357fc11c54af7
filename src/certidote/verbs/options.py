"""The options that several verbs share: one spelling, one help text and one default each."""

from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Argument(
        help="digits, digits:SPLIT, a folder with one sub-folder per class, a .zip or .tar(.gz, .xz) of one, an .npz or .parquet file, "
        "or CIFAR-10 as released"
    ),
]
Size = Annotated[
    str, typer.Option(help="resize images to N or HxW pixels (shorter side fitted, center crop); default: as they are")
]
SkipCorrupt = Annotated[bool, typer.Option(help="leave out image files that cannot be decoded, and say how many")]
Sigma = Annotated[float, typer.Option(help="noise std, [0, 1] pixel units")]
DenoiserName = Annotated[
    str,
    typer.Option(
        help="a name from 'certidote denoiser list', a directory, none (noise only), linear-mmse:TRUSTED or kernel:TRUSTED "
        "(closed forms over images you trust), or auto (by image shape)"
    ),
]
RecipeName = Annotated[str, typer.Option(help="mlp, cnn, a .toml file, or auto (mlp for tiny images, cnn otherwise)")]
Seed = Annotated[int | None, typer.Option(help="root of all random streams, for a reproduction; default: the operating system's")]
Dtype = Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Force = Annotated[bool, typer.Option(help="replace an earlier result in the output directory")]
