"""Requests of all operations: what is valid, and what an invalid field reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.fields import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_STEPS,
    PARAMETERS,
)
from contracts.operations import OPERATIONS, GenerateRequest

BASE64 = "aGVsbG8="
COMPLETE: dict[str, dict[str, Any]] = {
    "generate": {
        "mix": [
            {"prompt": "a"},
            {"image": BASE64, "weight": -1.5},
            {"z_i": [1, 0.5]},
            {"image": {"job": "j", "index": 1}},
        ]
    },
    "variations": {"image": BASE64, "n": 2},
    "interpolate": {"image_a": BASE64, "prompt_b": "b", "frames": 3},
    "text-diff": {"image": BASE64, "prompt_to": "b"},
    "edit": {"image": BASE64, "mask": BASE64, "prompt": "b"},
    "probe": {"image": BASE64, "labels": ["a"]},
    "embeddings": {"image": BASE64},
}
INPUTS = {
    "generate": ["mix_1", "mix_3"],
    "variations": ["image"],
    "interpolate": ["image_a"],
    "text-diff": ["image"],
    "edit": ["image", "mask"],
    "probe": ["image"],
    "embeddings": ["image"],
}


def only_fault(**fields: Any) -> dict[str, Any]:
    """Return the one fault of a request with these fields."""
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate({"prompt": "a red cube", **fields})
    (fault,) = caught.value.errors()
    return dict(fault)


def test_a_prompt_is_enough() -> None:
    """Omitted fields are left to the checkpoint."""
    request = GenerateRequest.model_validate({"prompt": "a red cube"})
    assert request.n == 1
    assert request.seed is None
    assert request.requested_parameters() == {}


def test_a_request_survives_json() -> None:
    """A request with every field set is equal after a round trip."""
    request = GenerateRequest(
        prompt="ein roter Würfel 🟥",
        n=3,
        size=256,
        seed=0,
        prior="diffusion",
        negative_prompt="",
        sampler="dpm++",
        eta=0.5,
        prior_num_inference_steps=1,
        decoder_num_inference_steps=MAX_STEPS,
        upsampler_num_inference_steps=2,
        prior_guidance_scale=0.0,
        decoder_guidance_scale=MAX_GUIDANCE,
        prior_num_candidates=16,
        prior_temperature=0.0,
        prior_top_p=1.0,
        decoder_guidance_start=0.0,
        decoder_guidance_stop=1.0,
        dynamic_threshold=0.995,
        priority=-10,
        webhook="https://hooks.example/x",
        webhook_events=["started", "failed"],
    )
    assert request.model_fields_set == GenerateRequest.model_fields.keys() - {"z_i", "mix"}
    assert GenerateRequest.model_validate_json(request.model_dump_json()) == request
    assert GenerateRequest.model_validate(request.model_dump()) == request


def test_pipeline_parameters_are_separate() -> None:
    """The pipeline resolves its parameters; the rows have prompt, n and seed."""
    request = GenerateRequest(prompt="a", size=64, negative_prompt="", seed=1, n=2)
    assert request.requested_parameters() == {"size": 64, "negative_prompt": ""}
    assert GenerateRequest.model_fields.keys() > PARAMETERS
    assert GenerateRequest.model_fields.keys() - PARAMETERS == {
        "prompt",
        "z_i",
        "mix",
        "n",
        "seed",
        "priority",
        "webhook",
        "webhook_events",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x"},
        {"prompt": "x" * MAX_PROMPT_CHARACTERS},
        {"n": MAX_IMAGES},
        {"seed": 0},
        {"seed": MAX_SEED},
        {"seed": MAX_SEED - 9, "n": 10},
        {"eta": 0},
        {"eta": 1},
        {"decoder_guidance_scale": 30},
        {"prior_num_inference_steps": 1},
        {"negative_prompt": "x" * MAX_PROMPT_CHARACTERS},
        {"size": None, "sampler": None},
    ],
)
def test_bounds_are_inclusive(fields: dict[str, Any]) -> None:
    """A value at its bound is valid."""
    GenerateRequest.model_validate({"prompt": "a red cube", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "at least 1 character"),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "at most 1000 characters"),
        ({"prompt": " \t\n\u3000"}, "must not be blank"),
        ({"prompt": "a\x00b"}, "must not contain a NUL character"),
        ({"prompt": "\ud800"}, "unicode"),
        ({"prompt": b"a red cube"}, "valid string"),
        ({"negative_prompt": "\x00"}, "must not contain a NUL character"),
        ({"negative_prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "at most 1000 characters"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"n": MAX_IMAGES + 1}, "less than or equal to 10"),
        ({"n": "2"}, "valid integer"),
        ({"n": True}, "valid integer"),
        ({"n": 1.5}, "valid integer"),
        ({"size": 100}, "64, 256 or 1024"),
        ({"size": "64"}, "64, 256 or 1024"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": MAX_SEED + 1}, "less than or equal to 4294967295"),
        ({"n": 2, "seed": MAX_SEED}, "with seed 4294967295, n can be at most 1"),
        ({"prior": "gan"}, "'diffusion' or 'autoregressive'"),
        ({"sampler": "euler"}, "'ddpm', 'ddim', "),
        ({"eta": 1.01}, "less than or equal to 1"),
        ({"eta": float("nan")}, "finite number"),
        ({"decoder_guidance_scale": MAX_GUIDANCE + 0.1}, "less than or equal to 30"),
        ({"decoder_guidance_scale": float("inf")}, "finite number"),
        ({"prior_guidance_scale": -0.1}, "greater than or equal to 0"),
        ({"prior_num_inference_steps": 0}, "greater than or equal to 1"),
        ({"decoder_num_inference_steps": MAX_STEPS + 1}, "less than or equal to 1000"),
        ({"upsampler_num_inference_steps": 2.5}, "valid integer"),
    ],
)
def test_an_invalid_value_is_reported_at_its_field(fields: dict[str, Any], message: str) -> None:
    """Values are not converted: "2" is not 2."""
    fault = only_fault(**fields)
    assert fault["loc"] == (next(iter(fields)),)
    assert message in fault["msg"]


def test_an_unknown_field_is_an_error() -> None:
    """A misspelt parameter must not silently become the default."""
    fault = only_fault(guidance=3)
    assert fault["type"] == "extra_forbidden"
    assert fault["loc"] == ("guidance",)


def test_all_faults_are_reported_at_once() -> None:
    """A client can correct its request in one go."""
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate({"n": 0, "size": 100, "stepz": 1})
    assert {fault["loc"][0] for fault in caught.value.errors()} == {"n", "size", "stepz"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_record_has_names_instead_of_images(operation: str) -> None:
    """A stored request has no image data, and its worker parses it with the same class."""
    model = OPERATIONS[operation]
    request = model.model_validate(COMPLETE[operation])
    stored = request.with_named_inputs().model_dump_json()
    assert BASE64 not in stored
    assert list(request.image_inputs()) == INPUTS[operation]
    assert list(model.model_validate_json(stored).image_inputs()) == INPUTS[operation]


def test_parts_of_a_mixture_are_named_by_their_index() -> None:
    """Parts without an image have no name."""
    request = GenerateRequest.model_validate(COMPLETE["generate"]).with_named_inputs()
    images = [part.image for part in request.mix or []]
    assert images == [None, "mix_1", None, "mix_3"]


def test_a_job_shows_no_images_and_no_webhook() -> None:
    """`to_dict` is what parameters and provenance show."""
    body = COMPLETE["edit"] | {"webhook": "https://hooks.example/x", "priority": 3}
    fields = OPERATIONS["edit"].model_validate(body).to_dict()
    assert fields["prompt"] == "b"
    assert not fields.keys() & {"image", "mask", "priority", "webhook", "webhook_events"}
    json.dumps(fields)


@pytest.mark.parametrize(
    ("operation", "body", "message"),
    [
        ("generate", {}, "exactly one of prompt, z_i, mix: got none"),
        ("generate", {"prompt": "a", "z_i": [1]}, "got prompt, z_i"),
        ("generate", {"z_i": [0.0, 0.0]}, "all zeros"),
        ("generate", {"z_i": [1e-30]}, "all zeros"),
        ("generate", {"z_i": [1e300]}, "less than or equal to 1000"),
        (
            "generate",
            {"mix": [{"prompt": "a", "image": BASE64}]},
            "exactly one of prompt, z_i, image",
        ),
        ("generate", {"mix": [{"prompt": "a", "weight": 0}]}, "must not be 0"),
        ("generate", {"mix": []}, "at least 1 item"),
        ("generate", {"prompt": "a", "webhook_events": ["failed"]}, "needs a webhook"),
        (
            "generate",
            {"prompt": "a", "webhook": "https://me:secret@hooks.example/"},
            "must not contain a user",
        ),
        (
            "interpolate",
            {"image_a": BASE64, "prompt_a": "a", "prompt_b": "b"},
            "exactly one of image_a, prompt_a",
        ),
        ("interpolate", {"prompt_a": "a"}, "exactly one of image_b, prompt_b"),
        (
            "interpolate",
            {"prompt_a": "a", "prompt_b": "b", "frames": 1},
            "greater than or equal to 2",
        ),
        ("interpolate", {"prompt_a": "a", "prompt_b": "b", "noise": "none"}, "'slerp' or 'fixed'"),
        ("text-diff", {"image": BASE64, "prompt_to": "b", "theta_max": 0}, "greater than 0"),
        ("text-diff", {"image": BASE64}, "Field required"),
        ("probe", {"image": BASE64}, "give labels, components, or both"),
        ("probe", {"image": BASE64, "components": [0]}, "greater than or equal to 1"),
        ("embeddings", {}, "exactly one of prompt, image"),
        ("variations", {}, "Field required"),
        ("variations", {"image": {"job": "j", "index": -1}}, "greater than or equal to 0"),
        ("edit", {"image": BASE64, "prompt": " "}, "must not be blank"),
    ],
)
def test_an_impossible_request_is_an_error(
    operation: str, body: dict[str, Any], message: str
) -> None:
    """The message has the remedy."""
    with pytest.raises(ValidationError) as caught:
        OPERATIONS[operation].model_validate(body)
    assert message in str(caught.value)
