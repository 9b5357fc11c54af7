"""Which members this run works on, and with which numerics: recorded before the first of them trains.

Two machines may round differently, and then give one member different votes. Which numerics a member gets must not depend on
anybody's votes, so it is written down beforehand: a run has one part, all its members on one kind of machine, unless `--members`
assigned it a range. Merged ledgers have the parts of both, and the certificate names the mixture.
"""

from certidote.engine.jobs import Job, plan
from certidote.engine.ledger import Ledger, Part
from certidote.types import Json


def assign(ledger: Ledger, asked: range | None, members: int, numerics: Json) -> list[range]:
    """Record the parts of a run, or check that this one fits what is recorded.

    Args:
        asked: member numbers that this run was told to work on; None for all.
        members: of the whole certificate.
        numerics: of this run's workers.
    Returns: the ranges of members that belong to this ledger, committed or not, in order.
    Raises: ValueError if the range is not one of this certificate, differs from the recorded one, or a member that is still to be
        worked on was assigned to other numerics.
    """
    wanted = range(members) if asked is None else asked
    check_members(wanted, members)
    parts = ledger.parts()
    if len(parts) == 1 and (parts[0].first, parts[0].last) != (wanted.start, wanted.stop):
        recorded = f"{parts[0].first}:{parts[0].last}"
        raise ValueError(
            f"{ledger.path.parent} was assigned members {recorded}, but this command asks for {span(wanted)}; give --members "
            f"{recorded} to go on, or merge it with the ledgers that have the others"
        )
    free = [Part(job.first, job.last, numerics) for job in plan(wanted, members, [Job(part.first, part.last) for part in parts])]
    for part in free:
        if any(part.numerics != numerics for part in parts):
            raise ValueError(
                f"members {part.first} to {part.last - 1} were not assigned to a machine before the others voted, and this ledger mixes "
                "numerics; merge the ledger that they were assigned to"
            )
    committed = ledger.jobs()
    for part in parts:
        missing = next(plan(range(part.first, part.last), members, committed), None)
        if missing is not None and part.numerics != numerics:
            name = next(name for name in sorted({*part.numerics, *numerics}) if part.numerics.get(name) != numerics.get(name))
            raise ValueError(
                f"{ledger.path.parent} computes {part.first}:{part.last} with {name} {part.numerics.get(name)}, but the workers here have "
                f"{name} {numerics.get(name)}, and may round differently; go on where the run was started, or start another run"
            )
    if free:
        ledger.add_parts(free)
    return [range(part.first, part.last) for part in ledger.parts()]


def check_members(asked: range | None, members: int) -> None:
    """Raises ValueError unless the range is one of a certificate of so many members; None is all of them."""
    if asked is not None and not 0 <= asked.start < asked.stop <= members:
        raise ValueError(
            f"members {span(asked)} is no range within the {members} members of this certificate (n0 select, n are counted); give a part "
            f"of 0:{members}"
        )


def span(members: range) -> str:
    return f"{members.start}:{members.stop}"


def parse_members(text: str) -> range | None:
    """ "0:550" -> range(0, 550); "" -> None (all). Raises ValueError for anything else."""
    if not text:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ValueError(f"members {text!r}; give the first number and the one after the last, such as 0:550")
    return range(int(first), int(last))
