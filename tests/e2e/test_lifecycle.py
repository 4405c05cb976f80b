"""Through the whole house: real Redis, a real worker and a real service as processes of their own, spoken to over HTTP."""

from __future__ import annotations

import base64
import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import OpenAI
from PIL import Image
from support.deployment import LONG_S, SLOW, House, opened, standing_house, until

from contracts import redis_keys

PATIENT = {"prefer": "wait=60"}
IMAGE = PATIENT | {"accept": "image/png"}
CUBE = {"prompt": "a red cube on top of a blue cube", "seed": 1, "size": 64}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[House]:
    """A house with one worker that stands for all tests that leave it standing."""
    with standing_house(tmp_path_factory.mktemp("standing"), tiny_checkpoint) as house:
        yield house


@pytest.fixture
def build(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Callable[..., House]]:
    """A house of the test's own, to be shaken."""
    houses = []

    def start(workers: int, **settings: str) -> House:
        houses.append(House(tmp_path, tiny_checkpoint, **settings))
        houses[0].start(workers)
        return houses[0]

    yield start
    for house in houses:
        house.end()


@pytest.mark.parametrize("size", [64, 256])
def test_a_caption_comes_back_as_an_image_that_says_how_it_was_drawn(
    standing: House, size: int
) -> None:
    """One request, one PNG of the size asked for; its metadata are everything needed to draw it again."""
    answer = standing.post(CUBE | {"size": size}, **IMAGE)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    image = opened(answer.content)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (size, size))
    told = json.loads(image.text["unclip"])  # type: ignore[attr-defined]
    assert (told["operation"], told["prompt"], told["seed"], told["checkpoint"]) == (
        "generate",
        CUBE["prompt"],
        1,
        "tiny",
    )
    assert told["parameters"]["size"] == size
    assert None not in told["parameters"].values()
    again = standing.post(
        {"prompt": told["prompt"], "seed": told["seed"], **told["parameters"]}, **IMAGE
    )
    assert again.content == answer.content


def test_a_seed_draws_the_same_image_alone_and_in_company(standing: House) -> None:
    """Alone the same bytes; beside other jobs, of other steps and sizes, the same but for rounding (2 of 255)."""
    first, second, other = (
        standing.post(CUBE | {"seed": seed}, **IMAGE).content for seed in (0, 0, 3)
    )
    assert first == second != other
    standing.queue(
        4, {"prompt": "two spheres", "size": 256, "n": 3, "decoder_num_inference_steps": 80}
    )
    among = standing.post(CUBE | {"seed": 0}, **IMAGE).content
    busy = standing.store.hgetall(redis_keys.OUTCOMES)
    difference = np.abs(np.asarray(opened(first), int) - np.asarray(opened(among), int))
    assert difference.max() <= 2
    assert (
        difference.max()
        < np.abs(np.asarray(opened(first), int) - np.asarray(opened(other), int)).max()
    )
    until(lambda: standing.store.hgetall(redis_keys.OUTCOMES) != busy, "the others ended after it")


def test_image_i_is_drawn_from_seed_plus_i(standing: House) -> None:
    """Each image of a job can be drawn alone by the seed told for it."""
    job = standing.post(CUBE | {"n": 3, "seed": 10}, **PATIENT).json()
    assert [image["seed"] for image in job["images"]] == [10, 11, 12]
    last = opened(standing.http.get(job["images"][2]["url"]).content)
    alone = opened(standing.post(CUBE | {"seed": 12}, **IMAGE).content)
    assert np.abs(np.asarray(last, int) - np.asarray(alone, int)).max() <= 2


