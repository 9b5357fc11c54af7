"""Names from strangers (files, members of archives, captions), made fit for screens, tables and file systems."""

FORMULA = ("=", "+", "-", "@")
"""With these a spreadsheet takes a cell for a formula."""


def escaped(name: str) -> str:
    """The name with every character that cannot be printed written as a backslash escape.

    That is control characters, which can rewrite a terminal, invisible ones, and bytes that are no UTF-8 (Python's surrogates, which
    no file in UTF-8 can hold). Two names may become one.
    """
    return name if name.isprintable() else "".join(each if each.isprintable() else _escape(each) for each in name)


def portable(name: str) -> str:
    """The name with "_" for every character that cannot be printed and for the backslash: for files that are written here."""
    return "".join(each if each.isprintable() and each != "\\" else "_" for each in name)


def as_cell(name: str) -> str:
    """The name as a cell of a table: escaped, and with an apostrophe before what a spreadsheet would take for a formula."""
    shown = escaped(name)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
