"""OpenAI's own client, unmodified, at a real service over a real socket. The worker's side of Redis is played by a thread that ends jobs
as the test says; `tests/journey` has the real one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import redis
import uvicorn
from fastapi import Depends
from openai import OpenAI
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from contracts import redis_keys
from contracts.jobs import ImageInfo, Preview, Progress, WorkerHeartbeat
from devtools.ports import free_port
from devtools.redis_server import RedisServer
from devtools.wait import wait_until
from service.api.problems import problem_response
from service.app import create_app
from service.errors import Unauthorized
from service.openai import stream
from service.security.headers import wrap_app
from service.settings import Settings
from worker.jobs.record import JobRepository

LONG_S = 60.0
CUBE = "a red cube"
WHOLE = Progress(stage="decoder", step=6, steps=6, fraction=1.0)


def png(
    size: int | tuple[int, int], hole: bool = False, mode: str = "RGBA", fill: str = "red"
) -> bytes:
    """An image as a file; with a hole its left half is transparent."""
    side = (size, size) if isinstance(size, int) else size
    image = Image.new(mode, side, fill)
    if hole:
        image.paste((0, 0, 0, 0), (0, 0, side[0] // 2, side[1]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def drawn(size: int, seed: int) -> bytes:
    """What a worker may have drawn: no two pixels alike in a row, and how in its text chunk."""
    image = Image.radial_gradient("L").resize((size, size)).convert("RGB")
    ImageDraw.Draw(image).text((8, 8), str(seed), "red")
    info = PngInfo()
    buffer = io.BytesIO()
    info.add_text("unclip", json.dumps({"seed": seed}))
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def opened(content: bytes | str) -> Image.Image:
    """An image from its file, or from base64 of it."""
    image = Image.open(
        io.BytesIO(base64.b64decode(content) if isinstance(content, str) else content)
    )
    image.load()
    return image


@dataclass
class House:
    """A service that runs, its Redis, and a client of OpenAI's for it."""

    client: OpenAI
    url: str
    redis_url: str

    def __post_init__(self) -> None:
        self.store: Any = redis.Redis.from_url(self.redis_url)

    def next_job(self) -> str:
        """Wait for a job, and take it out of the queue."""
        return str(wait_until(lambda: self.store.lpop(redis_keys.QUEUE_LIST)).decode())

    def record(self, job_id: str) -> JobRepository:
        return JobRepository(self.store, job_id, 100)

    def request(self, job_id: str) -> dict[str, Any]:
        found = self.record(job_id).read()
        assert found is not None
        return found.request

    def status(self, job_id: str) -> str:
        return str(self.store.hget(redis_keys.job(job_id), "status").decode())

    def draw(self, job_id: str) -> None:
        """End a job with its images."""
        request = self.request(job_id)
        size = request["size"] or 64
        seeds = [request["seed"] + index for index in range(request["n"])]
        record = self.record(job_id)
        record.start({"size": size})
        images = [ImageInfo(seed=seed, width=size, height=size) for seed in seeds]
        assert record.succeed([drawn(size, seed) for seed in seeds], images, [], WHOLE)

    def during(self, call: Callable[[], Any], job: Callable[[str], Any]) -> tuple[Any, str]:
        """Make a call, and do this with its job meanwhile; what the call came to, and the job."""
        ids: list[str] = []

        def work() -> None:
            ids.append(self.next_job())
            job(ids[0])

        thread = threading.Thread(target=work)
        thread.start()
        try:
            return call(), ids[0] if ids else ""
        finally:
            thread.join(LONG_S)

    def drawing(self, call: Callable[[], Any]) -> Any:
        """Make a call whose job is drawn."""
        return self.during(call, self.draw)[0]


