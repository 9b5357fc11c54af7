"""Named streams: the same name gives the same numbers, different names different ones, and chunking changes nothing."""

import numpy as np
import pytest
import torch

from certidote.streams import ROW_BLOCK, Key, fresh_root, normal_block, row_blocks, torch_seeded


def test_a_stream_depends_on_its_path_alone() -> None:
    key = Key(7) / "members" / 3
    assert np.array_equal(key.numpy().random(5), (Key(7) / "members" / np.int64(3)).numpy().random(5))
    streams = [Key(7), Key(8), Key(7) / "a", Key(7) / "a" / "b", Key(7) / "ab", Key(7) / 1, Key(7) / "1", Key(7 + 2**64)]
    first = {float(stream.numpy().random()) for stream in streams}
    assert len(first) == len(streams)
    assert len({stream.identity() for stream in streams}) == len(streams)


def test_roots_beyond_32_bits_differ() -> None:
    assert (Key(5) / "x").entropy() != (Key(5 + 2**32) / "x").entropy()
    assert fresh_root() != fresh_root()


def test_noise_is_standard_normal_and_independent_between_images() -> None:
    noise = normal_block(Key(1) / "noise", range(1_000), (1, 8, 8)).flatten(1).double()
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 / n**0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    correlation = (noise[:-1] * noise[1:]).mean()
    assert abs(float(correlation)) < 5 / n**0.5
    assert len(torch.unique(noise[:, 0])) == 1_000


def test_blocks_cover_all_rows_and_do_not_depend_on_the_number_of_rows() -> None:
    blocks = list(row_blocks(2_500))
    assert [row for block in blocks for row in block] == list(range(2_500))
    short, long = normal_block(Key(2), range(1_024, 1_100), (2,)), normal_block(Key(2), range(1_024, 2_048), (2,))
    assert torch.equal(short, long[:76])
    assert not torch.equal(normal_block(Key(2), range(76), (2,)), short)
    with pytest.raises(ValueError, match="not one aligned block"):
        normal_block(Key(2), range(5, 10), (2,))
    with pytest.raises(ValueError, match="not one aligned block"):
        normal_block(Key(2), range(ROW_BLOCK + 1), (2,))


def test_torch_is_seeded_inside_and_restored_after() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with torch_seeded(Key(3)):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with torch_seeded(Key(3)):
        assert torch.equal(torch.rand(2), inside)
    with torch_seeded(Key(4)):
        assert not torch.equal(torch.rand(2), inside)
