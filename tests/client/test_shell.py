"""The commands, and the examples, as somebody in a shell runs them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.deployment import House, opened

from unclip_client import Client, shell

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "64", "--decoder-num-inference-steps", "4"]


@pytest.fixture
def run(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[str]]:
    """A command's lines on stdout, in a folder of the test's own; it must end with 0 unless told otherwise."""
    monkeypatch.setenv("UNCLIP_URL", str(house.http.base_url))
    monkeypatch.chdir(tmp_path)

    def call(*words: str, status: int = 0) -> list[str]:
        parser = argparse.ArgumentParser()
        shell.add_commands(parser.add_subparsers(required=True))
        arguments = parser.parse_args(words)
        assert arguments.ask(arguments) == status, capsys.readouterr().err
        told = capsys.readouterr()
        assert bool(told.err) == (status != 0)
        return (told.err if status else told.out).splitlines()

    return call


def process(house: House, *words: str) -> str:
    """What a process says that is run beside the service."""
    environment = house.environment | {
        "UNCLIP_URL": str(house.http.base_url),
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_service_module_draws(house: House, tmp_path: Path) -> None:
    """`python -m service generate`; without a command it serves, as this house's does."""
    told = process(
        house,
        "-m",
        "service",
        "generate",
        "a red cube",
        "-o",
        str(tmp_path / "a.png"),
        "--seed",
        "3",
        *SMALL,
    )
    assert told == f"{tmp_path / 'a.png'}\n"
    assert opened((tmp_path / "a.png").read_bytes()).size == (64, 64)


def test_an_image_from_the_service_is_drawn_again_where_the_weights_are(
    house: House, client: Client, tmp_path: Path
) -> None:
    """From its PNG and the photograph that was sent for it, by the worker's own command."""
    photo = tmp_path / "photo.jpg"
    varied = tmp_path / "varied.png"
    Image.effect_noise((120, 80), 90).convert("RGB").save(photo)
    client.variations(photo, size=64, seed=5, decoder_num_inference_steps=4).save(varied)
    told = process(
        house,
        "-m",
        "worker",
        "redraw",
        str(varied),
        "--input",
        str(photo),
        "-o",
        str(tmp_path / "again.png"),
    )
    assert told.startswith("the same image: it differs by ")
    assert opened((tmp_path / "again.png").read_bytes()).size == (64, 64)


def test_every_operation_is_a_command(run: Callable[..., list[str]]) -> None:
    """It writes what it drew, and prints where that is and what was found."""
    assert run("generate", "a red cube", "--n", "2", "-o", "a.png", *SMALL) == [
        "a-0.png",
        "a-1.png",
    ]
    assert run("variations", "a-0.png", "--eta", "0.2", "-o", "v.png", *SMALL) == ["v.png"]
    assert run(
        "interpolate",
        "--image-a",
        "a-0.png",
        "--prompt-b",
        "a cone",
        "--frames",
        "2",
        "-o",
        "i.apng",
        *SMALL,
    ) == ["i.apng"]
    assert run(
        "text-diff",
        "v.png",
        "a cone",
        "--prompt-from",
        "a cube",
        "--frames",
        "2",
        "-o",
        "t.png",
        *SMALL,
    ) == ["t-0.png", "t-1.png"]
    Image.new("L", (64, 64), 255).save("mask.png")
    assert run("edit", "v.png", "a cone", "--mask", "mask.png", "-o", "e.png", *SMALL) == ["e.png"]
    labels = run("probe", "v.png", "--labels", "a cube", "a cone")
    assert [line.split("  ")[1] for line in labels] == ["a cube", "a cone"]
    (embedding,) = run("embeddings", "--prompt", "a cube")
    assert json.loads(embedding)["kind"] == "z_t"
    assert all(
        Path(name).stat().st_size for name in ("a-1.png", "v.png", "i.apng", "t-1.png", "e.png")
    )


def test_jobs_are_left_listed_fetched_and_cancelled(
    run: Callable[..., list[str]], client: Client
) -> None:
    """By their ids."""
    (job_id,) = run("generate", "a cone", "--no-wait", *SMALL)
    assert run("get", job_id, "-o", "later.png") == ["later.png"]
    (line,) = run("jobs", "--operation", "generate", "--limit", "1")
    assert line.startswith(job_id)
    assert line.endswith("succeeded  generate     a cone")
    (job_id,) = run(
        "generate",
        "a cone",
        "--n",
        "4",
        "--decoder-num-inference-steps",
        "1000",
        "--size",
        "64",
        "--no-wait",
    )
    assert run("cancel", job_id) == [f"{job_id}  cancelled"]
    assert client.job(job_id).status == "cancelled"


def test_what_goes_wrong_is_one_line(
    run: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the service, of a file, of the address; and nothing is drawn."""
    for words, told in (
        (("generate", "a cone", "--n", "11"), "422 Unprocessable"),
        (("variations", "none.png"), "none.png"),
        (("generate", "a cone", "--url", "nowhere"), "'nowhere'"),
        (("get", "none"), "no job 'none'"),
    ):
        (line,) = run(*words, status=1)
        assert told in line
    for path, told in (("a.jpg", "images are .png"), ("none/a.png", "there is no folder none")):
        with pytest.raises(SystemExit):
            run("generate", "a cone", "-o", path)
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("example", "words", "made"),
    [
        ("contact_sheet", ["a red cube", "out.png"], ["out.png"]),
        ("interpolation", ["a red cube", "a cone", "out.webp"], ["out.webp"]),
        (
            "text_diff",
            ["a red cube", "a blue cube", "out.png"],
            [f"out-{index}.png" for index in range(5)],
        ),
    ],
)
def test_the_examples_run(
    house: House, tmp_path: Path, example: str, words: list[str], made: list[str]
) -> None:
    """Each as its first line says."""
    *captions, path = words
    process(house, str(ROOT / "examples" / f"{example}.py"), *captions, str(tmp_path / path))
    for name in made:
        image = opened((tmp_path / name).read_bytes())
    assert (image.size, getattr(image, "n_frames", 1)) == {
        "contact_sheet": ((266, 266), 1),
        "interpolation": ((64, 64), 22),
        "text_diff": ((64, 64), 1),
    }[example]