@contextmanager
def running(
    redis_url: str, change: Callable[[Any], None] = lambda app: None, **settings: Any
) -> Iterator[House]:
    """A service over a socket, with a client of it."""
    checked = Settings(redis_url=redis_url, **settings)
    app = create_app(checked)
    port = free_port()
    change(app)
    asgi_app = wrap_app(app, checked, problem_response)
    server = uvicorn.Server(
        uvicorn.Config(asgi_app, port=port, log_level="critical", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{port}"
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=LONG_S) as client:
        house = House(client, url, redis_url)
        try:
            yield house
        finally:
            house.store.close()
            server.should_exit = True
            thread.join(LONG_S)


@pytest.fixture
def build(redis_server: RedisServer) -> Iterator[Callable[..., House]]:
    """A house with settings of the test's own."""
    with ExitStack() as pipeline:
        yield lambda *args, **settings: pipeline.enter_context(
            running(redis_server.url, *args, **settings)
        )


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()


@pytest.fixture(scope="module")
def alone() -> Iterator[House]:
    """A house without Redis, which stands for all tests: what it answers, it answers by itself."""
    with running(f"redis://127.0.0.1:{free_port()}/0") as house:
        yield house


class TestGenerate:
    """images.generate."""

    def test_a_caption_comes_back_as_a_url(self, house: House) -> None:
        """As DALL·E 2's code asks and reads; the request's id stands in the job."""
        answer, job_id = house.during(
            lambda: house.client.images.generate(
                model="dall-e-2", prompt=CUBE, n=2, size="256x256", user="somebody"
            ),
            house.draw,
        )
        assert answer._request_id == house.record(job_id).read().request_id
        assert abs(answer.created - time.time()) < LONG_S
        assert [image.url for image in answer.data] == [
            f"{house.url}/jobs/{job_id}/images/{index}.png" for index in (0, 1)
        ]
        assert [image.b64_json for image in answer.data] == [None, None]
        assert answer.size == "256x256"
        seed = house.request(job_id)["seed"]
        for index, image in enumerate(answer.data):
            assert httpx.get(image.url).content == drawn(256, seed + index)
        assert house.request(job_id)["prompt"] == CUBE
        assert "user" not in json.dumps(house.request(job_id))

    def test_or_as_base64(self, house: House) -> None:
        """The file itself, 1024x1024 unless told; a seed of one's own may come along."""
        answer = house.drawing(
            lambda: house.client.images.generate(
                prompt=CUBE, response_format="b64_json", extra_body={"seed": 7}
            )
        )
        assert base64.b64decode(answer.data[0].b64_json) == drawn(1024, 7)

    def test_512_is_drawn_at_1024_and_reduced(self, house: House) -> None:
        """The same image at its url and as base64, and it says so; the url without more leads to what was drawn."""
        by_url, job_id = house.during(
            lambda: house.client.images.generate(
                prompt=CUBE, size="512x512", extra_body={"seed": 7}
            ),
            house.draw,
        )
        assert house.request(job_id)["size"] == 1024
        assert by_url.size == "512x512"
        content = httpx.get(by_url.data[0].url).content
        image = opened(content)
        assert image.size == (512, 512)
        assert image.text == {"unclip": '{"seed": 7}', "reduced_to": "512"}
        assert httpx.get(by_url.data[0].url.partition("?")[0]).content == drawn(1024, 7)
        here = house.drawing(
            lambda: house.client.images.generate(
                prompt=CUBE, size="512x512", response_format="b64_json", extra_body={"seed": 7}
            )
        )
        assert base64.b64decode(here.data[0].b64_json) == content

    def test_auto_is_the_checkpoints_own_size(self, house: House) -> None:
        """And what it was is told."""
        answer, job_id = house.during(
            lambda: house.client.images.generate(prompt=CUBE, size="auto"), house.draw
        )
        assert house.request(job_id)["size"] is None
        assert answer.size == "64x64"

    def test_what_came_with_the_gpt_image_models_is_kept_to_or_taken_as_advice(
        self, house: House
    ) -> None:
        """Formats and their quality; they answered with the image itself, and so does this."""

        def call(quality: int) -> Any:
            return house.drawing(
                lambda: house.client.images.generate(
                    prompt=CUBE,
                    size="256x256",
                    output_format="jpeg",
                    output_compression=quality,
                    quality="high",
                    style="vivid",
                    background="opaque",
                    moderation="low",
                    safety_identifier="somebody",
                    n=None,
                )
            )

        good, poor = (base64.b64decode(call(quality).data[0].b64_json) for quality in (95, 5))
        assert opened(good).format == opened(poor).format == "JPEG"
        assert len(good) > 2 * len(poor)
        webp = house.drawing(
            lambda: house.client.images.generate(prompt=CUBE, output_format="webp")
        )
        assert opened(webp.data[0].b64_json).format == "WEBP"
        assert webp.output_format == "webp"

    def test_the_asynchronous_client(self, house: House) -> None:
        """Is another one, and asks the same."""

        async def call() -> Any:
            async with openai.AsyncOpenAI(
                base_url=f"{house.url}/v1", api_key="none", max_retries=0
            ) as client:
                return await client.images.generate(prompt=CUBE, size="256x256")

        assert len(house.drawing(lambda: asyncio.run(call())).data) == 1


class TestVariationsAndEdits:
    """images.create_variation and images.edit."""

    def test_an_image_is_varied(self, house: House) -> None:
        """The retired call: a file, and the worker gets it."""
        stored: list[bytes] = []

        def work(job_id: str) -> None:
            stored.append(house.store.get(redis_keys.input_image(job_id, "image")))
            house.draw(job_id)

        answer, job_id = house.during(
            lambda: house.client.images.create_variation(
                image=png(64, mode="RGB"), n=3, size="256x256", user="me"
            ),
            work,
        )
        assert len(answer.data) == 3
        assert opened(httpx.get(answer.data[2].url).content).size == (256, 256)
        assert opened(stored[0]).getpixel((0, 0)) == (255, 0, 0)
        assert house.request(job_id)["n"] == 3

    @pytest.mark.parametrize(
        "files",
        [
            {"image": png(64), "mask": png(64, hole=True, fill="black")},
            {"image": png(64, hole=True)},
            {"image": [("a.png", png(64))], "mask": ("mask.png", png(64, hole=True))},
        ],
        ids=["mask", "own", "list"],
    )
    def test_what_is_transparent_is_redrawn(self, house: House, files: dict[str, Any]) -> None:
        """Of the mask, or of the image itself; whatever colour is there does not count."""
        masks: list[bytes] = []

        def work(job_id: str) -> None:
            masks.append(house.store.get(redis_keys.input_image(job_id, "mask")))
            house.draw(job_id)

        answer, job_id = house.during(
            lambda: house.client.images.edit(
                prompt=CUBE,
                size="256x256",
                response_format="b64_json",
                input_fidelity="high",
                **files,
            ),
            work,
        )
        assert opened(answer.data[0].b64_json).size == (256, 256)
        assert house.request(job_id)["prompt"] == CUBE
        mask = opened(masks[0])
        assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((63, 63))) == ("L", 255, 0)


