"""Every operation as a command, for people who live in a shell: `python -m unclip_client`, and the same under `python -m service`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unclip_client import options
from unclip_client.client import Client
from unclip_client.errors import UnclipError
from unclip_client.job import Job

Commands = argparse._SubParsersAction  # argparse has no public name for it
PROMPT: dict[str, Any] = {"metavar": "PROMPT", "help": "a caption"}
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "an image"}
# Each operation: what it does, what stands after it, its flags with an image or caption, and its options.
OPERATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], type]] = {
    "generate": ("draw a caption", {"prompt": PROMPT}, {}, options.Generate),
    "variations": ("draw an image again, differently", {"image": FILE}, {}, options.Variations),
    "interpolate": (
        "frames from one image or caption to another",
        {},
        {"image_a": FILE, "image_b": FILE, "prompt_a": PROMPT, "prompt_b": PROMPT},
        options.Interpolate,
    ),
    "text-diff": (
        "move an image by the difference of two captions",
        {"image": FILE, "prompt_to": PROMPT | {"help": "what the image should show"}},
        {},
        options.TextDiff,
    ),
    "edit": (
        "redraw part of an image",
        {"image": FILE, "prompt": PROMPT},
        {
            "mask": FILE
            | {"help": "white where to redraw; left out, the image's own transparent part"}
        },
        options.Edit,
    ),
    "probe": ("look into an image's embedding", {"image": FILE}, {}, options.Probe),
    "embeddings": (
        "a caption's or an image's embedding, as JSON",
        {},
        {"prompt": PROMPT, "image": FILE},
        options.Queued,
    ),
}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add them all. Each sets `ask`, which takes the parsed arguments and gives an exit status."""
    for name, (told, places, flags, kind) in OPERATIONS.items():
        command = _command(commands, name, told)
        for place, how in places.items():
            command.add_argument(place, **how)
        for flag, how in flags.items():
            command.add_argument(_flag(flag), **how)
        names = [*places, *flags, *_add_options(command, kind)]
        if name != "embeddings":
            command.add_argument(
                "-o",
                "--output",
                type=_output,
                metavar="FILE",
                help="where to write it; several as FILE-0, FILE-1, …",
            )
            command.add_argument(
                "--no-wait",
                action="store_true",
                help="print the job's id and be gone; `get` takes up from there",
            )
        command.set_defaults(ask=_guarded(_operate), operation=name, names=names)
    command = _command(commands, "get", "wait for an earlier job, and write its images")
    command.add_argument("id", help="the job's id")
    command.add_argument("-o", "--output", type=_output, metavar="FILE", help="where to write it")
    command.set_defaults(
        ask=_guarded(lambda client, asked: _finish(client.job(asked.id), asked.output))
    )
    command = _command(commands, "jobs", "list jobs, newest first")
    command.add_argument(
        "--status",
        choices=("queued", "running", "succeeded", "failed", "cancelled"),
        help="only those that stand so",
    )
    command.add_argument(
        "--operation", choices=tuple(OPERATIONS), help="only those of one operation"
    )
    command.add_argument("--limit", type=int, default=20, help="most jobs; 20")
    command.set_defaults(ask=_guarded(_list))
    command = _command(commands, "cancel", "end jobs, waiting or running")
    command.add_argument("ids", nargs="+", metavar="ID", help="a job's id")
    command.set_defaults(ask=_guarded(_cancel))


def _command(
    commands: Commands[argparse.ArgumentParser], name: str, told: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=told,
        description=f"{told[0].upper()}{told[1:]}. UNCLIP_API_KEY is sent where it is set.",
    )
    command.add_argument(
        "--url", help="the service's address; else UNCLIP_URL, else http://localhost:8000"
    )
    return command


def _output(text: str) -> Path:
    """A path that can be written to, said before anything is drawn for it."""
    path = Path(text)
    if path.suffix.lower() not in (".png", ".webp", ".apng"):
        raise argparse.ArgumentTypeError(
            f"{text} will not do: images are .png, and animations .webp or .apng"
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_options(command: argparse.ArgumentParser, kind: type) -> list[str]:
    """A flag for each option of an operation, and their names."""
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in hints.items():
        said, told = get_args(hint)
        how: dict[str, Any] = {"type": said}
        if get_origin(said) is list:
            how = {"nargs": "+", "type": said}
            (said,) = get_args(said)
            how["type"] = said
        if get_origin(said) is Literal:
            choices = get_args(said)
            how |= {"type": type(choices[0]), "choices": choices}
        else:
            how["metavar"] = {int: "NUMBER", float: "NUMBER"}.get(said, "TEXT")
        command.add_argument(_flag(name), help=told, **how)
    return list(hints)


def _guarded(run: Any) -> Any:
    """A command that says in one line what went wrong, and ends with 1."""

    def guarded(arguments: argparse.Namespace) -> int:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        shown = sys.stderr.isatty() and find_spec("tqdm") is not None
        try:
            with Client(arguments.url, progress=shown) as client:
                return int(run(client, arguments))
        except (UnclipError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1

    return guarded


def _operate(client: Client, arguments: argparse.Namespace) -> int:
    asked = {
        name: value for name in arguments.names if (value := getattr(arguments, name)) is not None
    }
    output: Path | None = getattr(arguments, "output", None)
    if (
        output is not None
        and output.suffix in (".webp", ".apng")
        and "animation" in arguments.names
    ):
        asked.setdefault("animation", output.suffix[1:])
    job = getattr(client.submit, arguments.operation.replace("-", "_"))(**asked)
    if getattr(arguments, "no_wait", False):
        print(job.id)
        return 0
    return _finish(job, output)


def _finish(job: Job, output: Path | None) -> int:
    """Wait for a job, write and tell what it came to. Ctrl-C cancels it."""
    try:
        job.wait()
    except KeyboardInterrupt:
        print(f"job {job.id} is {job.cancel().status}", file=sys.stderr)
        return 130
    for warning in job.warnings:
        print(warning, file=sys.stderr)
    if job.operation == "embeddings":
        print(json.dumps(job.result))
    for told in (job.result or {}).get("labels", []):
        print(f"{told['probability']:.4f}  {told['label']}")
    if job.images:
        for path in job.save(output or Path(f"{job.id}.png")):
            print(path)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> int:
    filters = {
        name: value for name in ("status", "operation") if (value := getattr(arguments, name))
    }
    for job in islice(client.jobs(**filters), arguments.limit):
        print(
            f"{job.id}  {job.data['created_at'][:19]}  {job.status:9}  {job.operation:11}  {job.data['prompt'] or ''}".rstrip()
        )
    return 0


def _cancel(client: Client, arguments: argparse.Namespace) -> int:
    for job_id in arguments.ids:
        print(f"{job_id}  {client.job(job_id).cancel().status}")
    return 0
