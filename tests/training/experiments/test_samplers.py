"""Samplers are compared at equal numbers of evaluations."""

from __future__ import annotations

from training.experiments.samplers import VARIANTS


def test_heun_has_half_the_steps() -> None:
    """Its n steps make 2n - 1 evaluations."""
    variants = {variant.name: variant for variant in VARIANTS}
    for evaluations, steps in ((5, 3), (16, 8), (17, 9)):
        parameters = variants["Heun"].with_evaluations(evaluations)
        assert parameters["decoder_num_inference_steps"] == steps
    parameters = variants["DDIM"].with_evaluations(16)
    assert parameters["decoder_num_inference_steps"] == 16