class TestStream:
    """stream=True."""

    def work(self, house: House) -> Callable[[str], None]:
        """Show six images on the way, then draw."""

        def show(job_id: str) -> None:
            record = house.record(job_id)
            wait_until(record.watched)
            record.start({})
            for step in range(1, 7):
                buffer = io.BytesIO()
                Image.new("RGB", (64, 64), (40 * step, 0, 0)).save(buffer, "WEBP", lossless=True)
                image = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
                progress = Progress(stage="decoder", step=step, steps=6, fraction=step / 6)
                assert record.publish_previews([Preview(index=0, image=image)], progress)
            house.draw(job_id)

        return show

    def test_images_come_as_they_become(self, house: House) -> None:
        """Two of six, spread over the job, as large and in the format that was asked for; then the whole one."""
        events, job_id = house.during(
            lambda: list(
                house.client.images.generate(
                    prompt=CUBE, size="512x512", stream=True, partial_images=2, quality="low"
                )
            ),
            self.work(house),
        )
        assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + [
            "image_generation.completed"
        ]
        assert [event.partial_image_index for event in events[:2]] == [0, 1]
        assert [opened(event.b64_json).getpixel((0, 0))[0] for event in events[:2]] == [
            80,
            160,
        ]  # steps 2 and 4 of 6
        for event in events:
            assert opened(event.b64_json).size == (512, 512)
            assert opened(event.b64_json).format == "PNG"
            assert (event.size, event.quality, event.background, event.output_format) == (
                "512x512",
                "low",
                "opaque",
                "png",
            )
            assert abs(event.created_at - time.time()) < LONG_S
        assert opened(events[2].b64_json).text["unclip"] == json.dumps(
            {"seed": house.request(job_id)["seed"]}
        )
        assert events[2].usage.total_tokens == 0

    def test_without_partial_images_the_whole_one_alone(self, house: House) -> None:
        """And nobody has previews made for it."""
        call = lambda: list(
            house.client.images.generate(
                prompt=CUBE, size="auto", output_format="webp", stream=True
            )
        )  # noqa: E731
        events, job_id = house.during(call, house.draw)
        assert [event.type for event in events] == ["image_generation.completed"]
        assert events[0].size == "64x64"
        assert opened(events[0].b64_json).format == "WEBP"
        assert not house.store.exists(redis_keys.preview_subscribed(job_id))

    def test_an_edit_has_events_of_its_own_name(self, house: House) -> None:
        """The form's text says true and 1, as booleans and numbers do."""
        image = png(64, hole=True)
        call = lambda: list(
            house.client.images.edit(
                image=image, prompt=CUBE, size="256x256", stream=True, partial_images=1
            )
        )  # noqa: E731
        assert [event.type for event in house.during(call, self.work(house))[0]] == [
            "image_edit.partial_image",
            "image_edit.completed",
        ]

    def test_a_failure_is_the_streams_last_event(self, house: House) -> None:
        """The client raises it."""
        call = lambda: list(house.client.images.generate(prompt=CUBE, stream=True))  # noqa: E731
        with pytest.raises(openai.APIError, match="The drawing failed: why") as caught:
            house.during(call, lambda job_id: house.record(job_id).fail("internal", "why"))
        assert caught.value.type == "server_error"

    def test_a_fault_is_told_before_it_begins(self, alone: House) -> None:
        """With its status."""
        with pytest.raises(openai.BadRequestError):
            alone.client.images.generate(prompt="", stream=True)

    def test_who_stops_listening_cancels(self, house: House) -> None:
        """While the job runs."""
        with house.client.images.generate(prompt=CUBE, stream=True, partial_images=1):
            job_id = house.next_job()
            house.record(job_id).start({})
        wait_until(lambda: house.status(job_id) == "cancelled")