def test_a_job_tells_everything_of_itself(standing: House) -> None:
    """What was asked, what was used in place of what was left open, how far, when, and where the images are."""
    answer = standing.post({"prompt": "a cone", "n": 2, "size": 64, "sampler": "ddim"}, **PATIENT)
    job = answer.json()
    assert answer.status_code == 200
    assert job == standing.http.get(answer.headers["location"]).json()
    parameters = {
        "prompt": "a cone",
        "n": 2,
        "seed": job["parameters"]["seed"],
        "size": 64,
        "prior": "diffusion",
        "negative_prompt": "",
    }
    parameters |= {
        "sampler": "ddim",
        "eta": 0.0,
        "prior_num_inference_steps": 5,
        "decoder_num_inference_steps": 6,
    }
    parameters |= {
        "upsampler_num_inference_steps": 2,
        "prior_guidance_scale": 1.5,
        "decoder_guidance_scale": 2.0,
    }
    parameters |= {"prior_num_candidates": 2, "prior_temperature": 1.0, "prior_top_p": 1.0}
    parameters |= {
        "decoder_guidance_start": 0.0,
        "decoder_guidance_stop": 1.0,
        "dynamic_threshold": 0.0,
    }
    assert job["parameters"] == parameters
    assert (
        job["operation"],
        job["status"],
        job["error"],
        job["warnings"],
        job["queue_position"],
    ) == (
        "generate",
        "succeeded",
        None,
        [],
        None,
    )
    assert job["progress"] == {
        "stage": "decoder",
        "step": 6,
        "steps": 6,
        "fraction": 1.0,
        "eta_seconds": None,
    }
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert [(image["width"], image["height"]) for image in job["images"]] == [(64, 64)] * 2
    for index, image in enumerate(job["images"]):
        assert image["url"] == f"{job['links']['self']}/images/{index}.png"
        assert opened(standing.http.get(image["url"]).content).size == (64, 64)


def test_an_earlier_image_goes_through_every_operation(standing: House) -> None:
    """By reference to the job that drew it, as a stranger with the README would: each ends with what was asked for."""
    drawn = standing.post(CUBE | {"size": 64}, **PATIENT).json()
    reference = {"job": drawn["id"], "index": 0}
    mask = io.BytesIO()
    Image.new("L", (64, 64), 255).save(mask, "PNG")
    small = {"size": 64, "decoder_num_inference_steps": 4}
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("/variations", small | {"image": reference, "n": 2}, 2),
        (
            "/interpolate",
            small | {"image_a": reference, "prompt_b": "a cone", "frames": 3, "animation": "webp"},
            3,
        ),
        ("/text-diff", small | {"image": reference, "prompt_to": "a cone", "frames": 2}, 2),
        (
            "/edits",
            small
            | {
                "image": reference,
                "mask": base64.b64encode(mask.getvalue()).decode(),
                "prompt": "a cone",
            },
            1,
        ),
        (
            "/probe",
            small | {"image": reference, "labels": ["a cube", "a cone"], "components": [1, 3]},
            2,
        ),
        ("/embeddings", {"image": reference}, 0),
        (
            "/generate",
            small
            | {"mix": [{"image": reference}, {"prompt": "a cone"}], "prior": "autoregressive"},
            1,
        ),
    ]
    for path, body, count in asked:
        answer = standing.http.post(path, json=body, headers=PATIENT)
        job = answer.json()
        assert answer.status_code == 200 and job["status"] == "succeeded", (path, answer.text)
        assert len(job["images"]) == count
        for image in job["images"]:
            assert opened(standing.http.get(image["url"]).content).size == (64, 64)
        if job["animation"]:
            assert (
                standing.http.get(job["animation"]["url"]).headers["content-type"] == "image/webp"
            )
        assert (job["result"] is not None) == (path in ("/probe", "/embeddings"))


def test_a_caption_longer_than_clip_reads_is_drawn_and_the_job_says_what_was_cut(
    standing: House,
) -> None:
    """Beyond 77 tokens nothing is seen, and that is no secret."""
    job = standing.post(CUBE | {"prompt": "red " * 75 + "tail end"}, **PATIENT).json()
    assert job["status"] == "succeeded"
    assert job["warnings"] == ["A prompt is longer than CLIP reads; cut was: tail end"]


def test_progress_grows_while_a_job_runs(standing: House) -> None:
    """It is told, and never falls."""
    (job_id,) = standing.queue(1, SLOW | {"decoder_num_inference_steps": 600})
    seen = []
    until(
        lambda: seen.append(standing.job(job_id)) or seen[-1]["status"] == "succeeded",
        "it has ended",
    )
    fractions = [job["progress"]["fraction"] for job in seen if job["progress"]]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    assert fractions[-1] == 1
    assert {job["progress"]["stage"] for job in seen if job["progress"]} >= {"decoder"}


