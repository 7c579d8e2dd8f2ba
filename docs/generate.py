"""A hook of MkDocs: it fills `<!-- generate: NAME -->` in a page with what the code says, so that no page can drift.

Settings come from the dataclasses of cxr_dist and from their docstrings, which griffe reads, commands from their own
`--help`, and the keys of metrics.json from an evaluation of synthetic predictions. The notebook is converted by
nbconvert. Python's reference is mkdocstrings' part (`:::` in a page).
"""

import base64
import dataclasses
import html
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import griffe
import nbconvert
import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from cxr_dist.config.named import RUNS
from cxr_dist.config.range import ranges_of
from cxr_dist.config.run import Config
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.calibrator_choice import choose_calibrator
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.shard.recipe import Recipe

DOCS = Path(__file__).parent
_PLACE = re.compile(r"<!-- generate: ([\w ./:-]+) -->")
_HELP_COLUMNS = "96"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """MkDocs calls this first: a page that the navigation does not list comes last in the section of its folder."""
    for section in config.nav or []:
        for title, pages in section.items():
            found = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / title.lower()).glob("*.md"))
            section[title] = pages if isinstance(pages, str) else pages + [page for page in found if page not in pages]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """MkDocs calls this for the source of each page."""
    return _PLACE.sub(lambda place: generated(place.group(1)), markdown)


def generated(name: str) -> str:
    """The Markdown for the place `name` of a page; raises KeyError for an unknown name."""
    what, _, rest = name.partition(" ")
    return PLACES[what](*rest.split())


def settings(flags: bool, kind: type, path: str = "", level: int = 2) -> str:
    """A section with a table for a dataclass, and one for each dataclass among its fields."""
    hints, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    rows, sections = [], []
    for field in dataclasses.fields(kind):
        name = f"{path}.{field.name}".removeprefix(".")
        nested = [
            each
            for each in _alternatives(hints[field.name])
            if isinstance(each, type) and dataclasses.is_dataclass(each)
        ]
        sections += [settings(flags, each, name, level) for each in nested]
        if nested and flags:
            continue
        shown = f"--{name.replace('_', '-')}" if flags else name
        values = f"[{name}](#{_anchor(name)})" if nested else _values(hints[field.name], kind, field.name)
        rows.append(f"| `{shown}` | {values} | {_default(field)} | {_line(docs.get(field.name, ''))} |")
    title = f"`{path}`" if path else "Top level"
    opening = _line(_doc(griffe_class(kind)))
    head = "| flag | values | default | meaning |" if flags else "| field | values | default | meaning |"
    own = f"{'#' * level} {title} {{ #{_anchor(path or 'top level')} }}\n\n{opening}\n\n"
    table = "\n".join([head, "| --- | --- | --- | --- |", *rows])
    return "\n\n".join([own + table, *sections])


def fields(name: str) -> str:
    """A table of the fields of the dataclass MODULE:NAME, with the types that its source states."""
    module, _, kind = name.partition(":")
    found = griffe_class(getattr(importlib.import_module(module), kind))
    rows = [
        f"| `{field.name}` | <code>{_line(str(field.annotation))}</code> | {_line(_doc(field))} |"
        for field in found.attributes.values()
        if "property" not in field.labels
    ]
    return "\n".join([_line(_doc(found)), "", "| field | type | meaning |", "| --- | --- | --- |", *rows])


def named_runs() -> str:
    """What each named run sets in place of the defaults."""
    default = _flat(Config())
    runs = {name: _flat(make()) for name, make in RUNS.items()}
    changed = [key for key in default if key != "run" and any(run[key] != default[key] for run in runs.values())]
    rows = [
        f"| `{key}` | {_code(default[key])} | "
        + " | ".join(_code(run[key]) if run[key] != default[key] else "" for run in runs.values())
        + " |"
        for key in changed
    ]
    head = f"| field | default | {' | '.join(f'`{name}`' for name in runs)} |"
    return "\n".join([head, "| --- " * (len(runs) + 2) + "|", *rows])


def commands() -> str:
    """The `--help` of cxr-dist and of each of its commands."""
    overview = _help()
    names = re.findall(r"^  ([a-z][\w-]*)  +\S", overview, flags=re.MULTILINE)
    assert "train" in names, overview
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(_help, names))
    sections = [f"## cxr-dist {name}\n\n{_block(text)}" for name, text in zip(names, texts, strict=True)]
    return "\n\n".join([_block(overview), *sections])


def metrics_keys() -> str:
    """The blocks of metrics.json that `assess` makes, as a tree of keys, from synthetic predictions of two classes."""
    random = np.random.default_rng(0)
    parts = [_made_predictions(random, n) for n in (60, 60)]
    choice = choose_calibrator(parts[0], None, "own validation")
    blocks = assess(parts[1].calibrated(choice.calibrator), parts[0], choice, n_bootstrap=50)
    return _block("\n".join(_tree(json.loads(strict_json(blocks)))))


def function(name: str) -> str:
    """A function of the package's top level, which mkdocstrings cannot find where a room has the same name."""
    path = DOCS.parent / "cxr_dist" / "__init__.py"
    found = griffe.visit("cxr_dist", filepath=path, code=path.read_text(encoding="utf-8"))[name]
    examples = re.sub(r"(?m)^>>> .*(?:\n(?!\s*$).*)*", lambda each: f"```pycon\n{each.group()}\n```", _doc(found))
    return f"## {name}\n\n```python\n{found.signature()}\n```\n\n{examples}"