class TestModels:
    """models.list and models.retrieve."""

    def test_models_are_dalle_2_and_what_the_workers_draw_with(self, house: House) -> None:
        """A checkpoint's own name may be asked for while a worker has it."""
        assert [model.id for model in house.client.models.list()] == ["dall-e-2"]
        with pytest.raises(openai.InternalServerError, match="No worker is alive that could tell"):
            house.client.images.generate(model="drawn-world", prompt=CUBE)
        house.store.sadd(redis_keys.WORKERS, "w")
        house.store.set(
            redis_keys.worker("w"),
            WorkerHeartbeat(pid=1, slots=1, checkpoint="drawn-world").model_dump_json(),
        )
        assert [model.id for model in house.client.models.list()] == ["dall-e-2", "drawn-world"]
        assert house.client.models.retrieve("drawn-world").owned_by == "unclip-service"
        assert house.client.models.retrieve("dall-e-2").object == "model"
        assert house.drawing(
            lambda: house.client.images.generate(model="drawn-world", prompt=CUBE, size="256x256")
        ).data
        for call in (
            lambda: house.client.models.retrieve("gpt-image-2"),
            lambda: house.client.images.generate(model="gpt-image-2", prompt="a"),
        ):
            with pytest.raises(
                openai.NotFoundError, match="There are 'dall-e-2', 'drawn-world'"
            ) as caught:
                call()
            assert (caught.value.code, caught.value.param, caught.value.type) == (
                "model_not_found",
                "model",
                "invalid_request_error",
            )


