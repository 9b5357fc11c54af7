"""Every name that code looks up exists: linters cannot tell undefined names from the dimensions in annotations of array shapes."""

import builtins
import dis
import importlib
import pkgutil
from collections.abc import Iterator
from types import CodeType

import pytest

import certidote

MODULES = sorted(
    info.name for info in pkgutil.walk_packages(certidote.__path__, "certidote.") if not info.name.endswith("__main__")
)


def looked_up(code: CodeType) -> Iterator[str]:
    """Global names that the functions of some code ask for, those nested in it too."""
    yield from (str(each.argval) for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from looked_up(constant)


def undefined(source: str, known: set[str]) -> set[str]:
    return {name for name in looked_up(compile(source, "module", "exec")) if name not in known and not hasattr(builtins, name)}


@pytest.mark.parametrize("name", MODULES)
def test_functions_ask_for_names_that_their_module_has(name: str) -> None:
    module = importlib.import_module(name)
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    source = spec.loader.get_source(name)  # type: ignore[attr-defined]
    assert undefined(source, set(vars(module))) == set()


def test_a_missing_import_is_found() -> None:
    assert undefined("def f(x: 'n'):\n    return [later(y) for y in x]\n", set()) == {"later"}
    assert undefined("def later(x): return x\ndef f(x):\n    return later(x)\n", {"later", "f"}) == set()
