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


def test_each_channel_may_have_its_rate() -> None:
    """As if each had an Adam of its own; where all are equal, to the last bit what one rate for everything gives."""
    gradients = torch.randn(9, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images, alone, equal, single = (torch.full((2, 3, 4, 4), 0.5) for _ in range(4))
    each = [alone[:, channel] for channel in range(3)]
    optimizers = [Adam([pixels]) for pixels in (images, equal, single)]
    apart = [Adam([channel]) for channel in each]
    for gradient in gradients:
        for optimizer, rate in zip(optimizers, ((0.1, 0.02, 0.003), (0.007,) * 3, 0.007), strict=True):
            optimizer.step([gradient], rate)
        for channel, rate in enumerate((0.1, 0.02, 0.003)):
            apart[channel].step([gradient[:, channel]], rate)
    assert torch.equal(equal, single)
    torch.testing.assert_close(images, alone, rtol=1e-6, atol=0)


def test_gradients_are_left_alone() -> None:
    gradient = torch.tensor([1.0, -2.0])
    Adam([torch.zeros(2)]).step([gradient], 0.1)
    assert gradient.tolist() == [1.0, -2.0]
