"""The command line as a user runs it, in this process."""

import sys

import pytest

from certidote import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `certidote ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["certidote", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
