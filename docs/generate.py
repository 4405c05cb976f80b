"""Generate the reference pages from the code; mkdocs runs this file as a hook (see mkdocs.yml)."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]
METRIC_KINDS = ("counter", "gauge", "histogram", "info")
# Pages that repeat a file of the root, and the links in them that lead somewhere else there.
ROOT_FILES = {
    "development/contributing.md": "CONTRIBUTING.md",
    "development/changelog.md": "CHANGELOG.md",
    "development/security.md": "SECURITY.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that lie in docs/."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    for path, name in ROOT_FILES.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, path, content=_relink(text)))
    return files


def settings_page() -> str:
    """Return the table of all settings, one section a process."""
    from service.settings import Settings as ServiceSettings
    from worker.settings import Settings as WorkerSettings

    service = ServiceSettings.model_fields
    worker = WorkerSettings.model_fields
    sections = {
        "Service and worker": {name: service[name] for name in service if name in worker},
        "Service": {name: service[name] for name in service if name not in worker},
        "Worker": {name: worker[name] for name in worker if name not in service},
    }
    parts = [
        "# Settings",
        "Settings are environment variables. Both processes check them at start and exit with a "
        "message if one is invalid. In a Docker Compose deployment they come from the shell or "
        "from `.env`.",
    ]
    for title, fields in sections.items():
        rows = [
            [f"`UNCLIP_{name.upper()}`", _default(field), field.description or ""]
            for name, field in sorted(fields.items())
        ]
        parts += [f"## {title}", _table(["variable", "default", "meaning"], rows)]
    return _join(parts)


def routes_page() -> str:
    """Return every route with its parameters and answers, from the OpenAPI document."""
    document = _openapi()
    parts = [
        "# Routes",
        "The running service shows the same at `/docs`, and the OpenAPI document at "
        "`/openapi.json`. How to call the routes is in the [HTTP guide](../guides/http-api.md); "
        "the bodies are in [Request fields](request-fields.md).",
    ]
    for method, path, route in _operations(document):
        parts.append(f"## `{method} {path}`")
        parts.append(_sentence(route.get("summary", "")))
        if text := route.get("description"):
            parts.append(text)
        parameters = [
            [
                f"`{each['name']}`",
                each["in"],
                _type(each["schema"]),
                each.get("description") or each["schema"].get("description", ""),
            ]
            for each in route.get("parameters", [])
        ]
        if parameters:
            parts.append(_table(["parameter", "in", "type", "meaning"], parameters))
        answers = [
            [f"{status}", answer.get("description", "")]
            for status, answer in sorted(route["responses"].items())
        ]
        parts.append(_table(["status", "meaning"], answers))
    return _join(parts)


def fields_page() -> str:
    """Return the fields of every request body, one section an operation."""
    document = _openapi()
    schemas = document["components"]["schemas"]
    bodies = {
        f"{method} {path}": schema
        for method, path, route in _operations(document)
        if (schema := _body(route, schemas)) is not None
    }
    parts = [
        "# Request fields",
        "A field that is omitted or null takes the checkpoint's default. The job returns the "
        "values that were used. Unknown fields are rejected with 422.",
    ]
    for route_name, schema in bodies.items():
        parts += [f"## `{route_name}`", schema.get("description", ""), _fields(schema)]
    for name in sorted(_references(bodies, schemas)):
        parts += [f"## {name}", schemas[name].get("description", ""), _fields(schemas[name])]
    return _join(parts)


def metrics_page() -> str:
    """Return every Prometheus metric with its type and labels, from the code that declares them."""
    parts = [
        "# Metrics",
        "The service answers at `/metrics`. A worker answers on "
        "`UNCLIP_WORKER_METRICS_PORT`. What Redis knows is the same from every service, so "
        "take the maximum over services, not the sum. Counters end in `_total` when scraped.",
    ]
    for title in ("service", "worker"):
        rows = [
            [f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text]
            for name, kind, labels, text in sorted(metrics_of(title))
        ]
        parts += [
            f"## Of the {title}",
            _table(["metric", "type", "labels", "meaning"], rows),
        ]
    return _join(parts)


def redis_page() -> str:
    """Return every key in Redis and name in the object store, from contracts/redis_keys.py."""
    rows = [[f"`{key}`", text] for key, text in redis_keys()]
    is_key = re.compile(r"`(unclip|rq):")
    is_object = re.compile(r"`jobs\b")
    others = [row for row in rows if not is_key.match(row[0]) and not is_object.match(row[0])]
    parts = [
        "# Redis keys",
        "RQ keeps its own keys under `rq:`. The following belong to this project, or are keys of "
        "RQ that it reads. Words in capitals stand for ids and names.",
        _table(["key", "content"], [row for row in rows if is_key.match(row[0])]),
        "## Object store",
        _table(["name", "content"], [row for row in rows if is_object.match(row[0])]),
        "## Fields and labels",
        _table(["name", "content"], others),
    ]
    return _join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/routes.md": routes_page,
    "reference/request-fields.md": fields_page,
    "reference/metrics.md": metrics_page,
    "reference/redis-keys.md": redis_page,
}


def metrics_of(package: str) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield name, type, labels and help text of every metric that a package declares."""
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        texts = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call | ast.Tuple):
                continue
            values = node.args if isinstance(node, ast.Call) else node.elts
            strings = [_string(value, texts) for value in values[:2]]
            if len(strings) < 2 or not (strings[0] or "").startswith("unclip_"):
                continue
            kind = "gauge"
            if isinstance(node, ast.Call):
                callee = ast.unparse(node.func).lower()
                kind = next((each for each in METRIC_KINDS if each in callee), "")
            if kind:
                yield str(strings[0]), kind, tuple(_labels(node)), strings[1] or ""


