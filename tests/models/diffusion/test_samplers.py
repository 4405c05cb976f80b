"""Every sampler against a Gaussian, whose denoise has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.diffusion.samplers import (
    SAMPLERS,
    Coefficients,
    ddim_coefficients,
    ddim_inversion_coefficients,
    ddpm_coefficients,
    dpmpp_coefficients,
    heun_coefficients,
    resample,
    sampler_coefficients,
    to_x_0,
    unipc_coefficients,
)
from models.diffusion.schedule import alphas_cumprod

A = alphas_cumprod("cosine")
MEAN = 0.3
STD = 0.5


def denoise(x_t: Tensor, t: int) -> Tensor:
    """Return E[x_0 | x_t] for x_0 ~ N(MEAN, STD²)."""
    alpha = math.sqrt(float(A[t]))
    variance = 1 - float(A[t])
    return MEAN + STD**2 * alpha / (alpha**2 * STD**2 + variance) * (x_t - alpha * MEAN)


def sample(
    coefficients: Coefficients, x_t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    prev = before = torch.zeros_like(x_t)
    for t, (a, b, c, d, e) in zip(
        coefficients.timesteps, coefficients.values.tolist(), strict=True
    ):
        x_0 = denoise(x_t, t)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype) if d else 0.0
        x_t, prev, before = a * x_t + b * x_0 + c * prev + d * noise + e * before, x_0, prev
    return x_t


def exact_flow(x_t: Tensor, t: int) -> Tensor:
    """Return the exact end of the probability-flow ODE from x_t.

    It keeps the number of standard deviations from the mean."""
    alpha = math.sqrt(float(A[t]))
    variance = 1 - float(A[t])
    return MEAN + STD * (x_t - alpha * MEAN) / math.sqrt(alpha**2 * STD**2 + variance)


def noise(count: int = 200_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "coefficients",
    [
        ddpm_coefficients(A, 1000),
        ddim_coefficients(A, 1000, 1.0),
        ddim_coefficients(A, 200, 0.5),
        ddim_coefficients(A, 200),
        dpmpp_coefficients(A, 60),
        dpmpp_coefficients(A, 200, 1),
        unipc_coefficients(A, 60),
        heun_coefficients(A, 30),
    ],
    ids=["ddpm", "ddim eta 1", "ddim eta 0.5", "ddim", "dpm++ 2M", "dpm++ 1S", "unipc", "heun"],
)
def test_every_sampler_samples_the_gaussian(coefficients: Coefficients) -> None:
    """Mean and standard deviation of the samples are the data's."""
    samples = sample(coefficients, noise(), torch.Generator().manual_seed(1))
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(samples.std()) == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (ddim_coefficients, 1),
        (lambda a, n: dpmpp_coefficients(a, n, 1), 1),
        (lambda a, n: dpmpp_coefficients(a, n, 2), 2),
        (unipc_coefficients, 2.4),  # 3 in the limit of small steps (Zhao et al. 2023, theorem 3.1)
        (heun_coefficients, 2),
    ],
)
def test_ode_solvers_converge_to_the_exact_flow_at_their_order(make: object, order: float) -> None:
    """Doubling the steps divides the error by about 2^order."""
    errors = []
    for steps in (25, 50, 100):
        coefficients = make(A, steps)  # type: ignore[operator]
        x_t = noise(1000)
        errors.append(
            float(
                (sample(coefficients, x_t) - exact_flow(x_t, coefficients.timesteps[0])).abs().max()
            )
        )
    rates = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert min(rates) > order - 0.35, (errors, rates)


def test_second_order_is_closer_than_first_order() -> None:
    """At 100 steps 2M has less than half the error of 1S."""
    x_t = noise(1000)
    one, two = (dpmpp_coefficients(A, 100, order) for order in (1, 2))
    exact = exact_flow(x_t, one.timesteps[0])
    assert (sample(two, x_t) - exact).abs().max() < 0.5 * (sample(one, x_t) - exact).abs().max()


def test_unipc_and_heun_are_closer_than_two_m() -> None:
    """All have 51 evaluations."""
    x_t = noise(1000)
    samplers = (dpmpp_coefficients(A, 51), unipc_coefficients(A, 51), heun_coefficients(A, 26))
    assert {len(coefficients) for coefficients in samplers} == {51}
    errors = [
        float((sample(coefficients, x_t) - exact_flow(x_t, coefficients.timesteps[0])).abs().max())
        for coefficients in samplers
    ]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]


def test_unipc_differs_from_two_m_by_its_corrector() -> None:
    """The first step has no correction, and a constant x_0 needs none."""
    unipc = unipc_coefficients(A, 20)
    two_m = dpmpp_coefficients(A, 20)
    assert unipc.timesteps == two_m.timesteps
    assert unipc.values[0].tolist() == pytest.approx(two_m.values[0].tolist())
    assert unipc.values[:, 0].tolist() == pytest.approx(two_m.values[:, 0].tolist())
    constant = unipc.values[:, [1, 2, 4]].sum(
        1
    )  # where x_0 does not change, there is nothing to correct
    assert constant.tolist() == pytest.approx(two_m.values[:, [1, 2, 4]].sum(1).tolist())


def test_heun_has_two_evaluations_a_step_except_the_last() -> None:
    """There are 2n - 1 evaluations."""
    coefficients = heun_coefficients(A, 10)
    assert len(coefficients) == 19
    assert coefficients.timesteps[1:-1:2] == coefficients.timesteps[2::2]
    assert heun_coefficients(A, 1).values.tolist() == [[0, 1, 0, 0, 0]]


