"""What may be asked, and how a refusal reads."""

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
from contracts.operations import OPERATIONS
from service.requests.models import REQUESTS, GenerateRequest, split_images


def fault(**fields: Any) -> dict[str, Any]:
    """The one fault of a request."""
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate({"prompt": "a red cube", **fields})
    (only,) = caught.value.errors()
    return dict(only)


def test_a_caption_is_all_that_is_needed() -> None:
    """What is left out stays open, for the checkpoint to decide."""
    request = GenerateRequest.model_validate({"prompt": "a red cube"})
    assert request.n == 1
    assert request.seed is None
    assert request.given_parameters() == {}


def test_a_request_survives_json() -> None:
    """What is written is what is read, every field set."""
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
    assert GenerateRequest.model_validate(json.loads(request.model_dump_json())) == request
    assert GenerateRequest.model_validate(request.model_dump()) == request
    assert request.model_fields_set == set(GenerateRequest.model_fields) - {"z_i", "mix"}, (
        "a new field belongs in this test"
    )


def test_the_pipeline_is_given_all_but_prompt_n_and_seed() -> None:
    """Those three are the rows' own."""
    given = GenerateRequest(prompt="a", size=64, negative_prompt="", seed=1, n=2).given_parameters()
    assert given == {"size": 64, "negative_prompt": ""}
    assert set(GenerateRequest.model_fields) - PARAMETERS == {
        "prompt",
        "z_i",
        "mix",
        "n",
        "seed",
        "priority",
        "webhook",
        "webhook_events",
    }
    assert set(GenerateRequest.model_fields) > PARAMETERS


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
def test_the_bounds_themselves_are_allowed(fields: dict[str, Any]) -> None:
    """The last value that is said to do does."""
    GenerateRequest.model_validate({"prompt": "a red cube", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "at least 1 character"),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "at most 1000 characters"),
        ({"prompt": " \t\n\u3000"}, "it is blank: say what the image shows"),
        ({"prompt": "a\x00b"}, "it contains a NUL character: leave it out"),
        ({"prompt": "\ud800"}, "unicode"),
        ({"prompt": b"a red cube"}, "valid string"),
        ({"negative_prompt": "\x00"}, "it contains a NUL character: leave it out"),
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
        ({"n": 2, "seed": MAX_SEED}, "with seed 4294967295, take 1 or less"),
        ({"prior": "gan"}, "'diffusion' or 'autoregressive'"),
        ({"sampler": "euler"}, "'dpm++', 'unipc' or 'heun'"),
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
def test_what_is_out_of_bounds_is_refused_by_its_field(
    fields: dict[str, Any], message: str
) -> None:
    """One fault, at the field, that says what would do. Nothing is converted: "2" is no 2."""
    found = fault(**fields)
    assert found["loc"] == (next(iter(fields)),)
    assert message in found["msg"]


def test_an_unknown_field_is_refused_by_name() -> None:
    """A misspelt parameter must not be silently the default."""
    found = fault(guidance=3)
    assert found["type"] == "extra_forbidden"
    assert found["loc"] == ("guidance",)


def test_all_faults_are_told_at_once() -> None:
    """A client mends its request in one go."""
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate({"n": 0, "size": 100, "stepz": 1})
    assert {error["loc"][0] for error in caught.value.errors()} == {"n", "size", "stepz"}


PIXEL = "aGVsbG8="
WHOLE: dict[str, dict[str, Any]] = {
    "generate": {
        "mix": [
            {"prompt": "a"},
            {"image": PIXEL, "weight": -1.5},
            {"z_i": [1, 0.5]},
            {"image": {"job": "j", "index": 1}},
        ]
    },
    "variations": {"image": PIXEL, "n": 2},
    "interpolate": {"image_a": PIXEL, "prompt_b": "b", "frames": 3},
    "text-diff": {"image": PIXEL, "prompt_to": "b"},
    "edit": {"image": PIXEL, "mask": PIXEL, "prompt": "b"},
    "probe": {"image": PIXEL, "labels": ["a"]},
    "embeddings": {"image": PIXEL},
}


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_request_becomes_what_its_worker_reads_and_images_beside_it(operation: str) -> None:
    """Nothing of the images stays in the fields but their names in a mixture."""
    fields, images = split_images(REQUESTS[operation].model_validate(WHOLE[operation]))
    assert PIXEL not in json.dumps(fields)
    OPERATIONS[operation].model_validate(json.loads(json.dumps(fields)))
    names = {
        "generate": {"mix_1", "mix_3"},
        "edit": {"image", "mask"},
        "interpolate": {"image_a"},
    }.get(operation, {"image"})
    assert set(images) == names
    if operation == "generate":
        assert [part["image"] for part in fields["mix"]] == [None, "mix_1", None, "mix_3"]


@pytest.mark.parametrize(
    ("operation", "body", "message"),
    [
        ("generate", {}, "exactly one of prompt, z_i, mix: none was given"),
        ("generate", {"prompt": "a", "z_i": [1]}, "prompt, z_i was given"),
        ("generate", {"z_i": [0.0, 0.0]}, "all zeros"),
        ("generate", {"z_i": [1e-30]}, "all zeros"),
        ("generate", {"z_i": [1e300]}, "less than or equal to 1000"),
        (
            "generate",
            {"mix": [{"prompt": "a", "image": PIXEL}]},
            "exactly one of prompt, z_i, image",
        ),
        ("generate", {"mix": [{"prompt": "a", "weight": 0}]}, "it is 0"),
        ("generate", {"mix": []}, "at least 1 item"),
        (
            "interpolate",
            {"image_a": PIXEL, "prompt_a": "a", "prompt_b": "b"},
            "exactly one of image_a, prompt_a",
        ),
        ("interpolate", {"prompt_a": "a"}, "exactly one of image_b, prompt_b"),
        (
            "interpolate",
            {"prompt_a": "a", "prompt_b": "b", "frames": 1},
            "greater than or equal to 2",
        ),
        ("interpolate", {"prompt_a": "a", "prompt_b": "b", "noise": "none"}, "'slerp' or 'fixed'"),
        ("text-diff", {"image": PIXEL, "prompt_to": "b", "theta_max": 0}, "greater than 0"),
        ("text-diff", {"image": PIXEL}, "Field required"),
        ("probe", {"image": PIXEL}, "nothing is asked"),
        ("probe", {"image": PIXEL, "components": [0]}, "greater than or equal to 1"),
        ("embeddings", {}, "exactly one of prompt, image"),
        ("variations", {}, "Field required"),
        ("variations", {"image": {"job": "j", "index": -1}}, "greater than or equal to 0"),
        ("edit", {"image": PIXEL, "prompt": " "}, "it is blank"),
    ],
)
def test_what_an_operation_cannot_do_is_refused(
    operation: str, body: dict[str, Any], message: str
) -> None:
    """With what would do."""
    with pytest.raises(ValidationError) as caught:
        REQUESTS[operation].model_validate(body)
    assert message in str(caught.value)
