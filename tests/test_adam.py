import math

import torch

from certidote.adam import Adam


def test_steps_are_those_of_the_paper() -> None:
    """Algorithm 1 of Kingma and Ba, one number at a time, with a rate that changes as it goes."""
    gradients = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = [0.1 if t < 12 else 0.01 for t in range(20)]
    expected = []
    for column in gradients.T.tolist():
        parameter, average, square = 1.0, 0.0, 0.0
        for t, (gradient, rate) in enumerate(zip(column, rates, strict=True), start=1):
            average = 0.9 * average + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            parameter -= rate * (average / (1 - 0.9**t)) / (math.sqrt(square / (1 - 0.999**t)) + 1e-8)
        expected.append(parameter)
    left, right = torch.ones(3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    optimizer = Adam([left, right])
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.step([gradient[:3], gradient[3:]], rate)
    torch.testing.assert_close(torch.cat([left, right]), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_gradients_are_left_alone() -> None:
    gradient = torch.tensor([1.0, -2.0])
    Adam([torch.zeros(2)]).step([gradient], 0.1)
    assert gradient.tolist() == [1.0, -2.0]