@pytest.mark.parametrize("sampler", ["dpm++", "unipc", "heun"])
def test_multistep_samplers_cannot_be_resampled(sampler: str) -> None:
    """The added noise would invalidate their earlier estimates."""
    with pytest.raises(ValueError, match="use 'ddpm' or 'ddim'"):
        resample(sampler_coefficients(sampler, "cosine", 10), A, 3)


def test_first_order_dpm_solver_is_ddim() -> None:
    """On the same timesteps both have the same coefficients (Lu et al. 2022, section 4)."""
    coefficients = dpmpp_coefficients(A, 20, order=1)
    for step, (t, after) in enumerate(
        zip(coefficients.timesteps, coefficients.timesteps[1:], strict=False)
    ):
        now = float(A[t])
        later = float(A[after])
        of_x_t = math.sqrt((1 - later) / (1 - now))
        assert coefficients.values[step, :2].tolist() == pytest.approx(
            [of_x_t, math.sqrt(later) - of_x_t * math.sqrt(now)], rel=1e-9
        )


def test_ddpm_coefficients_are_the_posteriors_of_seven_steps() -> None:
    """The values of a 7-step squared-cosine schedule come from public checkpoints."""
    coefficients = ddpm_coefficients(A, 7)
    assert coefficients.timesteps == (999, 832, 666, 500, 333, 166, 0)
    expected = {
        999: (0.00017883, 0.257333, 0.966323),
        832: (0.418943, 0.388176, 0.768185),
        666: (0.476002, 0.465541, 0.580410),
        500: (0.413958, 0.570934, 0.413549),
        333: (0.250952, 0.746955, 0.236961),
        166: (0.00054921, 0.999450, 0.00642358),
        0: (0.0, 1.0, 0.0),
    }
    for t, (a, b, _, d, _) in zip(
        coefficients.timesteps, coefficients.values.tolist(), strict=True
    ):
        assert (a, b, d) == pytest.approx(expected[t], rel=2e-5, abs=1e-9)


def test_a_learned_variance_is_between_the_posterior_and_beta() -> None:
    """A sampler without a learned variance has no bounds."""
    coefficients = ddpm_coefficients(A, 7)
    assert coefficients.max_noise is not None
    betas = [1.000000, 0.730811, 0.500289, 0.336520, 0.200114, 0.0723616, 4.12842e-05]
    assert [d**2 for d in coefficients.max_noise] == pytest.approx(betas, rel=1e-5)
    assert all(
        d <= largest
        for d, largest in zip(
            coefficients.values[:, 3].tolist(), coefficients.max_noise, strict=True
        )
    )
    assert ddim_coefficients(A, 7, 1.0).max_noise is None


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_last_step_returns_x_0(sampler: str, steps: int) -> None:
    """No noise is left in the result."""
    assert sampler_coefficients(sampler, "cosine", steps).values[-1].tolist() == pytest.approx(
        [0, 1, 0, 0, 0]
    )


def test_inversion_then_ddim_returns_the_image() -> None:
    """The error falls with the number of steps."""
    x_0 = MEAN + STD * noise(1000)
    errors = [
        float(
            (
                sample(
                    ddim_coefficients(A, steps), sample(ddim_inversion_coefficients(A, steps), x_0)
                )
                - x_0
            )
            .abs()
            .max()
        )
        for steps in (50, 100, 400)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_each_prediction_type_converts_to_x_0(prediction_type: str) -> None:
    """A perfect prediction of any type is the true x_0."""
    x_0, eps = torch.randn(2, 4, 3)
    alpha = torch.tensor(0.6)
    sigma = torch.tensor(0.8)
    prediction = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0}[
        prediction_type
    ]
    assert torch.allclose(
        to_x_0(prediction, alpha * x_0 + sigma * eps, alpha, sigma, prediction_type), x_0, atol=1e-6
    )


def test_unknown_names_are_errors() -> None:
    """The message has the name and the supported ones."""
    with pytest.raises(ValueError, match="'euler'.*ddpm, ddim, dpm"):
        sampler_coefficients("euler", "cosine", 10)
    with pytest.raises(ValueError, match="'x_0'"):
        to_x_0(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.ones(1), "x_0")


def test_resampling_is_a_step_and_the_noise_in_one() -> None:
    """Means and variances equal those of the two in sequence."""
    coefficients = ddpm_coefficients(A, 5)
    longer = resample(coefficients, A, 3)
    assert (
        longer.timesteps
        == tuple(t for t in coefficients.timesteps[:-1] for _ in range(3))
        + coefficients.timesteps[-1:]
    )
    for step in range(4):
        of_x, of_x_0, _, d, _ = coefficients.values[step].tolist()
        r = math.sqrt(float(A[coefficients.timesteps[step]] / A[coefficients.timesteps[step + 1]]))
        back = longer.values[3 * step]
        assert back.tolist() == pytest.approx(
            [r * of_x, r * of_x_0, 0, math.sqrt((r * d) ** 2 + 1 - r**2), 0]
        )
        assert longer.values[3 * step + 2].equal(coefficients.values[step])
    with pytest.raises(ValueError, match="cannot repeat steps"):
        resample(dpmpp_coefficients(A, 5), A, 2)
