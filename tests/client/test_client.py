"""The client against a real service and worker, over good lines and bad ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from support.deployment import House, opened

from devtools.ports import free_port
from unclip_client import AwayError, Client, Job, JobCancelledError, JobFailedError, ProblemError

SMALL: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 4}
LONG: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 1000}


class Line(httpx.HTTPTransport):
    """A line to the service on which things go wrong: each of `mishaps` is what happens to one request that it fits, in turn."""

    def __init__(
        self,
        *mishaps: Callable[[httpx.Request, Callable[[], httpx.Response]], httpx.Response | None],
    ) -> None:
        super().__init__()
        self.mishaps = list(mishaps)
        self.requests = list[httpx.Request]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if (
            self.mishaps
            and (
                answer := self.mishaps[0](
                    request, lambda: super(Line, self).handle_request(request)
                )
            )
            is not None
        ):
            self.mishaps.pop(0)
            return answer
        return super().handle_request(request)


class Lost(httpx.SyncByteStream):
    """Nothing comes any more."""

    def __iter__(self) -> Iterator[bytes]:
        raise httpx.ReadError("the line broke")
        yield b""


def answer_lost(
    request: httpx.Request, send: Callable[[], httpx.Response]
) -> httpx.Response | None:
    """The service accepts the work, and its answer gets lost."""
    if request.method != "POST":
        return None
    assert send().read()
    return httpx.Response(202, stream=Lost())


def refused(status: int, after: str) -> Callable[..., httpx.Response | None]:
    """The service is full or away."""
    return lambda request, send: (
        httpx.Response(status, headers={"retry-after": after}, json={})
        if request.method == "POST"
        else None
    )


def cut(events: int) -> Callable[..., httpx.Response | None]:
    """The event stream breaks off in the middle of an event, after so many."""

    def cutting(
        request: httpx.Request, send: Callable[[], httpx.Response]
    ) -> httpx.Response | None:
        if not request.url.path.endswith("/events"):
            return None
        answer = send()

        class Broken(httpx.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                left = events
                for chunk in answer.stream:  # type: ignore[union-attr]
                    left -= b"\nid: " in chunk or chunk.startswith(b"id: ")
                    if left < 0:
                        yield chunk[: len(chunk) // 2]
                        raise httpx.ReadError("the line broke")
                    yield chunk

            def close(self) -> None:
                answer.close()

        return httpx.Response(200, headers=answer.headers, stream=Broken())

    return cutting


@pytest.fixture
def over(house: House) -> Iterator[Callable[..., tuple[Client, Line]]]:
    """A client on a bad line, and the line."""
    clients = []

    def make(*mishaps: Any, **options: Any) -> tuple[Client, Line]:
        line = Line(*mishaps)
        clients.append(Client(str(house.http.base_url), transport=line, **options))
        return clients[-1], line

    yield make
    for client in clients:
        client.close()


def test_a_caption_becomes_a_file(client: Client, house: House, tmp_path: Path) -> None:
    """In one line; the image says how it was drawn, in its chunk as by its route."""
    job = client.generate("a red cube", seed=4, **SMALL)
    assert job.save(tmp_path / "a.png") == [tmp_path / "a.png"]
    (image,) = job.images
    content = (tmp_path / "a.png").read_bytes()
    assert content == image.content == house.http.get(f"/jobs/{job.id}/images/0.png").content
    assert image.image().size == (image.width, image.height) == (64, 64)
    assert image.provenance == json.loads(opened(content).text["unclip"])  # type: ignore[attr-defined]
    assert (
        (image.provenance["seed"], image.provenance["prompt"])
        == (image.seed, "a red cube")
        == (4, "a red cube")
    )
    assert (job.status, job.operation, job.parameters["sampler"], job.warnings) == (
        "succeeded",
        "generate",
        "dpm++",
        [],
    )
    with pytest.raises(ValueError, match=r"a\.jpg will not do: images are PNGs"):
        job.save(tmp_path / "a.jpg")


def test_images_go_from_operation_to_operation(client: Client, tmp_path: Path) -> None:
    """As the job that drew one, as the image, as a file, as bytes, and as Pillow has it."""
    cube = client.generate("a red cube", **SMALL)
    (path,) = cube.save(tmp_path / "cube.png")
    varied = client.variations(cube, n=2, eta=0.3, **SMALL)
    assert [saved.name for saved in varied.save(tmp_path / "v.png")] == ["v-0.png", "v-1.png"]
    with pytest.raises(ValueError, match="has 2 images: give one of them"):
        client.variations(varied)
    way = client.interpolate(
        image_a=varied.images[1], prompt_b="a cone", frames=3, animation="webp", **SMALL
    )
    assert len(way.images) == 3
    assert way.save(tmp_path / "way.webp") == [tmp_path / "way.webp"]
    assert opened((tmp_path / "way.webp").read_bytes()).n_frames == 4  # type: ignore[attr-defined]
    assert (
        len(client.text_diff(path, "a cone", prompt_from="a cube", frames=2, **SMALL).images) == 2
    )
    edited = client.edit(path.read_bytes(), "a cone", mask=Image.new("L", (64, 64), 255), **SMALL)
    assert edited.images[0].provenance["inputs"].keys() == {"image", "mask"}
    probed = client.probe(str(path), labels=["a cube", "a cone"], components=[2], **SMALL)
    assert probed.result is not None
    assert [found["label"] for found in probed.result["labels"]] == ["a cube", "a cone"]
    z_i = client.embeddings(image=cube).result
    assert z_i is not None
    assert z_i["kind"] == "z_i"
    assert client.generate(z_i=z_i["embedding"], **SMALL).status == "succeeded"
    assert (
        client.generate(mix=[{"prompt": "a cone"}, {"image": cube, "weight": 0.5}], **SMALL).status
        == "succeeded"
    )
    with pytest.raises(ValueError, match="no animation"):
        cube.save(tmp_path / "cube.webp")


def test_a_job_is_submitted_watched_and_cancelled(client: Client) -> None:
    """Without waiting for it; images so far come while it is drawn."""
    job = client.submit.generate("a grey cone", n=4, **LONG)
    assert isinstance(job, Job)
    assert job.status in ("queued", "running")
    assert job.images == []
    preview = next(job.previews())
    assert opened(preview.content).size == (64, 64)
    assert preview.index in range(4)
    assert 0 <= preview.fraction < 1
    assert client.job(job.id).cancel().status == "cancelled"
    with pytest.raises(JobCancelledError, match=job.id):
        job.wait()
    assert [event.name for event in job.events()][-1] == "ended"


def test_waiting_has_an_end(client: Client) -> None:
    """The job goes on."""
    job = client.submit.generate("a grey cone", n=4, **LONG)
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.2)
    assert job.refresh().status in ("queued", "running")
    job.cancel()


def test_earlier_jobs_are_listed_with_everything_they_have(client: Client) -> None:
    """Newest first; what the list leaves out is asked for."""
    drawn = [client.generate("a cone", seed=seed, **SMALL).id for seed in range(2)]
    first, second, *_ = client.jobs(status="succeeded", operation="generate")
    assert [first.id, second.id] == drawn[::-1]
    assert first.parameters["seed"] == 1
    assert len(first.images) == 1


def test_what_is_refused_is_an_exception_that_carries_the_problem(client: Client) -> None:
    """At once where the request is wrong; where only the worker can tell, when the job ends."""
    with pytest.raises(ProblemError, match="422 Unprocessable") as wrong:
        client.generate("a cone", n=11)
    assert wrong.value.status == 422
    assert wrong.value.errors[0]["field"] == "n"
    assert wrong.value.errors[0]["got"] == "11"
    with pytest.raises(ProblemError, match="no job 'none'"):
        client.job("none")
    with pytest.raises(JobFailedError, match="keeps 6") as failed:
        client.probe(Image.new("RGB", (8, 8)), components=[99], **SMALL)
    assert failed.value.kind == "invalid"
    assert failed.value.job.status == "failed"


def test_an_answer_that_gets_lost_is_asked_for_again_and_nothing_is_drawn_twice(
    over: Callable[..., tuple[Client, Line]],
) -> None:
    """By an Idempotency-Key that the client makes: new for each operation, kept when one is tried again."""
    client, line = over(answer_lost, answer_lost)
    before = {job.id for job in client.jobs()}
    first = client.submit.generate("a cone", **SMALL)
    second = client.submit.generate("a cone", **SMALL)
    assert {job.id for job in client.jobs()} - before == {first.id, second.id}
    assert first.id != second.id
    keys = [
        request.headers["idempotency-key"] for request in line.requests if request.method == "POST"
    ]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    named = [
        client.submit.generate("a cone", idempotency_key=f"mine {first.id}", **SMALL).id
        for _ in range(2)
    ]
    assert named[0] == named[1]


def test_a_full_service_is_asked_again_when_it_says(
    over: Callable[..., tuple[Client, Line]],
) -> None:
    """429 and 503 by Retry-After, as long as that fits the client's patience."""
    client, line = over(refused(429, "1"), refused(503, "0.5"))
    started = time.monotonic()
    assert client.generate("a cone", **SMALL).status == "succeeded"
    assert time.monotonic() - started >= 1.5
    assert [request.method for request in line.requests][:3] == ["POST"] * 3
    client, line = over(refused(429, "30"), patience=20)
    with pytest.raises(ProblemError, match="429"):
        client.generate("a cone")
    assert len(line.requests) == 1
    with (
        pytest.raises(AwayError, match="does not answer"),
        Client(f"http://127.0.0.1:{free_port()}", patience=0) as nobody,
    ):
        nobody.generate("a cone")
    with pytest.raises(ValueError, match="it begins with http"):
        Client("localhost:8000")


