"""Every operation as a shell command: `unclip generate "a red cube" -o out.png`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unclip_client import options
from unclip_client.client import Client
from unclip_client.errors import UnclipError
from unclip_client.job import Job

Commands = argparse._SubParsersAction  # argparse has no public name for it
Run = Callable[[Client, argparse.Namespace], int]

PROMPT: dict[str, Any] = {"metavar": "PROMPT", "help": "a text"}
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "an image"}
MASK: dict[str, Any] = FILE | {
    "help": "white where the image is regenerated (default: its transparent part)"
}
ANIMATIONS = (".webp", ".apng")


@dataclass(frozen=True)
class Operation:
    """Command-line form of an operation: help, positional arguments, flags, options."""

    help: str
    options: type
    positional: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)


OPERATIONS = {
    "generate": Operation(
        "generate images from a prompt", options.GenerateOptions, {"prompt": PROMPT}
    ),
    "variations": Operation(
        "generate variations of an image", options.VariationsOptions, {"image": FILE}
    ),
    "interpolate": Operation(
        "interpolate between images or prompts",
        options.InterpolateOptions,
        flags={"image_a": FILE, "image_b": FILE, "prompt_a": PROMPT, "prompt_b": PROMPT},
    ),
    "text-diff": Operation(
        "change an image by the difference of two prompts",
        options.TextDiffOptions,
        {"image": FILE, "prompt_to": PROMPT | {"help": "what the image should show"}},
    ),
    "edit": Operation(
        "regenerate part of an image",
        options.EditOptions,
        {"image": FILE, "prompt": PROMPT},
        {"mask": MASK},
    ),
    "probe": Operation("probe an image's embedding", options.ProbeOptions, {"image": FILE}),
    "embeddings": Operation(
        "print the embedding of a prompt or an image as JSON",
        options.QueueOptions,
        flags={"prompt": PROMPT, "image": FILE},
    ),
}


def main() -> None:
    """Run the command `unclip` and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="unclip", description="Client of an unCLIP service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, operation in OPERATIONS.items():
        _add_operation(commands, name, operation)
    _add_job_commands(commands)
    arguments = parser.parse_args(words)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with Client(arguments.url, progress=sys.stderr.isatty()) as client:
            return int(arguments.run(client, arguments))
    except (UnclipError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _add_operation(
    commands: Commands[argparse.ArgumentParser], name: str, operation: Operation
) -> None:
    command = _add_command(commands, name, operation.help, _run_operation)
    for argument, settings in operation.positional.items():
        command.add_argument(argument, **settings)
    for flag, settings in operation.flags.items():
        command.add_argument(_flag(flag), **settings)
    option_names = _add_options(command, operation.options)
    if name != "embeddings":
        help_text = "where to write the image; several are written to FILE-0, FILE-1, …"
        command.add_argument("-o", "--output", type=_output, metavar="FILE", help=help_text)
        help_text = "print the job id and exit; `unclip get` fetches the images later"
        command.add_argument("--no-wait", action="store_true", help=help_text)
    names = [*operation.positional, *operation.flags, *option_names]
    command.set_defaults(operation=name, names=names)


def _add_job_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    get = _add_command(commands, "get", "wait for an earlier job and write its images", _get)
    get.add_argument("id", help="job id")
    get.add_argument("-o", "--output", type=_output, metavar="FILE", help="where to write them")

    jobs = _add_command(commands, "jobs", "list jobs, newest first", _list)
    statuses = ("queued", "running", "succeeded", "failed", "cancelled")
    jobs.add_argument("--status", choices=statuses, help="list only jobs of this status")
    jobs.add_argument("--operation", choices=tuple(OPERATIONS), help="list only this operation")
    jobs.add_argument("--limit", type=int, default=20, help="maximum number (default: 20)")

    cancel = _add_command(commands, "cancel", "cancel waiting or running jobs", _cancel)
    cancel.add_argument("ids", nargs="+", metavar="ID", help="job id")


def _add_command(
    commands: Commands[argparse.ArgumentParser], name: str, help_text: str, run: Run
) -> argparse.ArgumentParser:
    description = f"{help_text[0].upper()}{help_text[1:]}. Sends UNCLIP_API_KEY if it is set."
    command = commands.add_parser(name, help=help_text, description=description)
    command.add_argument(
        "--url", help="URL of the service (default: UNCLIP_URL, or http://localhost:8000)"
    )
    command.set_defaults(run=run)
    return command


def _output(text: str) -> Path:
    """Parse an output path, and reject one that cannot be written before any work is done."""
    path = Path(text)
    if path.suffix.lower() not in (".png", *ANIMATIONS):
        raise argparse.ArgumentTypeError(
            f"cannot write {text}: images are .png, animations .webp or .apng"
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_options(command: argparse.ArgumentParser, kind: type) -> list[str]:
    """Add a flag for each option of a TypedDict, and return the options' names."""
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in hints.items():
        annotation, help_text = get_args(hint)
        settings: dict[str, Any] = {"help": help_text}
        if get_origin(annotation) is list:
            settings["nargs"] = "+"
            (annotation,) = get_args(annotation)
        if get_origin(annotation) is Literal:
            choices = get_args(annotation)
            settings |= {"type": type(choices[0]), "choices": choices}
        else:
            metavar = "TEXT" if annotation is str else "NUMBER"
            settings |= {"type": annotation, "metavar": metavar}
        command.add_argument(_flag(name), **settings)
    return list(hints)


def _run_operation(client: Client, arguments: argparse.Namespace) -> int:
    values = {name: getattr(arguments, name) for name in arguments.names}
    fields = {name: value for name, value in values.items() if value is not None}
    output: Path | None = getattr(arguments, "output", None)
    if output is not None and output.suffix in ANIMATIONS and "animation" in values:
        fields.setdefault("animation", output.suffix[1:])
    job = getattr(client.submit, arguments.operation.replace("-", "_"))(**fields)
    if getattr(arguments, "no_wait", False):
        print(job.id)
        return 0
    return _finish(job, output)


def _get(client: Client, arguments: argparse.Namespace) -> int:
    return _finish(client.get_job(arguments.id), arguments.output)


def _finish(job: Job, output: Path | None) -> int:
    """Wait for a job, write its images and print its result. Ctrl-C cancels it."""
    try:
        job.wait()
    except KeyboardInterrupt:
        print(f"job {job.id} is {job.cancel().status}", file=sys.stderr)
        return 130
    for warning in job.warnings:
        print(warning, file=sys.stderr)
    if job.operation == "embeddings":
        print(json.dumps(job.result))
    for label in (job.result or {}).get("labels", []):
        print(f"{label['probability']:.4f}  {label['label']}")
    if job.images:
        for path in job.save(output or Path(f"{job.id}.png")):
            print(path)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> int:
    filters = {"status": arguments.status, "operation": arguments.operation}
    jobs = client.list_jobs(**{name: value for name, value in filters.items() if value})
    for job in islice(jobs, arguments.limit):
        created_at = job.data["created_at"][:19]
        prompt = job.data["prompt"] or ""
        print(f"{job.id}  {created_at}  {job.status:9}  {job.operation:11}  {prompt}".rstrip())
    return 0


def _cancel(client: Client, arguments: argparse.Namespace) -> int:
    for job_id in arguments.ids:
        print(f"{job_id}  {client.get_job(job_id).cancel().status}")
    return 0
