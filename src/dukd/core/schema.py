"""A JSON schema of a typed configuration, for editors that complete and check YAML.

It follows from the dataclasses as the reader in `dukd.core.config` does: types, defaults, choices,
and the docstrings under the fields.
"""

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Literal, cast

from dukd.core import config
from dukd.core.config import Registry

Schema = dict[str, object]

_SCALARS: Mapping[type, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


def schema(kind: type, *, registry: Registry, title: str) -> Schema:
    """What a configuration file may hold.

    Args:
        kind: The dataclass that a file makes.
        registry: What may stand for abstract classes, told by ``type``.
        title: What the schema is of.

    Returns:
        A JSON schema, draft 2020-12; every dataclass is under ``$defs``.
    """
    maker = _Maker(registry)
    whole = maker.of(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **whole,
        "$defs": dict(sorted(maker.made.items())),
    }


class _Maker:
    """Makes the parts, each once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.made: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:  # noqa: PLR0911  one branch per sort of type
        """The schema of a type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in {typing.Union, types.UnionType}:
            return {"anyOf": [self.of(one) for one in arguments]}
        if kind is type(None):
            return {"type": "null"}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            return self.of_tuple(arguments)
        if kind in _SCALARS:
            return _SCALARS[kind]
        if isinstance(kind, type) and issubclass(kind, PurePath):
            return {"type": "string"}
        return self.of_class(cast("type", kind))

    def of_tuple(self, arguments: tuple[Any, ...]) -> Schema:
        """A list of one type, or of so many values."""
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": self.of(arguments[0])}
        items = [self.of(one) for one in arguments]
        return {
            "type": "array",
            "prefixItems": items,
            "minItems": len(items),
            "maxItems": len(items),
        }

    def of_class(self, kind: type) -> Schema:
        """A dataclass, or one of the classes that may stand where an abstract one is named."""
        base = next((base for base in self.registry if issubclass(kind, base)), None)
        if base is None:
            return self.reference(kind, {})
        known = {one: name for name, one in self.registry[base]().items()}
        if kind in known:
            return self.reference(
                kind, {"type": {"const": known[kind]}}, usual=known[kind] == usual(base)
            )
        if kind.__name__ not in self.made:
            self.made[kind.__name__] = {}  # parts may hold themselves
            below = [one for one in known if issubclass(one, kind)]
            parts = [self.of_class(one) for one in below]
            if getattr(base, "brief", False):  # its name alone says it
                parts.append({"enum": [known[one] for one in below]})
            self.made[kind.__name__] = {"anyOf": parts}
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def reference(self, kind: type, head: Schema, *, usual: bool = False) -> Schema:
        """Name a part, which is made where it is named first."""
        name = kind.__name__
        if name not in self.made:
            self.made[name] = {}  # likewise
            self.made[name] = self.part(kind, head, [] if usual else list(head))
        return {"$ref": f"#/$defs/{name}"}

    def part(self, kind: type, head: Schema, required: list[str]) -> Schema:
        """The fields of a dataclass."""
        hints, about = typing.get_type_hints(kind), field_texts(kind)
        properties: Schema = dict(head)
        for field in fields(kind):
            if not field.init:
                continue
            made = dict(self.of(hints[field.name]))
            if field.name in about:
                made["description"] = about[field.name]
            if field.default is not MISSING:
                made["default"] = config.plain(field.default, registry=self.registry)
            elif field.default_factory is not MISSING:
                made["default"] = config.plain(field.default_factory(), registry=self.registry)
            else:
                required.append(field.name)
            properties[field.name] = made
        first = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        return {
            "type": "object",
            "description": first,
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }


def usual(base: type) -> str | None:
    """The name of the class that stands where none is named."""
    found: str | None = getattr(base, "otherwise", None)
    return found


def field_texts(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass, its bases' too, read from the source."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for statement, below in pairwise(body):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = " ".join(text.split())
                case _:
                    pass
    return found