def test_events_go_on_where_the_line_broke(over: Callable[..., tuple[Client, Line]]) -> None:
    """In the middle of an event, twice: each is told once, in order, none is missing, and the wait ends with the job."""
    client, line = over(cut(1), cut(2))
    job = client.submit.generate("a grey cone", size=64, decoder_num_inference_steps=600)
    told = [event for event in job.events() if event.id]
    whole = [event for event in client.job(job.id).events() if event.id]
    assert told == whole
    assert told[-1].name == "ended"
    assert len(told) > 3
    resumed = [
        request.headers.get("last-event-id")
        for request in line.requests
        if request.url.path.endswith("/events")
    ]
    assert resumed == [None, told[0].id, told[2].id, None]


def test_redis_away_for_a_while_is_waited_out(
    house: House, over: Callable[..., tuple[Client, Line]]
) -> None:
    """503 at the POST, then the same request again: one job, one image."""
    client, line = over()
    house.redis.stop()
    comes = threading.Timer(3, house.redis.start)
    comes.start()
    try:
        assert client.generate("a cone", seed=77, **SMALL).images[0].seed == 77
    finally:
        comes.join()
    posts = [request for request in line.requests if request.method == "POST"]
    assert len(posts) > 1
    assert len({request.headers["idempotency-key"] for request in posts}) == 1


def test_a_bar_shows_how_far_the_job_is(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the stage and the share; without being asked for, none."""
    request: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 600}
    client.generate("a grey cone", **request)
    assert capsys.readouterr().err == ""
    client.progress = True
    client.generate("a grey cone", **request)
    shown = capsys.readouterr().err
    assert "decoder" in shown
    assert " %|" in shown


def test_a_key_is_sent_where_there_is_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, or from the environment, beside the service's address."""
    monkeypatch.setenv("UNCLIP_URL", str(house.http.base_url))
    for given, sent in (("mine", "Bearer mine"), (None, None)):
        line = Line()
        with Client(api_key=given, transport=line) as client:
            list(client.jobs())
        assert line.requests[0].headers.get("authorization") == sent
        assert line.requests[0].url.port == house.http.base_url.port
    monkeypatch.setenv("UNCLIP_API_KEY", "theirs")
    with Client() as client:
        assert client.http.headers["authorization"] == "Bearer theirs"