def test_a_job_is_watched_and_cancelled(standing: House) -> None:
    """Events come while it is drawn, images among them; DELETE ends it, and with it the events."""
    job_id = standing.post(SLOW | {"decoder_num_inference_steps": 1000, "n": 4}).json()["id"]
    seen: list[str] = []
    with standing.http.stream("GET", f"/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            seen += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if "preview" in seen and "progress" in seen:
                standing.http.delete(f"/jobs/{job_id}").raise_for_status()
    assert seen[-1] == "ended"
    assert standing.job(job_id)["status"] == "cancelled"
    assert standing.http.get(f"/jobs/{job_id}/images/0.png").status_code == 404


def test_a_request_is_found_in_every_log_by_its_id(standing: House) -> None:
    """From the service's access line to the worker's last word, and the caption in none of them."""
    answer = standing.post(
        CUBE | {"prompt": "a zebra nobody else asks for"},
        **PATIENT,
        **{"x-request-id": "to be found"},
    )
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "to be found"

    def told() -> dict[str, list[dict[str, Any]]]:
        lines = {
            path.name.split("-")[0]: path.read_text().splitlines()
            for path in standing.folder.glob("*.log")
        }
        return {
            name: [
                line for line in map(json.loads, found) if line.get("request_id") == "to be found"
            ]
            for name, found in lines.items()
        }

    until(
        lambda: told()["service"][-1:] and told()["service"][-1]["event"] == "request",
        "the access line is written",
    )
    found = told()
    assert [line["event"] for line in found["service"]] == ["job accepted", "request"]
    assert [line["event"] for line in found["worker"]] == ["job started", "job succeeded"]
    assert {line["job_id"] for line in (found["service"][0], *found["worker"])} == {
        answer.json()["id"]
    }
    request = found["service"][1]
    assert (request["method"], request["path"], request["status"]) == ("POST", "/generate", 200)
    assert "zebra" not in "".join(path.read_text() for path in standing.folder.glob("*.log"))


def test_a_body_of_50_mb_is_answered_over_a_real_socket(standing: House) -> None:
    """413 reaches the client although it is still sending, and the next request finds the service well."""
    for content in (b" " * (50 << 20), iter([b" " * (1 << 20)] * 50)):
        answer = standing.http.post(
            "/generate", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
    assert standing.http.get("/readyz").text == "ready\n"


def test_many_clients_at_once_each_get_their_own(standing: House) -> None:
    """Twenty waiters, twenty images, each with its own seed in it."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda seed: standing.post(CUBE | {"seed": seed}, **IMAGE), range(20))
        )
    assert [answer.status_code for answer in answers] == [200] * 20
    seeds = [json.loads(opened(answer.content).text["unclip"])["seed"] for answer in answers]  # type: ignore[attr-defined]
    assert seeds == list(range(20))


def test_openais_own_client_draws_edits_varies_and_streams(standing: House) -> None:
    """As code for DALL·E 2 does, changed in nothing but its address; the model goes by its checkpoint's name too."""
    with OpenAI(
        base_url=f"{standing.http.base_url}/v1", api_key="any", max_retries=0, timeout=LONG_S
    ) as client:
        drawn = client.images.generate(
            model="dall-e-2", prompt="a red cube", n=2, size="256x256", user="somebody"
        )
        images = [standing.http.get(image.url).content for image in drawn.data]
        assert [opened(content).size for content in images] == [(256, 256)] * 2
        assert images[0] != images[1]
        varied = client.images.create_variation(
            image=images[0], size="256x256", response_format="b64_json"
        )
        assert opened(base64.b64decode(varied.data[0].b64_json)).size == (256, 256)
        source_image = opened(images[0])
        mask = Image.new("RGBA", source_image.size, "black")
        mask.paste((0, 0, 0, 0), (0, 0, 128, 256))
        buffer = io.BytesIO()
        mask.save(buffer, "PNG")
        edited = client.images.edit(
            model="tiny",
            image=images[0],
            mask=buffer.getvalue(),
            prompt="a blue cone",
            size="256x256",
            response_format="b64_json",
        )
        before = np.asarray(source_image)
        after = np.asarray(opened(base64.b64decode(edited.data[0].b64_json)))
        assert (before[:, 128:] == after[:, 128:]).all()
        assert (before[:, :128] != after[:, :128]).any()
        events = list(
            client.images.generate(
                model="tiny", prompt="a cone", size="auto", stream=True, partial_images=3
            )
        )
        assert events[-1].type == "image_generation.completed"
        assert len(events) <= 4
        assert opened(base64.b64decode(events[-1].b64_json)).size == (256, 256)
        assert {model.id for model in client.models.list()} == {"dall-e-2", "tiny"}


def test_without_a_worker_jobs_wait_and_a_worker_that_comes_draws_them(
    build: Callable[..., House],
) -> None:
    """Told to stop twice, a worker goes at once and gives its job back; readiness says nobody is there; the next one does all."""
    house = build(1)
    (given_back,) = house.queue(1, SLOW | {"decoder_num_inference_steps": 1000})
    until(lambda: house.job(given_back)["status"] == "running", "it runs")
    house.workers[0].send_signal(signal.SIGTERM)
    time.sleep(0.2)
    house.workers[0].send_signal(signal.SIGTERM)
    assert house.workers[0].wait(LONG_S) == 1
    assert house.job(given_back)["status"] == "running", "it did not stay to end the job"
    until(lambda: not house.answers("/readyz"), "the service is not ready")
    refused = house.http.get("/readyz")
    assert refused.status_code == 503
    assert "No worker is alive" in refused.json()["detail"]
    waiting = house.queue(3)
    assert [house.job(job_id)["queue_position"] for job_id in waiting] == [0, 1, 2]
    assert house.statuses(waiting) == ["queued"] * 3
    house.run("worker")
    until(lambda: house.answers("/readyz"), "the service is ready again")
    house.all_succeed([given_back, *waiting])


def test_a_worker_killed_under_load_loses_no_job(build: Callable[..., House]) -> None:
    """`kill -9`, and another worker draws what it had begun, within seconds and not minutes."""
    house = build(2, jobs_at_once="4")
    ids = house.queue(10)
    killed = house.workers[0]
    until(
        lambda: house.executions(killed) == 4 and "running" in house.statuses(ids),
        "the first worker has its hands full",
    )
    killed.kill()
    killed.wait()
    house.all_succeed(ids)
    tries_left = [house.store.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids]
    assert set(tries_left) == {b"2", b"3"} and tries_left.count(b"2") <= 4, (
        "those it had begun were tried once more, the others not"
    )


def test_a_worker_told_to_stop_ends_what_it_began_and_takes_no_more(
    build: Callable[..., House],
) -> None:
    """SIGTERM: running jobs succeed without being started again, waiting ones stay, and the process ends with 0."""
    house = build(1, jobs_at_once="3")
    ids = house.queue(5, SLOW | {"decoder_num_inference_steps": 500})
    until(lambda: house.statuses(ids[:3]) == ["running"] * 3, "its hands are full")
    house.workers[0].terminate()
    assert house.workers[0].wait(LONG_S) == 0
    assert house.statuses(ids) == ["succeeded"] * 3 + ["queued"] * 2
    assert {house.store.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids} == {b"3"}
    assert house.http.get("/readyz").status_code == 503, "it signed off"


def test_redis_killed_and_restarted_loses_no_accepted_job(build: Callable[..., House]) -> None:
    """Away for longer than a heartbeat lasts: 503 meanwhile, then service and worker go on by themselves, jobs and all."""
    house = build(1, jobs_at_once="3")
    ids = house.queue(6, SLOW | {"decoder_num_inference_steps": 600})
    until(lambda: "running" in house.statuses(ids), "the worker is at it")
    house.redis.stop()
    refused = house.post(CUBE)
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert house.http.get("/readyz").status_code == 503
    assert house.http.get("/healthz").status_code == 200
    time.sleep(8)
    house.redis.start()
    house.all_succeed(ids)
    assert house.post(CUBE, **IMAGE).status_code == 200
    assert [process.poll() for process in house.processes] == [None, None], (
        "nobody had to be started again"
    )