class TestErrors:
    """Each is an exception of the client's own."""

    @pytest.mark.parametrize(
        ("fields", "param", "code", "message"),
        [
            ({"prompt": ""}, "prompt", "empty_string", "at least 1 character"),
            (
                {"prompt": "x" * 1001},
                "prompt",
                "string_above_max_length",
                "at most 1000 characters",
            ),
            ({"prompt": "  "}, "prompt", "invalid_value", "it is blank"),
            ({"n": 11}, "n", "integer_above_max_value", "less than or equal to 10"),
            ({"n": 0}, "n", "integer_below_min_value", "greater than or equal to 1"),
            ({"n": "2"}, "n", "invalid_type", "valid integer"),
            (
                {"size": "1792x1024"},
                "size",
                "invalid_value",
                "'256x256', '512x512', '1024x1024' or 'auto' (got '1792x1024')",
            ),
            ({"response_format": "png"}, "response_format", "invalid_value", "'url' or 'b64_json'"),
            ({"background": "transparent"}, "background", "invalid_value", "'auto' or 'opaque'"),
            ({"output_format": "svg"}, "output_format", "invalid_value", "'png', 'webp' or 'jpeg'"),
            (
                {"output_format": "webp", "response_format": "url"},
                "output_format",
                "invalid_value",
                "take response_format b64_json",
            ),
            (
                {"output_compression": 50},
                "output_compression",
                "invalid_value",
                "take output_format webp or jpeg",
            ),
            ({"frame_count": 3}, "frame_count", "unknown_parameter", "There is no such field"),
            ({"stream": True, "n": 2}, "stream", "invalid_value", "take n 1"),
            (
                {"stream": True, "response_format": "url"},
                "stream",
                "invalid_value",
                "leave response_format out",
            ),
            (
                {"stream": True, "partial_images": 4},
                "partial_images",
                "integer_above_max_value",
                "less than or equal to 3",
            ),
            ({"partial_images": 1}, "partial_images", "invalid_value", "take stream true"),
            ({"extra_body": {"steps": 3}}, "steps", "unknown_parameter", "There is no such field"),
            ({"extra_body": {"seed": 2**32 - 1}, "n": 2}, "n", "invalid_value", "take 1 or less"),
        ],
    )
    def test_a_field_that_will_not_do(
        self, alone: House, fields: dict[str, Any], param: str, code: str, message: str
    ) -> None:
        """400, and not 422, with the parameter and a word for programs."""
        with pytest.raises(openai.BadRequestError) as caught:
            alone.client.images.generate(**{"prompt": CUBE, **fields})
        error = caught.value
        assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
        assert message in error.message
        assert set(error.body) == {"message", "type", "param", "code"}

    @pytest.mark.parametrize(
        ("fields", "param", "code", "message"),
        [
            (
                {"image": b"no image", "mask": png(64, hole=True)},
                "image",
                "invalid_image",
                "no image in a format read here",
            ),
            (
                {"image": png((64, 32), hole=True)},
                "image",
                "invalid_image",
                "it is 64×32: send a square one",
            ),
            ({"image": png(64)}, "mask", "invalid_image", "nothing of the image is transparent"),
            (
                {"image": png(64), "mask": png(32, hole=True)},
                "mask",
                "invalid_image",
                "it is 32×32 and the image 64×64",
            ),
            (
                {"image": png(64), "mask": png(64)},
                "mask",
                "invalid_image",
                "nothing of it is transparent",
            ),
            (
                {"image": png(64), "mask": png(64, mode="L", fill="white")},
                "mask",
                "invalid_image",
                "nothing of it is transparent",
            ),
            ({"image": [png(64), png(64)]}, "image", "invalid_image", "there are 2"),
            (
                {"image": png(64, hole=True), "markup": png(64)},
                "markup",
                "unknown_parameter",
                "no such file",
            ),
            ({"image": []}, "image", "missing_required_parameter", "there is none"),
            (
                {"image": png(64, hole=True), "n": 11},
                "n",
                "integer_above_max_value",
                "less than or equal to 10",
            ),
        ],
    )
    def test_an_image_that_will_not_do(
        self, alone: House, fields: dict[str, Any], param: str, code: str, message: str
    ) -> None:
        """Square, of one size, and somewhere transparent, as DALL·E 2 wanted them."""
        with pytest.raises(openai.BadRequestError) as caught:
            alone.client.images.edit(prompt=CUBE, **fields)
        assert (caught.value.param, caught.value.code) == (param, code)
        assert message in caught.value.message
        if param == "image" and "mask" not in fields and isinstance(fields["image"], bytes):
            with pytest.raises(openai.BadRequestError, match=message):
                alone.client.images.create_variation(image=fields["image"])

    def test_a_full_queue_is_a_rate_limit(self, build: Callable[..., House]) -> None:
        """With a time to try again, which the client keeps to by itself."""
        house = build(max_queued_jobs=1)
        httpx.post(f"{house.url}/generate", json={"prompt": CUBE})
        with pytest.raises(openai.RateLimitError, match="1 jobs are waiting") as caught:
            house.client.images.generate(prompt=CUBE)
        assert caught.value.response.headers["retry-after"] == "30"
        assert caught.value.code == "rate_limit_exceeded"

    def test_redis_away_is_the_services_fault(
        self, house: House, redis_server: RedisServer
    ) -> None:
        """503, with a time to try again."""
        redis_server.stop()
        for call in (lambda: house.client.images.generate(prompt=CUBE), house.client.models.list):
            with pytest.raises(openai.InternalServerError, match="Redis does not answer") as caught:
                call()
            assert (caught.value.status_code, caught.value.type) == (503, "server_error")
            assert caught.value.response.headers["retry-after"]

    def test_a_body_too_large(self, build: Callable[..., House]) -> None:
        """413 of a middleware, in OpenAI's form too; calls with images have the larger limit."""
        house = build(max_body_bytes=2048, max_upload_bytes=20_000)
        with pytest.raises(openai.APIStatusError, match="larger than 2048 bytes") as caught:
            house.client.images.generate(prompt=CUBE, user="x" * 3000)
        assert caught.value.status_code == 413
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(openai.BadRequestError):
            house.client.images.create_variation(image=b" " * 10_000)

    @pytest.mark.parametrize(
        ("end", "raised", "message"),
        [
            (
                lambda record: record.fail("internal", "it came to NaN"),
                openai.InternalServerError,
                "The drawing failed: it came to NaN",
            ),
            (
                lambda record: record.fail("invalid", "size is 1024: it draws 64"),
                openai.BadRequestError,
                "it draws 64; 512x512 is drawn at",
            ),
        ],
    )
    def test_what_the_worker_could_not_do(
        self, house: House, end: Callable[[JobRepository], Any], raised: type[Exception], message: str
    ) -> None:
        """Its reason, and no retries: the service has made those that make sense. A size is named by its parameter."""
        with (
            house.client.with_options(max_retries=2) as client,
            pytest.raises(raised, match=message) as caught,
        ):
            house.during(
                lambda: client.images.generate(prompt=CUBE, size="512x512"),
                lambda job_id: end(house.record(job_id)),
            )
        assert caught.value.param == ("size" if raised is openai.BadRequestError else None)  # type: ignore[attr-defined]
        assert house.store.zcard(redis_keys.listing()) == 1

    def test_a_job_that_somebody_cancels(self, house: House) -> None:
        """Is a conflict, and is not drawn again."""
        with pytest.raises(openai.ConflictError, match="was cancelled"):
            house.during(
                lambda: house.client.images.generate(prompt=CUBE),
                lambda job_id: httpx.delete(f"{house.url}/jobs/{job_id}"),
            )

    @pytest.mark.parametrize("runs", [False, True])
    def test_a_client_that_goes_away_cancels_its_job(self, house: House, runs: bool) -> None:
        """Waiting or running: nobody else knows of it."""

        def call() -> None:
            with pytest.raises(openai.APITimeoutError):
                house.client.images.generate(prompt=CUBE, timeout=5)

        thread = threading.Thread(target=call)
        thread.start()
        if runs:
            job_id = house.next_job()
            house.record(job_id).start({})
        else:
            job_id = wait_until(lambda: house.store.lrange(redis_keys.QUEUE_LIST, 0, 0))[0].decode()
        assert house.status(job_id) == ("running" if runs else "queued")
        thread.join(LONG_S)
        wait_until(lambda: house.status(job_id) == "cancelled")
        assert not house.store.llen(redis_keys.QUEUE_LIST)

    def test_without_a_worker_it_is_given_up(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a while, and not held for ever."""
        monkeypatch.setattr(stream, "WORKERLESS_S", 0.5)
        monkeypatch.setattr(stream, "PAUSE_S", 0.3)
        with pytest.raises(openai.InternalServerError, match="No worker has been alive") as caught:
            house.client.images.generate(prompt=CUBE)
        assert caught.value.status_code == 503
        assert house.store.hgetall(redis_keys.OUTCOMES) == {b"generate:cancelled": b"1"}

    @pytest.mark.parametrize(
        ("method", "path", "sent", "status", "message"),
        [
            (
                "POST",
                "/v1/images/generations",
                {"content": b"{", "headers": {"content-type": "application/json"}},
                400,
                "not JSON",
            ),
            ("POST", "/v1/images/generations", {"json": []}, 400, "body"),
            (
                "POST",
                "/v1/images/generations",
                {"data": {"prompt": "a"}},
                400,
                "send application/json",
            ),
            ("POST", "/v1/images/generations", {"json": {}}, 400, "prompt: It is required"),
            (
                "POST",
                "/v1/images/variations",
                {"json": {"image": "aa"}},
                400,
                "send multipart/form-data",
            ),
            (
                "POST",
                "/v1/images/variations",
                {"files": {"image": (None, "aa")}},
                400,
                "send it as a file",
            ),
            (
                "POST",
                "/v1/images/edits",
                {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
                400,
                "could not be read",
            ),
            ("GET", "/v1/chat", {}, 404, "There is nothing at /v1/chat"),
            ("GET", "/v1/images/edits", {}, 405, "it takes POST"),
            (
                "POST",
                "/v1/images/generations",
                {
                    "content": rb'{"prompt": "\ud800"}',
                    "headers": {"content-type": "application/json"},
                },
                400,
                "",
            ),
        ],
    )
    def test_whatever_is_wrong_has_openais_form(
        self, alone: House, method: str, path: str, sent: dict[str, Any], status: int, message: str
    ) -> None:
        """Under /v1, whoever answers; the service's other routes keep theirs."""
        answer = httpx.request(method, alone.url + path, **sent)
        assert (
            answer.status_code == status and answer.headers["content-type"] == "application/json"
        ), answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert message in answer.json()["error"]["message"]
        assert status != 405 or answer.headers["allow"] == "POST"
        assert (
            httpx.get(alone.url + "/nothing").headers["content-type"] == "application/problem+json"
        )

    def test_what_a_dependency_raises_and_what_breaks(self, build: Callable[..., House]) -> None:
        """A key that is none is AuthenticationError; a fault of ours is a 500 that says no more."""

        def keyless() -> None:
            raise Unauthorized("There is no such key.", headers={"WWW-Authenticate": "Bearer"})

        def change(app: Any) -> None:
            @app.get("/v1/locked", dependencies=[Depends(keyless)])
            def locked() -> None: ...

            @app.get("/v1/broken")
            def broken() -> None:
                raise RuntimeError("a secret")

        client = build(change).client
        with pytest.raises(openai.AuthenticationError, match="no such key") as caught:
            client.get("/locked", cast_to=object)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.InternalServerError, match="its log says why") as failed:
            client.get("/broken", cast_to=object)
        assert failed.value.type == "server_error"
        assert "secret" not in failed.value.message
