"""Where the command starts: so small that Ctrl-C finds a handler from the first import on."""

BEFORE = "interrupted before anything was done; give the same command again"


def main() -> None:
    """The command line; see `cli.main`. Ctrl-C while it is still being imported is one line on stderr and status 130."""
    try:
        from certidote.cli import main as command_line
    except KeyboardInterrupt:
        import sys

        print(BEFORE, file=sys.stderr)
        sys.exit(130)
    command_line()
