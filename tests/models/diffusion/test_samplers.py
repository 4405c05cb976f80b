"""A Gaussian has a closed-form denoiser, so every table has an answer to land on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.diffusion.samplers import (
    SAMPLERS,
    Coefficients,
    ddim_inversion_coefficients,
    ddim_coefficients,
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


def denoiser(x_t: Tensor, t: int) -> Tensor:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD²)."""
    alpha = math.sqrt(float(A[t]))
    variance = 1 - float(A[t])
    return MEAN + STD**2 * alpha / (alpha**2 * STD**2 + variance) * (x_t - alpha * MEAN)


def run(table: Coefficients, x_t: Tensor, generator: torch.Generator | None = None) -> Tensor:
    prev = before = torch.zeros_like(x_t)
    for t, (a, b, c, d, e) in zip(table.timesteps, table.values.tolist(), strict=True):
        x_0 = denoiser(x_t, t)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype) if d else 0.0
        x_t, prev, before = a * x_t + b * x_0 + c * prev + d * noise + e * before, x_0, prev
    return x_t


def flow(x_t: Tensor, t: int) -> Tensor:
    """Where the probability-flow ODE takes x_t: it keeps the number of standard deviations from the mean."""
    alpha = math.sqrt(float(A[t]))
    variance = 1 - float(A[t])
    return MEAN + STD * (x_t - alpha * MEAN) / math.sqrt(alpha**2 * STD**2 + variance)


def noise(count: int = 200_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "table",
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
def test_every_sampler_draws_the_gaussian_it_should(table: Coefficients) -> None:
    """Mean and standard deviation of the samples are the data's."""
    drawn = run(table, noise(), torch.Generator().manual_seed(1))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(drawn.std()) == pytest.approx(STD, rel=0.02)


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
    """Doubling the steps divides the error from the closed-form ODE solution by 2^order, about."""
    errors = []
    for steps in (25, 50, 100):
        table = make(A, steps)  # type: ignore[operator]
        x_t = noise(1000)
        errors.append(float((run(table, x_t) - flow(x_t, table.timesteps[0])).abs().max()))
    rates = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert min(rates) > order - 0.35, (errors, rates)


def test_two_m_is_far_closer_than_one_s_at_the_same_steps() -> None:
    """What second order is for, once the steps are no longer coarse."""
    x_t = noise(1000)
    one, two = (dpmpp_coefficients(A, 100, order) for order in (1, 2))
    exact = flow(x_t, one.timesteps[0])
    assert (run(two, x_t) - exact).abs().max() < 0.5 * (run(one, x_t) - exact).abs().max()


def test_unipc_is_closer_than_two_m_and_heun_closer_at_the_same_evaluations() -> None:
    """What the corrector is for, and what two evaluations a step are."""
    x_t = noise(1000)
    tables = (dpmpp_coefficients(A, 51), unipc_coefficients(A, 51), heun_coefficients(A, 26))
    assert {len(table) for table in tables} == {51}
    errors = [
        float((run(table, x_t) - flow(x_t, table.timesteps[0])).abs().max()) for table in tables
    ]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]


def test_unipc_without_its_corrector_is_dpm_solver() -> None:
    """Its predictor is 2M, so on the first step, which nothing corrects, both have the same row; and a corrector that is undone leaves
    2M's rows: what the second point is corrected by, is the step's error there."""
    unipc = unipc_coefficients(A, 20)
    two_m = dpmpp_coefficients(A, 20)
    assert unipc.timesteps == two_m.timesteps
    assert unipc.values[0].tolist() == pytest.approx(two_m.values[0].tolist())
    assert unipc.values[:, 0].tolist() == pytest.approx(two_m.values[:, 0].tolist())
    constant = unipc.values[:, [1, 2, 4]].sum(
        1
    )  # where x_0 does not change, there is nothing to correct
    assert constant.tolist() == pytest.approx(two_m.values[:, [1, 2, 4]].sum(1).tolist())


def test_heuns_rows_come_in_pairs_but_the_last() -> None:
    """Evaluations at the beginning and the end of each step; 2n - 1 of them."""
    table = heun_coefficients(A, 10)
    assert len(table) == 19
    assert table.timesteps[1:-1:2] == table.timesteps[2::2]
    assert heun_coefficients(A, 1).values.tolist() == [[0, 1, 0, 0, 0]]


