"""The readings of untrusted pixels that serve people: what they give, and that a member who used them would lose the certificate."""

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.streams import ROW_BLOCK, Key, normal_block
from certidote.types import MAX_PICTURES, Lineage, Untrusted

DATA = tiny(ROW_BLOCK // 2 + 20, 2, (1, 8, 8), Key(0))


def test_a_block_of_a_set_is_noised_as_in_the_whole_set() -> None:
    rows = range(ROW_BLOCK, len(DATA))
    whole, part = Untrusted(DATA), Untrusted(DATA.subset(rows), first_row=ROW_BLOCK)
    assert torch.equal(whole.noised(0.3, Key(1), rows).images, part.noised(0.3, Key(1), rows).images)
    noise = part.noised(0.3, Key(1), rows).images - DATA.subset(rows).pixels()
    torch.testing.assert_close(noise, 0.3 * normal_block(Key(1), rows, (1, 8, 8)), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="rows 0 to 1023 are not all among 1024 to 1063"):
        part.noised(0.3, Key(1), range(ROW_BLOCK))


def test_movement_is_two_norms_of_the_difference() -> None:
    rows = range(ROW_BLOCK, len(DATA))
    made = DATA.images[rows.start :].clone()
    made[3, 0, 2, 2] ^= 128
    made[3, 0, 5, 5] ^= 128
    moved = Untrusted(DATA).movement(made, rows)
    expected = torch.zeros(len(rows), dtype=torch.float64)
    expected[3] = 128 / 255
    assert moved.linf == pytest.approx(expected.numpy())
    assert moved.l2 == pytest.approx((expected * 2**0.5).numpy())


@pytest.mark.parametrize("read", ["movement", "pictured"])
def test_in_a_member_s_view_they_would_void_the_certificate_and_elsewhere_they_do_not(read: str) -> None:
    data = Untrusted(DATA)
    member = data.watched(Key(0))

    def look(at: Untrusted) -> None:
        if read == "movement":
            at.movement(DATA.images[:5], range(5))
        else:
            assert torch.equal(at.pictured([4, 1], "to look at"), DATA.images[[4, 1]])

    look(data)
    assert member.reads.amend(Lineage(sigma=0.3, draws=1)).unsealed == ()
    assert data.watched(Key(0)).reads.unsealed == []
    look(member)
    assert len(member.reads.amend(Lineage(sigma=0.3, draws=1)).unsealed) == 1


def test_only_a_handful_of_images_is_shown() -> None:
    with pytest.raises(ValueError, match=f"{MAX_PICTURES + 1} pictures were asked for; at most {MAX_PICTURES}"):
        Untrusted(DATA).pictured(range(MAX_PICTURES + 1), "too many")


def test_draws_are_counted_for_each_image_also_where_only_some_are_read() -> None:
    member = Untrusted(DATA).watched(Key(0))
    some = member.restricted([5, 2, 9])
    some.noised(0.3, Key(0) / "a", range(3))
    assert member.reads.draws == {2: 1, 5: 1, 9: 1}, "by row numbers of the whole set"
    member.restricted([9, 11]).noised(0.3, Key(0) / "b", range(2))
    assert member.reads.draws == {2: 1, 5: 1, 9: 2, 11: 1}
    assert member.reads.amend(Lineage(sigma=0.3, draws=1)).draws == 2
    assert member.reads.noise_ids == [(Key(0) / "a").identity(), (Key(0) / "b").identity()]


def test_a_member_cannot_start_another_record_of_what_it_reads() -> None:
    member = Untrusted(DATA).watched(Key(0))
    for twin in (member, member.restricted([1, 2])):
        with pytest.raises(RuntimeError, match="is watched already"):
            twin.watched(Key(1))


def test_a_block_has_no_trusted_rows_and_every_image_is_there_once() -> None:
    part = DATA.subset(range(ROW_BLOCK, len(DATA)))
    with pytest.raises(ValueError, match="trusted rows go with a whole set, not with one block of it"):
        Untrusted(part, trusted=(0,), first_row=ROW_BLOCK)
    with pytest.raises(ValueError, match="a row is given twice, but every image has one noise draw"):
        Untrusted(DATA).restricted([3, 1, 3])
    with pytest.raises(ValueError, match="trusted row 3 is given twice"):
        Untrusted(DATA, trusted=(3, 1, 3))
