import torch

from certidote.muon import Muon, orthogonalized
from certidote.streams import Key


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(Key(0).numpy().standard_normal(shape)).float()


def test_orthogonalized_keeps_singular_vectors_and_pulls_singular_values_towards_one():
    for shape in ((8, 40), (40, 8), (16, 16)):
        matrix = drawn(*shape)
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        pulled = u.T @ orthogonalized(matrix, 5) @ vh.T
        values = pulled.diagonal()
        assert float((pulled - torch.diag(values)).abs().max()) < 1e-5
        wide = s / s.norm() > 0.01
        assert ((values[wide] > 0.65) & (values[wide] < 1.25)).all()


def test_one_step_is_the_quintic_written_out():
    matrix = drawn(3, 5)
    x = matrix / matrix.norm()
    wanted = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    torch.testing.assert_close(orthogonalized(matrix, 1), wanted)


def test_steps_follow_on_each_other_as_the_quintic_written_out():
    weak = torch.logspace(0, -3, 300)  # singular values from 1 to a thousandth, as gradients have them
    for matrix in (drawn(3, 5), drawn(6, 4), drawn(64, 576), drawn(300, 48), drawn(32, 300) * weak, drawn(32, 32) * weak[:32]):
        wanted = matrix.double()
        wanted = wanted / wanted.norm()
        for _ in range(5):
            gram = wanted @ wanted.T
            wanted = 3.4445 * wanted - 4.7750 * gram @ wanted + 2.0315 * gram @ gram @ wanted
        found = orthogonalized(matrix, 5)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)  # rounding of float32, amplified at most 500 times


def test_filters_that_are_zero_can_learn():
    filters = torch.zeros(4, 3, 3, 3)
    Muon([filters], 0.0, 5, fixed_norm=True).step([drawn(4, 3, 3, 3)], 0.1)
    assert filters.isfinite().all()
    assert float(filters.norm()) > 0.1


def test_steps_have_momentum_and_do_not_depend_on_the_scale_of_gradients():
    filters, bigger = drawn(6, 2, 3, 3), drawn(6, 2, 3, 3)
    one, other = Muon([filters], 0.9, 5, fixed_norm=False), Muon([bigger], 0.9, 5, fixed_norm=False)
    for _ in range(3):
        gradient = drawn(6, 2, 3, 3)
        one.step([gradient.clone()], 0.1)
        other.step([1_000 * gradient], 0.1)
    torch.testing.assert_close(filters, bigger, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.velocity[0], drawn(6, 2, 3, 3) * (1 + 0.9 + 0.81))
    matrix = drawn(6, 2, 3, 3).flatten(1)
    moved = (drawn(6, 2, 3, 3) - filters).flatten(1)
    torch.testing.assert_close(moved, 3 * 0.1 * orthogonalized(matrix, 5), rtol=0, atol=1e-5)


def test_tall_matrices_take_larger_steps():
    filters = torch.zeros(8, 2, 1, 1)
    Muon([filters], 0.0, 5, fixed_norm=False).step([drawn(8, 2, 1, 1)], 1.0)
    values = torch.linalg.svdvals(filters.flatten(1))
    assert ((values > 0.65 * 2) & (values < 1.25 * 2)).all()  # the square root of 8 / 2


def test_fixed_norm_is_that_of_orthonormal_rows_before_the_step():
    filters = 100 * drawn(4, 3, 3, 3)
    before = filters.clone()
    Muon([filters], 0.0, 5, fixed_norm=True).step([torch.zeros(4, 3, 3, 3)], 0.1)
    torch.testing.assert_close(filters, before * 2 / before.norm())
