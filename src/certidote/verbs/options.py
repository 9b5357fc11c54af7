"""The options that several verbs share: one spelling, one help text and one default each."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Argument(
        help="digits, digits:SPLIT, a folder with one sub-folder per class, a .zip or .tar(.gz, .xz) of one, an .npz or .parquet file, "
        "or CIFAR-10 as released; DATA#10000 takes so many images of it"
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
        "(closed forms over images you trust), or auto (by image shape); NAME@5 calls it five times, from sigma down"
    ),
]
Selecting = Annotated[
    int, typer.Option(help="models that select the answers, on top of n; 0: the counted ones do, at a stricter level")
]
Alpha = Annotated[float, typer.Option(help="failure probability of the statement")]
Simultaneous = Annotated[bool, typer.Option(help="one statement about the whole test set (Bonferroni)")]
Parts = Annotated[
    int,
    typer.Option(help="cut the training set into this many parts, each with n0 + n models of its own, and let the parts vote"),
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
RecipeName = Annotated[
    str,
    typer.Option(
        help="mlp, cnn, compact, ..., a .toml file, or auto (mlp for tiny images, compact for color from 16x16 on, else cnn)"
    ),
]
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
Device = Annotated[str, typer.Option(help="cpu or cuda (which GPUs: CUDA_VISIBLE_DEVICES)")]
Force = Annotated[bool, typer.Option(help="replace an earlier result in the output directory")]
Engine = Annotated[str, typer.Option(help="where models train: local (processes on this machine) or ray (a Ray cluster)")]
Address = Annotated[
    str, typer.Option(help="Ray cluster: auto (the one this machine is in), local (start one here) or ray://HOST:PORT")
]
GpusPerTask = Annotated[float, typer.Option(help="share of a GPU for each Ray task with --device cuda")]
Timeout = Annotated[
    float | None, typer.Option(help="seconds one block of models may take before its worker is replaced; default: no limit")
]
Members = Annotated[str, typer.Option(help="work on these members only, FIRST:LAST+1 such as 0:550; recorded before they train")]
Prepare = Annotated[
    bool, typer.Option(help="record configuration and root, train nothing; copy OUT to machines that share the run")
]
UntilOption = Annotated[
    str, typer.Option(help="stop earlier: a time (30m, 12h), a number of models in all (500), or decided (needs --bound anytime)")
]