@pytest.mark.parametrize("sampler", ["dpm++", "unipc", "heun"])
def test_samplers_that_look_back_are_not_resample(sampler: str) -> None:
    """Putting noise back would make what they remember false."""
    with pytest.raises(ValueError, match="use 'ddpm' or 'ddim'"):
        resample(sampler_coefficients(sampler, "cosine", 10), A, 3)


def test_first_order_dpm_solver_is_ddim() -> None:
    """Lu et al. 2022, section 4: on the same timesteps the two have the same coefficients."""
    table = dpmpp_coefficients(A, 20, order=1)
    for step, (t, after) in enumerate(zip(table.timesteps, table.timesteps[1:], strict=False)):
        now = float(A[t])
        later = float(A[after])
        of_x_t = math.sqrt((1 - later) / (1 - now))
        assert table.values[step, :2].tolist() == pytest.approx(
            [of_x_t, math.sqrt(later) - of_x_t * math.sqrt(now)], rel=1e-9
        )


def test_ddpm_coefficients_are_the_posteriors_of_seven_steps() -> None:
    """The respaced posterior of a 7-step squared-cosine schedule, as known from public checkpoints."""
    table = ddpm_coefficients(A, 7)
    assert table.timesteps == (999, 832, 666, 500, 333, 166, 0)
    expected = {
        999: (0.00017883, 0.257333, 0.966323),
        832: (0.418943, 0.388176, 0.768185),
        666: (0.476002, 0.465541, 0.580410),
        500: (0.413958, 0.570934, 0.413549),
        333: (0.250952, 0.746955, 0.236961),
        166: (0.00054921, 0.999450, 0.00642358),
        0: (0.0, 1.0, 0.0),
    }
    for t, (a, b, _, d, _) in zip(table.timesteps, table.values.tolist(), strict=True):
        assert (a, b, d) == pytest.approx(expected[t], rel=2e-5, abs=1e-9)


def test_a_learned_variance_reaches_from_the_posteriors_to_beta() -> None:
    """The bounds of 7 steps; a sampler whose noise is not to be learned has none."""
    table = ddpm_coefficients(A, 7)
    assert table.max_noise is not None
    betas = [1.000000, 0.730811, 0.500289, 0.336520, 0.200114, 0.0723616, 4.12842e-05]
    assert [d**2 for d in table.max_noise] == pytest.approx(betas, rel=1e-5)
    assert all(
        d <= largest
        for d, largest in zip(table.values[:, 3].tolist(), table.max_noise, strict=True)
    )
    assert ddim_coefficients(A, 7, 1.0).max_noise is None


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_last_step_lands_on_x_0(sampler: str, steps: int) -> None:
    """Nothing of the noise is left in what a table returns."""
    assert sampler_coefficients(sampler, "cosine", steps).values[-1].tolist() == pytest.approx(
        [0, 1, 0, 0, 0]
    )


def test_inversion_then_ddim_gives_the_image_back() -> None:
    """x_0 -> x_T -> x_0 closes, the better the more steps."""
    x_0 = MEAN + STD * noise(1000)
    errors = [
        float(
            (
                run(ddim_coefficients(A, steps), run(ddim_inversion_coefficients(A, steps), x_0))
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
def test_each_prediction_type_gives_x_0_back(prediction_type: str) -> None:
    """A perfect prediction of any kind is the true x_0."""
    x_0, eps = torch.randn(2, 4, 3)
    alpha = torch.tensor(0.6)
    sigma = torch.tensor(0.8)
    said = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0}[
        prediction_type
    ]
    assert torch.allclose(
        to_x_0(said, alpha * x_0 + sigma * eps, alpha, sigma, prediction_type), x_0, atol=1e-6
    )


def test_unknown_names_are_refused_by_name() -> None:
    """The message says what was got and what there is."""
    with pytest.raises(ValueError, match="'euler'.*ddpm, ddim, dpm"):
        sampler_coefficients("euler", "cosine", 10)
    with pytest.raises(ValueError, match="'x_0'"):
        to_x_0(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.ones(1), "x_0")
