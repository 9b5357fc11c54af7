"""The options that several verbs share: one spelling, one help text and one default each."""

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
RecipeName = Annotated[str, typer.Option(help="mlp, cnn, a .toml file, or auto (mlp for tiny images, cnn otherwise)")]
OwnModel = Annotated[
    str,
    typer.Option(
        "--model",
        help="your own architecture, package.module:factory: (image_shape, num_classes) -> torch.nn.Module that takes [0, 1] pixels and "
        "gives logits; imported from this folder or an installed package",
    ),
]
PretrainedTrusted = Annotated[
    bool, typer.Option(help="you vouch that weights which --model loads come from data no attacker could touch")
]
OwnTransform = Annotated[
    str,
    typer.Option(
        "--test-transform",
        help="your own function package.module:function, applied to each test image: one uint8 (c, h, w) tensor to another",
    ),
]
Seed = Annotated[int | None, typer.Option(help="root of all random streams, for a reproduction; default: the operating system's")]
Dtype = Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Force = Annotated[bool, typer.Option(help="replace an earlier result in the output directory")]
