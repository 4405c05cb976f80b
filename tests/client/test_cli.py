"""The shell commands and the examples against a real service and worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.deployment import DeploymentUnderTest
from support.images import load_png

from unclip_client import Client, cli

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "64", "--decoder-num-inference-steps", "4"]

RunCommand = Callable[..., list[str]]


@pytest.fixture
def run_command(
    deployment: DeploymentUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> RunCommand:
    """Return a function that runs a command line and returns the lines of its output.

    It checks the exit status. The output is stdout after success and stderr after failure; the
    other one must be empty after success.
    """
    monkeypatch.setenv("UNCLIP_URL", deployment.url)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> list[str]:
        assert cli.run(list(words)) == status, capsys.readouterr().err
        output = capsys.readouterr()
        assert bool(output.err) == (status != 0)
        return (output.err if status else output.out).splitlines()

    return run


def run_process(deployment: DeploymentUnderTest, *words: str) -> str:
    """Run Python with these arguments against the service, and return its stdout."""
    environment = deployment.environment | {"UNCLIP_URL": deployment.url, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_module_is_the_command(deployment: DeploymentUnderTest, tmp_path: Path) -> None:
    """`python -m unclip_client` writes an image and prints its path."""
    path = tmp_path / "a.png"
    words = ["-m", "unclip_client", "generate", "a red cube", "-o", str(path), *SMALL]
    assert run_process(deployment, *words) == f"{path}\n"
    assert load_png(path.read_bytes()).size == (64, 64)


def test_a_worker_reproduces_an_image_from_the_service(
    deployment: DeploymentUnderTest, client: Client, tmp_path: Path
) -> None:
    """`python -m worker reproduce` needs the PNG and the photograph that was sent for it."""
    photo = tmp_path / "photo.jpg"
    variation = tmp_path / "variation.png"
    copy = tmp_path / "copy.png"
    Image.effect_noise((120, 80), 90).convert("RGB").save(photo)
    client.variations(photo, size=64, seed=5, decoder_num_inference_steps=4).save(variation)
    words = ["reproduce", str(variation), "--input", str(photo), "-o", str(copy)]
    output = run_process(deployment, "-m", "worker", *words)
    assert "differ" in output
    assert load_png(copy.read_bytes()).size == (64, 64)


def test_every_operation_is_a_command(run_command: RunCommand) -> None:
    """Each command writes its images, and prints their paths and its result."""
    output = run_command("generate", "a red cube", "--n", "2", "-o", "a.png", *SMALL)
    assert output == ["a-0.png", "a-1.png"]
    output = run_command("variations", "a-0.png", "--eta", "0.2", "-o", "v.png", *SMALL)
    assert output == ["v.png"]
    ends = ["--image-a", "a-0.png", "--prompt-b", "a cone", "--frames", "2"]
    assert run_command("interpolate", *ends, "-o", "i.apng", *SMALL) == ["i.apng"]
    words = ["v.png", "a cone", "--prompt-from", "a cube", "--frames", "2"]
    assert run_command("text-diff", *words, "-o", "t.png", *SMALL) == ["t-0.png", "t-1.png"]
    Image.new("L", (64, 64), 255).save("mask.png")
    output = run_command("edit", "v.png", "a cone", "--mask", "mask.png", "-o", "e.png", *SMALL)
    assert output == ["e.png"]
    labels = run_command("probe", "v.png", "--labels", "a cube", "a cone")
    assert [line.split("  ")[1] for line in labels] == ["a cube", "a cone"]
    (embedding,) = run_command("embeddings", "--prompt", "a cube")
    assert json.loads(embedding)["kind"] == "z_t"
    for name in ("a-1.png", "v.png", "i.apng", "t-1.png", "e.png"):
        assert Path(name).stat().st_size > 0


def test_jobs_are_fetched_listed_and_cancelled(run_command: RunCommand, client: Client) -> None:
    """`get`, `jobs` and `cancel` work on the id that --no-wait prints."""
    (job_id,) = run_command("generate", "a cone", "--no-wait", *SMALL)
    assert run_command("get", job_id, "-o", "later.png") == ["later.png"]
    (line,) = run_command("jobs", "--operation", "generate", "--limit", "1")
    assert line.startswith(job_id)
    assert line.endswith("succeeded  generate     a cone")
    slow = ["--n", "4", "--decoder-num-inference-steps", "1000", "--size", "64"]
    (job_id,) = run_command("generate", "a cone", *slow, "--no-wait")
    assert run_command("cancel", job_id) == [f"{job_id}  cancelled"]
    assert client.get_job(job_id).status == "cancelled"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "a cone", "--n", "11"], "422 Unprocessable"),
        (["variations", "none.png"], "none.png"),
        (["generate", "a cone", "--url", "nowhere"], "'nowhere'"),
        (["get", "none"], "404 "),
    ],
)
def test_an_error_is_one_line(run_command: RunCommand, words: list[str], message: str) -> None:
    """Errors of the service, of a file and of the URL go to stderr, and the status is 1."""
    (line,) = run_command(*words, status=1)
    assert message in line


@pytest.mark.parametrize(
    ("path", "message"),
    [("a.jpg", "images are .png"), ("none/a.png", "there is no folder none")],
)
def test_an_output_path_is_checked_first(
    run_command: RunCommand, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    """No job is submitted for an image that could not be written."""
    with pytest.raises(SystemExit):
        run_command("generate", "a cone", "-o", path)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("example", "prompts", "output", "names", "size", "num_frames"),
    [
        ("contact_sheet", ["a red cube"], "out.png", ["out.png"], (266, 266), 1),
        ("interpolation", ["a red cube", "a cone"], "out.webp", ["out.webp"], (64, 64), 22),
        (
            "text_diff",
            ["a red cube", "a blue cube"],
            "out.png",
            [f"out-{index}.png" for index in range(5)],
            (64, 64),
            1,
        ),
    ],
)
def test_examples_run(
    deployment: DeploymentUnderTest,
    tmp_path: Path,
    example: str,
    prompts: list[str],
    output: str,
    names: list[str],
    size: tuple[int, int],
    num_frames: int,
) -> None:
    """Each example writes the files that its first line promises."""
    script = ROOT / "examples" / f"{example}.py"
    run_process(deployment, str(script), *prompts, str(tmp_path / output))
    for name in names:
        image = load_png((tmp_path / name).read_bytes())
        assert image.size == size
        assert getattr(image, "n_frames", 1) == num_frames
