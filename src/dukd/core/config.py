"""Typed configuration to YAML and back, strictly.

The dataclasses are the schema. A scalar is read by the type of its field, never by YAML's own
guesses, so ``1e-4`` is a number and ``no`` a name where names belong. Unknown and repeated keys are
refused, the nearest name is offered, and every mistake is named with file, line and column.
Nothing in a file is ever executed.
"""

import difflib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, NoReturn, TypeVar, cast

import yaml

from dukd.core.files import is_endless

T = TypeVar("T")
Registry = Mapping[type, Callable[[], Mapping[str, type]]]
"""For each abstract class, the concrete ones by their name in a file's ``type`` key."""

_LARGEST = 1 << 16
"""Characters of the largest configuration; ours have about 2,000."""
_MOST = 10_000
"""Scalars, lists and mappings of the largest one; PyYAML reads them in a second."""
_DEEPEST = 50
_SHOWN = 60
"""Characters of a wrong value that a message repeats."""
_GREATEST = float(1 << 63)
_TRUE, _FALSE, _NULL = {"true", "yes", "on"}, {"false", "no", "off"}, {"null", "~", ""}
_ALIASES = {
    "lr": "learning_rate",
    "learning-rate": "learning_rate",
    "batch_size": "batch",
    "patch_size": "patch",
}


class ConfigError(ValueError):
    """A configuration that cannot be read; the message says where and what to write instead."""


@dataclass(frozen=True)
class _Reader:
    source: str
    registry: Registry

    def fail(self, node: yaml.Node, what: str) -> NoReturn:
        mark = node.start_mark
        raise ConfigError(f"{self.source}:{mark.line + 1}:{mark.column + 1}: {what}")

    # one branch per sort of type
    def read(self, node: yaml.Node, kind: Any, key: str) -> Any:  # noqa: C901, PLR0911
        origin = typing.get_origin(kind)
        if origin in {typing.Union, types.UnionType}:
            return self.read_union(node, typing.get_args(kind), key)
        if any(isinstance(kind, type) and issubclass(kind, base) for base in self.registry):
            return self.read_named(node, kind, key)
        if is_dataclass(kind):
            return self.read_dataclass(node, cast("type", kind), key, skip=())
        if origin is tuple:
            return self.read_tuple(node, typing.get_args(kind), key)
        text = self.scalar(node, key)
        if _is_null(node):
            self.fail(node, f"{key} has no value")
        if origin is Literal:
            choices = {str(choice): choice for choice in typing.get_args(kind)}
            if text not in choices:
                known = ", ".join(choices)
                self.fail(
                    node,
                    f"{key} is {_short(text)}, but must be one of {known}{nearest(text, choices)}",
                )
            return choices[text]
        if kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                self.fail(node, f"{key} is {_short(text)}, but must be true or false")
            return text.lower() in _TRUE
        if kind is int:
            return self.number(node, text, key, int, "a whole number")
        if kind is float:
            return self.number(node, text, key, float, "a number")
        return kind(text)

    def number(
        self, node: yaml.Node, text: str, key: str, kind: Callable[[str], T], what: str
    ) -> T:
        try:
            value = kind(text)
        except ValueError:
            self.fail(node, f"{key} is {_short(text)}, but must be {what}")
        if not -_GREATEST <= cast("float", value) <= _GREATEST:  # no number is in no interval
            self.fail(
                node, f"{key} is {_short(text)}, but must be {what} that can be computed with"
            )
        return value

    def scalar(self, node: yaml.Node, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, f"{key} takes a single value here, not a list or a mapping")
        return str(node.value)

    def read_union(self, node: yaml.Node, choices: tuple[Any, ...], key: str) -> Any:
        if _is_null(node):
            return None
        return self.read(node, next(c for c in choices if c is not type(None)), key)

    def read_tuple(self, node: yaml.Node, arguments: tuple[Any, ...], key: str) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail(node, f"{key} takes a list, such as [a, b]")
        children = cast("list[yaml.Node]", node.value)
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(children)
        if len(children) != len(arguments):
            self.fail(node, f"{key} takes {len(arguments)} values, but has {len(children)}")
        return tuple(
            self.read(c, a, f"{key}[{i}]")
            for i, (c, a) in enumerate(zip(children, arguments, strict=True))
        )

    def entries(self, node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{key} takes a mapping of names to values")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for name_node, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            name = self.scalar(name_node, f"a name in {key}")
            if name in found:
                self.fail(name_node, f"{key} has {_short(name)} twice")
            found[name] = (name_node, value)
        return found

    def read_named(self, node: yaml.Node, kind: type, key: str) -> Any:
        base = next(base for base in self.registry if issubclass(kind, base))
        known = {name: k for name, k in self.registry[base]().items() if issubclass(k, kind)}
        if isinstance(node, yaml.ScalarNode) and _brief(base) and not _is_null(node):
            return self.chosen(node, known, key)()
        entries = self.entries(node, key)
        usual: str | None = getattr(base, "otherwise", None)
        if "type" not in entries and usual is None:
            self.fail(node, f"{key} needs a type, one of {', '.join(known)}")
        if "type" not in entries:
            return self.read_dataclass(node, known[str(usual)], key, skip=())
        kind = self.chosen(entries["type"][1], known, f"{key}.type")
        return self.read_dataclass(node, kind, key, skip=("type",))

    def chosen(self, node: yaml.Node, known: Mapping[str, type], key: str) -> type:
        """The class of the name that a node holds."""
        name = self.scalar(node, key)
        if name not in known:
            self.fail(
                node,
                f"{key} is {_short(name)}{nearest(name, known)}; known are {', '.join(known)}",
            )
        return known[name]

    def read_dataclass(self, node: yaml.Node, kind: type, key: str, skip: tuple[str, ...]) -> Any:
        hints = typing.get_type_hints(kind)
        known = {f.name: f for f in fields(kind) if f.init}
        values: dict[str, Any] = {}
        for name, (name_node, value) in self.entries(node, key).items():
            if name in skip:
                continue
            if name not in known:
                self.fail(name_node, f"{key} has no field {_short(name)}{nearest(name, known)}")
            values[name] = self.read(value, hints[name], f"{key}.{name}")
        for name, field in known.items():
            if name not in values and field.default is MISSING and field.default_factory is MISSING:
                self.fail(node, f"{key} lacks the field {name}")
        try:
            return kind(**values)
        except (ValueError, ArithmeticError) as error:
            self.fail(node, f"{key}: {error}")


def _is_null(node: yaml.Node) -> bool:
    return (
        isinstance(node, yaml.ScalarNode)
        and node.style is None
        and str(node.value).lower() in _NULL
    )


def _brief(base: type) -> bool:
    """Whether a class that has its own defaults everywhere is written as its name alone."""
    return bool(getattr(base, "brief", False))


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """``; did you mean ...?`` with the most similar name, or nothing if none is similar."""
    names = list(known)
    alias = _ALIASES.get(name.lower())
    close = (
        [alias]
        if alias in names
        else difflib.get_close_matches(name[:_SHOWN], names, n=1, cutoff=0.5)
    )
    return f"; did you mean {close[0]}?" if close else ""


def load(text: str, kind: type[T], *, registry: Registry, source: str) -> T:
    """Read a configuration.

    Args:
        text: YAML.
        kind: The dataclass to make.
        registry: What may stand for abstract classes.
        source: Name of the file, for messages.

    Raises:
        ConfigError: If the text is not YAML, or does not fit; with line and column.
    """
    if len(text) > _LARGEST:
        raise ConfigError(
            f"{source}: a configuration has at most {_LARGEST} characters, but this has {len(text)}"
        )
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{source}{where}: this is not YAML: {error.problem or error.context}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: this is not YAML: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{source}: this is not YAML: {error}"
        ) from None  # an escape that names nothing
    if node is None:
        raise ConfigError(f"{source}: the file is empty")
    return cast("T", _Reader(source, registry).read(node, kind, kind.__name__.lower()))