def coverage() -> str:
    """How often the intervals of a class's ROC AUC cover it, from the results of benchmarks.coverage."""
    results = json.loads((DOCS.parent / "benchmarks/results/coverage.json").read_text())
    ways = {"percentile": "percentiles", "BCa": "BCa", "logit DeLong": "DeLong, on the logit", "cxr_dist": "here"}
    rows = [
        f"| {design} | "
        + " | ".join(f"{metrics['per_class/class 0/roc_auc'][way]['coverage']:.1%}" for way in ways)
        + " |"
        for design, metrics in results["designs"].items()
        if "per_class/class 0/roc_auc" in metrics
    ]
    return "\n".join([f"| | {' | '.join(ways.values())} |", "| --- " + "| ---: " * len(ways) + "|", *rows])


def notebook(name: str) -> str:
    """A notebook as Markdown, with its pictures inside of the page."""
    text, resources = nbconvert.MarkdownExporter().from_filename(str(DOCS / name))
    for file, picture in resources["outputs"].items():
        text = text.replace(f"({file})", f"(data:image/png;base64,{base64.b64encode(picture).decode()})")
    return str(text)


PLACES: Mapping[str, Callable[..., str]] = {
    "commands": commands,
    "configuration": lambda: settings(True, Config),
    "named-runs": named_runs,
    "fields": fields,
    "recipe": lambda: settings(False, Recipe),
    "metrics": metrics_keys,
    "coverage": coverage,
    "function": function,
    "notebook": notebook,
}


@cache
def griffe_class(kind: type) -> griffe.Class:
    """griffe's description of a class of the package, read from its source."""
    module = kind.__module__
    path = DOCS.parent / (module.replace(".", "/") + ".py")
    found = griffe.visit(module, filepath=path, code=path.read_text(encoding="utf-8"))[kind.__name__]
    assert isinstance(found, griffe.Class)
    return found


def _docs(kind: type) -> dict[str, str]:
    return {name: _doc(each) for name, each in griffe_class(kind).members.items()}


def _doc(described: griffe.Object | griffe.Alias) -> str:
    return described.docstring.value if described.docstring else ""


def _alternatives(hint: Any) -> tuple[Any, ...]:
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_args(hint) if get_origin(hint) in (Union, type(int | str)) else (hint,)


def _values(hint: Any, kind: type, name: str) -> str:
    """Which values a field takes: its choices, or its type with its range."""
    bounds = ranges_of(kind).get(name)
    words = ", ".join(filter(None, (_word(each) for each in _alternatives(hint))))
    return f"{words}: {bounds}" if bounds else words


def _word(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _word(args[0])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in args)
    if origin is tuple:
        return "list of " + _word(args[0]) if ... in args else f"{len(args)} × {_word(args[0])}"
    if origin is dict:
        return f"name: {_word(args[1])}"
    if dataclasses.is_dataclass(hint):
        return ""
    names = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", Path: "path", type(None): "`null`"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return _code(field.default)
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return "" if dataclasses.is_dataclass(made) else _code(made)
    return "required"


def _code(value: object) -> str:
    if isinstance(value, str | tuple | dict) and not value:
        return "empty"
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return "`" + " ".join(map(str, value)) + "`" if isinstance(value, tuple) else f"`{value}`"


def _line(text: str) -> str:
    """A docstring as one line of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-").replace(".", "-").replace("_", "-")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not dataclasses.is_dataclass(value):
        return {path: value}
    pairs = (
        (f"{path}.{field.name}".removeprefix("."), getattr(value, field.name)) for field in dataclasses.fields(value)
    )
    return {key: each for name, nested in pairs for key, each in _flat(nested, name).items()}


@cache
def _help(*command: str) -> str:
    environment = os.environ | {"COLUMNS": _HELP_COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "cxr_dist", *command, "--help"]
    return subprocess.run(
        arguments, cwd=DOCS.parent, env=environment, capture_output=True, text=True, check=True
    ).stdout.rstrip()


def _block(text: str) -> str:
    return f'<pre class="output"><code>{html.escape(text)}</code></pre>'


def _made_predictions(random: np.random.Generator, n: int) -> Predictions:
    labels = random.integers(0, 2, n)
    scores = 1 / (1 + np.exp(-(labels * 2 - 1 + random.normal(size=n))))
    keys, patients = [f"key{i}" for i in range(n)], [f"patient{i // 2}" for i in range(n)]
    known: dict[str, Any] = {"task": "multiclass", "classes": ("A", "B"), "keys": keys, "patients": patients}
    return Predictions(
        **known, labels=labels[:, None].astype(np.int16), probabilities=np.stack([1 - scores, scores], 1)
    )


def _tree(value: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """One line per key; of the classes only the first is shown."""
    for number, (key, each) in enumerate(value.items()):
        of_classes = set(value) == {"A", "B"}
        if of_classes and number:
            continue
        name = "CLASS" if of_classes else key
        if isinstance(each, Mapping):
            yield "    " * depth + name
            yield from _tree(each, depth + 1)
        else:
            yield "    " * depth + f"{name:<{40 - 4 * depth}} {_kind(each)}"


def _kind(value: object) -> str:
    return {bool: "true or false", int: "integer", float: "number", str: "text", list: "list", type(None): "null"}[
        type(value)
    ]
