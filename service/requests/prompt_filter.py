"""The prompt filter: reject prompts that contain a word of the operator's list.

The list is a file with one word or phrase a line, matched as whole words, or a regular expression
between slashes, matched anywhere. Lines that begin with # are comments. Prompts are compared as
CLIP reads them, so that texts which are equal to CLIP are equal here.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import ftfy
import regex
import structlog

from contracts.fields import RequestFields
from service.errors import FieldProblem, InvalidRequest

log = structlog.stdlib.get_logger("service.requests.prompt_filter")
# Some expressions take exponential time.
EXPRESSION_TIMEOUT_S = 0.2
_PROMPT_FIELDS = ("prompt", "negative_prompt", "prompt_a", "prompt_b", "prompt_from", "prompt_to")
# Unicode's Default_Ignorable_Code_Point: characters without a shape.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def prompts_of(request: RequestFields) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each prompt of a request.

    The negative prompt is one, because guidance 0 follows it. A probe's labels are not: a search
    for unwanted content has to name it.
    """
    for name in _PROMPT_FIELDS:
        if text := getattr(request, name, None):
            yield name, text
    for index, part in enumerate(getattr(request, "mix", None) or []):
        if part.prompt is not None:
            yield f"mix.{index}.prompt", part.prompt


def normalize_prompt(text: str) -> str:
    """Clean a prompt as CLIP's tokenizer does, and make texts that look alike equal.

    ftfy repairs it and HTML entities are unescaped twice; then NFKC, case folding, no invisible
    characters, and single spaces.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", _IGNORABLE.sub("", text)).split())


class PromptFilter:
    """A list of rejected words, read again when its file changes."""

    def __init__(self, path: Path) -> None:
        """Read the list. Raises ValueError if the file cannot be read or has an invalid line."""
        self.path = path
        self._phrases: dict[tuple[str, ...], int] = {}
        self._patterns: list[tuple[regex.Pattern[str], int]] = []
        self._stat = self._fingerprint()
        self._read()

    def check(self, request: RequestFields) -> None:
        """Check all prompts of a request. Raises InvalidRequest if the list contains one.

        The error names the prompts, the log names the lines of the list.
        """
        self._reload_if_changed()
        lines = {
            name: line
            for name, text in prompts_of(request)
            if (line := self.matching_line(text)) is not None
        }
        if not lines:
            return
        log.info("prompts blocked", lines=lines)
        raise InvalidRequest.from_problems(
            [
                FieldProblem(field=name, message="This prompt is blocked by the operator's policy")
                for name in lines
            ]
        )

    def matching_line(self, text: str) -> int | None:
        """Return the number of the first line that matches a prompt; None if none does."""
        text = normalize_prompt(text)
        words = _words(text)
        for length in {len(phrase) for phrase in self._phrases}:
            for start in range(len(words) - length + 1):
                if line := self._phrases.get(words[start : start + length]):
                    return line
        return self._matching_pattern(text)

    def _matching_pattern(self, text: str) -> int | None:
        """Return the line of the first expression that matches, or that takes too long."""
        for pattern, line in self._patterns:
            try:
                # In a thread, `concurrent` lets other requests run meanwhile.
                if pattern.search(text, timeout=EXPRESSION_TIMEOUT_S, concurrent=True):
                    return line
            except TimeoutError:
                log.error(
                    "a regular expression takes too long, so its prompt is blocked", line=line
                )
                return line
        return None

    def _reload_if_changed(self) -> None:
        stat = self._fingerprint()
        if stat == self._stat:
            return
        self._stat = stat
        try:
            self._read()
        except ValueError as error:
            log.error("prompt filter not reloaded", reason=str(error))
        else:
            log.info("prompt filter reloaded", lines=len(self._phrases) + len(self._patterns))

    def _fingerprint(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _read(self) -> None:
        try:
            lines = self.path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {self.path}: {error}") from error
        phrases = {}
        patterns = []
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            if len(line) > 2 and line[0] == line[-1] == "/":
                try:
                    patterns.append((regex.compile(line[1:-1], regex.IGNORECASE), number))
                except regex.error as error:
                    raise ValueError(
                        f"line {number} is not a regular expression: {error}"
                    ) from error
            elif words := _words(normalize_prompt(line)):
                phrases[words] = number
            else:
                raise ValueError(
                    f"line {number} has no word; "
                    "write signs as a regular expression between slashes"
                )
        self._phrases = phrases
        self._patterns = patterns


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text))