def _check_events(text: str, source: str) -> None:
    """Refuse what could grow, recurse or make objects, before anything is built."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        wrong = None
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            wrong = "anchors and aliases are not used here"
        elif (
            isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
            and event.tag is not None
        ):
            wrong = "tags are not used here"
        elif depth > _DEEPEST:
            wrong = f"nested more than {_DEEPEST} deep"
        elif number > _MOST:
            wrong = f"more than {_MOST} values"
        if wrong:
            mark = event.start_mark
            raise ConfigError(f"{source}:{mark.line + 1}:{mark.column + 1}: {wrong}")


def plain(value: object, *, registry: Registry) -> object:
    """Turn a configuration into dictionaries, lists and scalars; a chosen class has a ``type``.

    Where the abstract class says ``brief = True``, one with its defaults alone is its name.
    """
    base = next((base for base in registry if isinstance(value, base)), None)
    if base is not None and _brief(base):
        kind = cast("Any", type(value))
        if not is_dataclass(value) or value == kind():
            return kind.name
    if is_dataclass(value) and not isinstance(value, type):
        head: dict[str, object] = {} if base is None else {"type": cast("Any", value).name}
        return head | {
            f.name: plain(getattr(value, f.name), registry=registry)
            for f in fields(value)
            if f.init
        }
    if isinstance(value, tuple | list):
        return [plain(v, registry=registry) for v in cast("tuple[object, ...]", value)]
    if isinstance(value, PurePath):
        return str(value)
    return value


def dump(value: object, *, registry: Registry) -> str:
    """Write a configuration as YAML that `load` reads back to an equal one."""
    return yaml.dump(
        plain(value, registry=registry),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=110,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes text with line ends of Unicode's own, which PyYAML would read back as spaces."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = '"' if any(end in value for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def read_file(path: Path, kind: type[T], *, registry: Registry) -> T:
    """Read a configuration file; see `load`.

    Raises:
        ConfigError: Also if the file cannot be read or is not text.
    """
    try:
        if is_endless(path):
            raise ConfigError(f"{path}: this is a pipe or a device; name a file")
        with path.open("rb") as file:
            content = file.read(4 * _LARGEST + 4)  # a little more than the longest text has
        text = content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return load(text, kind, registry=registry, source=str(path))