def redis_keys() -> Iterator[tuple[str, str]]:
    """Yield key pattern and description of every key."""
    from contracts import redis_keys as module

    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg.upper() for argument in node.args.args]
            text = " ".join((ast.get_docstring(node) or "").split())
            text = _capital(re.sub(r"^Return the (?:(?:key|name) of )?", "", text))
            if optional := len(node.args.defaults):
                yield str(getattr(module, node.name)(*names[:-optional])), text
            yield str(getattr(module, node.name)(*names)), text
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = getattr(module, node.targets[0].id)
            comment = _comment(lines, node.lineno - 1, (node.end_lineno or node.lineno) - 1)
            if isinstance(value, str) and comment:
                yield value, comment


def _comment(lines: list[str], first: int, last: int) -> str:
    """Return the comment at the end of an assignment, or the block right above it."""
    for line in lines[first : last + 1]:
        if "#" in line:
            return _capital(line.split("#", 1)[1])
    block: list[str] = []
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
        block.insert(0, lines[first].lstrip("# "))
    return _capital(" ".join(block))


def _string(node: ast.expr, texts: dict[str, Any]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name) and isinstance(texts.get(node.id), str):
        return str(texts[node.id])
    return None


def _labels(node: ast.Call | ast.Tuple) -> list[str]:
    if isinstance(node, ast.Tuple):
        return []
    lists = [
        *node.args[2:3],
        *(each.value for each in node.keywords if "label" in (each.arg or "")),
    ]
    return [
        str(element.value)
        for each in lists
        if isinstance(each, ast.List | ast.Tuple)
        for element in each.elts
        if isinstance(element, ast.Constant)
    ]


def _openapi() -> dict[str, Any]:
    from service.app import create_app

    document: dict[str, Any] = create_app().openapi()
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            yield method.upper(), path, route


def _body(route: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a route's JSON body, or of its form if it has no JSON body."""
    content = route.get("requestBody", {}).get("content", {})
    for kind in ("application/json", "multipart/form-data"):
        if kind in content:
            schema: dict[str, Any] = content[kind]["schema"]
            return dict(schemas[_name(schema)]) if "$ref" in schema else schema
    return None


def _references(schema: Any, schemas: dict[str, Any]) -> set[str]:
    """Return the names of all schemas that a schema refers to."""
    if isinstance(schema, list):
        return set().union(*(_references(each, schemas) for each in schema))
    if not isinstance(schema, dict):
        return set()
    if isinstance(schema.get("$ref"), str):
        name = _name(schema)
        return {name} | _references(schemas[name], schemas)
    return set().union(*(_references(each, schemas) for each in schema.values()))


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        [
            f"`{name}`",
            _type(each),
            "required" if name in required else _literal(each.get("default")),
            each.get("description", ""),
        ]
        for name, each in sorted(schema.get("properties", {}).items())
    ]
    return _table(["field", "type", "default", "meaning"], rows)


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON schema's type with its bounds, in words."""
    if "$ref" in schema:
        return f"[{_name(schema)}](#{_name(schema).lower()})"
    if "anyOf" in schema:
        choices = [_type(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(choices))
    if "enum" in schema:
        return ", ".join(_literal(value) for value in schema["enum"])
    if "const" in schema:
        return _literal(schema["const"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_length(schema, 'Items')}"
    if kind == "string":
        return f"string{_length(schema, 'Length')}"
    return f"{kind}{_range(schema)}"


def _range(schema: dict[str, Any]) -> str:
    low = schema.get("minimum")
    high = schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    below = schema.get("exclusiveMaximum")
    parts = []
    if above is not None:
        parts.append(f"above {above:g}")
    if below is not None:
        parts.append(f"below {below:g}")
    if low is not None and high is not None:
        parts.append(f"{low:.10g} to {high:.10g}")
    elif low is not None:
        parts.append(f"at least {low:.10g}")
    elif high is not None:
        parts.append(f"at most {high:.10g}")
    return f", {', '.join(parts)}" if parts else ""


def _length(schema: dict[str, Any], unit: str) -> str:
    low = schema.get(f"min{unit}")
    high = schema.get(f"max{unit}")
    what = "characters" if unit == "Length" else "entries"
    if low is not None and high is not None:
        return f", {low} to {high} {what}"
    return f", at most {high} {what}" if high is not None else ""


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _literal(field.get_default(call_default_factory=True))


def _literal(value: object) -> str:
    if value in (None, "", (), []):
        return ""
    if isinstance(value, bool):
        return f"`{int(value)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _capital(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for row in rows:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _relink(text: str) -> str:
    """Make the links of a file in the root work from docs/development/."""
    for page, name in ROOT_FILES.items():
        text = text.replace(f"]({name})", f"]({page.rpartition('/')[2]})")
    return text.replace("](docs/", "](../")
