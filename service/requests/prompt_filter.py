"""Captions that this service does not draw: those in which a word of its operator's list stands.

The list is a file with a word or phrase a line, found as whole words, or a regular expression between slashes, found anywhere;
lines that begin with # are comments. Captions are compared as CLIP reads them, so that what it does not tell apart is the same here too.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import ftfy
import structlog

from contracts.fields import RequestFields
from service.errors import FieldProblem, InvalidRequest

log = structlog.stdlib.get_logger("service.requests.prompt_filter")
_CAPTIONS = ("prompt", "negative_prompt", "prompt_a", "prompt_b", "prompt_from", "prompt_to")
# Unicode's Default_Ignorable_Code_Point, which nobody sees.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def captions(fields: RequestFields) -> Iterator[tuple[str, str]]:
    """What is drawn from, with its field's path. The negative prompt is, where guidance is 0; a probe's labels are not, and whoever
    looks for something unwanted in an image has to name it."""
    for name in _CAPTIONS:
        if text := getattr(fields, name, None):
            yield name, text
    for index, part in enumerate(getattr(fields, "mix", None) or []):
        if part.prompt is not None:
            yield f"mix.{index}.prompt", part.prompt


def as_read(text: str) -> str:
    """A caption as CLIP's tokenizer cleans it (mended by ftfy, HTML entities twice undone), and with all that looks alike made the
    same: NFKC, without case, without what is invisible, one space between words."""
    text = unicodedata.normalize(
        "NFKC", html.unescape(html.unescape(ftfy.fix_text(text)))
    ).casefold()
    return " ".join(unicodedata.normalize("NFKC", _IGNORABLE.sub("", text)).split())


class DenyList:
    """The list, read again whenever its file has changed."""

    def __init__(self, path: Path) -> None:
        """ValueError for a file that cannot be read, or has a line that will not do."""
        self.path = path
        self._phrases: dict[tuple[str, ...], int] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        self._stamp = self._stamped()
        self._read()

    def check(self, fields: RequestFields) -> None:
        """InvalidRequest that names the captions which the list denies, and not why; the log tells the list's lines."""
        self._keep_up()
        denied = [
            (name, line) for name, text in captions(fields) if (line := self.line(text)) is not None
        ]
        if not denied:
            return
        log.info("captions denied", lines=dict(denied))
        errors = [
            FieldProblem(field=name, message="This prompt is blocked by the operator's policy")
            for name, _ in denied
        ]
        raise InvalidRequest.from_problems(errors)

    def line(self, text: str) -> int | None:
        """The line of the list that denies this caption; None where none does."""
        text = as_read(text)
        words = _words(text)
        for length in {len(phrase) for phrase in self._phrases}:
            for start in range(len(words) - length + 1):
                if line := self._phrases.get(words[start : start + length]):
                    return line
        return next((line for pattern, line in self._patterns if pattern.search(text)), None)

    def _keep_up(self) -> None:
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._read()
        except ValueError as error:
            log.error("the deny-list stays as it was", reason=str(error))
        else:
            log.info("the deny-list was read again", lines=len(self._phrases) + len(self._patterns))

    def _stamped(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _read(self) -> None:
        try:
            lines = self.path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"it cannot be read: {error}") from error
        phrases = {}
        patterns = []
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            if len(line) > 2 and line[0] == line[-1] == "/":
                try:
                    patterns.append((re.compile(line[1:-1], re.IGNORECASE), number))
                except re.error as error:
                    raise ValueError(f"line {number} is no regular expression: {error}") from error
            elif words := _words(as_read(line)):
                phrases[words] = number
            else:
                raise ValueError(
                    f"line {number} has no word in it: write signs between slashes, as a regular expression"
                )
        self._phrases = phrases
        self._patterns = patterns


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text))
