"""The folder listing is the data flow: a module imports only from those above it, and pixels are unsealed in few places."""

import ast
from pathlib import Path

import certidote

PACKAGE = Path(certidote.__file__).parent
LAYERS = (
    "entry streams numerics types steps graphed adam muon ascent data attacks diffusion training certification defenses engine scenarios results "
    "reporting progress "
    "verbs story benchmark cli"
).split()
LATER_ON_PURPOSE = {
    ("verbs", "story"),
    ("verbs", "benchmark"),
    ("entry", "cli"),
}  # the verbs demo and bench start what calls the other verbs; the command


def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer != "__init__":
            found.append((layer, ast.parse(path.read_text(encoding="utf-8"))))
    return found


def test_every_module_has_a_place() -> None:
    assert {layer for layer, _ in modules()} == set(LAYERS)


def test_imports_go_upwards_only() -> None:
    wrong = []
    checked = 0
    for layer, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "certidote":
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                for name in names:
                    checked += 1
                    if name in LAYERS and LAYERS.index(name) > LAYERS.index(layer) and (layer, name) not in LATER_ON_PURPOSE:
                        wrong.append(f"{layer} imports {name}")
    assert checked > 100
    assert not wrong


def test_untrusted_pixels_are_read_in_few_places() -> None:
    calls: dict[str, set[str]] = {
        "noised": set(),
        "unsealed": set(),
        "movement": set(),
        "pictured": set(),
        "_Untrusted__data": set(),
        "_Untrusted__copied": set(),
        "_Untrusted__on": set(),
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in calls:
                calls[node.attr].add(str(path.relative_to(PACKAGE)))
    assert calls["noised"] == {"defenses/sanitize.py", "defenses/inputs.py"}  # training images; test images
    assert not calls["_Untrusted__data"] | calls["_Untrusted__copied"] | calls["_Untrusted__on"]
    assert calls["unsealed"] == {
        "defenses/plain.py",
        "defenses/private_vote.py",
        "defenses/parts.py",
        "defenses/bagging.py",
        "scenarios/victims.py",
        "types/lineage.py",
        "types/untrusted.py",
        "certification/lineage.py",
    }
    assert records_of_reads_set() == {"types/untrusted.py", "scenarios/shared_draws.py"}  # watched twins; trials that prove nothing
    assert calls["movement"] == {"defenses/blockwise.py"}  # norms only, after sanitizing
    assert calls["pictured"] == {"results/pictures.py"}  # for people, after the last vote or after sanitizing


def records_of_reads_set() -> set[str]:
    """Files that give a data set another record of what is read of it."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "reads" and isinstance(node.ctx, ast.Store):
                found.add(str(path.relative_to(PACKAGE)))
    return found
