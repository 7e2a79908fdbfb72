"""Check arguments, fields and specifications against their types. An error is one line.

`checked` reads the annotations of a function, and `check_fields` reads the annotations of a dataclass. `SpecModel` is
the base class of specifications (pydantic). Numbers are strict: neither `True` nor `"3"` nor `2.5` is an integer, and
NaN is not a number. Functions check shapes and data types of arrays themselves.
"""

import functools
import inspect
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic._internal._model_construction import ModelMetaclass
from pydantic_core import from_json

from emg_lens.errors import EmgLensError, did_you_mean

F = TypeVar("F", bound=Callable)
Refused = tuple[str, object, str]
"""Place in an argument (`[1]`, or "" for all of it), the value there, and what is expected."""

MOST_ERRORS = 3
"""Errors that one message names."""
FORMS = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list: [one, two]"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "keys and values: {key: value}"),
}
"""pydantic's names of errors of form -> the form in YAML."""
WORDING = (
    (r"^((greater|less) than)", r"a number \1"),
    (r"^a valid ([aeiou][^,]*).*", r"an \1"),
    (r"^a valid ([^,]*).*", r"a \1"),
    (r"^String should (match|have)", r"text to \1"),
    (r"^(Tuple|List|Dictionary) should have (.*) after validation.*", r"\2"),
    (r"^Keys should be", "keys to be"),
)
"""Patterns in pydantic's messages, and their replacement behind the word "expected"."""
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
LEAVES = (int, float, bool, str, bytes)
"""Types that pydantic checks; values of other types are checked with `isinstance`."""
LONGEST = 120
"""Characters of a value in a message."""
_short = reprlib.Repr()
_short.maxstring, _short.maxother = LONGEST, LONGEST


class ArgumentError(EmgLensError, ValueError, TypeError):
    """A value of the wrong type, or outside the allowed range."""


def checked(function: F) -> F:
    """Decorator: check the arguments of every call against the annotations.

    Annotations may narrow a type: `n: NonNegativeInt`, `mode: Literal["all", "mlp"]`.
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        inner = inspect.unwrap(function)
        given = {name: hint for name, hint in inner.__annotations__.items() if name != "return"}
        return get_type_hints(SimpleNamespace(__annotations__=given), inner.__globals__, include_extras=True)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python's own message names the missing or unknown argument
        for name, value in given.items():
            if signature.parameters[name].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                check_argument(f"{function.__name__}: {name}", value, hints().get(name, Any))
        return function(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass against their declared types.

    A subclass that gives a field another default keeps the bounds of its base class.
    """
    for kind in (one for one in reversed(type(instance).__mro__) if is_dataclass(one)):
        for name, hint in _hints_of(kind).items():
            if name in instance.__dataclass_fields__:
                check_argument(name, getattr(instance, name), hint)


# --- specifications ---------------------------------------------------------------------------------------


class _OneLine(ModelMetaclass):
    """Metaclass of specifications: a wrong argument of the constructor is an error of one line."""

    if not TYPE_CHECKING:  # for a type checker the fields are the arguments

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            with _in_one_line(cls, kwargs, f"{cls.__name__}: "):
                return super().__call__(*args, **kwargs)


@contextmanager
def _in_one_line(cls: type[BaseModel], content: Any, start: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ArgumentError(start + describe_errors(error, content, cls)) from None


class SpecModel(BaseModel, metaclass=_OneLine):
    """Part of a specification: unknown keys, NaN, and `true` in place of a number or a name are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    if not TYPE_CHECKING:  # the signatures are the same as in pydantic

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Any:
            """As in pydantic; an error is one line."""
            with _in_one_line(cls, obj, f"{cls.__name__}: "):
                return super().model_validate(obj, **options)

        @classmethod
        def model_validate_json(cls, json_data: Any, **options: Any) -> Any:
            """As in pydantic; an error is one line."""
            return cls.model_validate(from_json(json_data), **options)

    @classmethod
    def from_content(cls, content: Any) -> Self:
        """Read the content of a file. Unlike in `model_validate`, the error does not begin with the class name."""
        with _in_one_line(cls, content, ""):
            return super().model_validate(content)

    @model_validator(mode="before")
    @classmethod
    def _check_untyped(cls, content: Any) -> Any:
        """Refuse what pydantic accepts: NaN in fields of any type, and `true` in place of a number or a name."""
        types = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
        for key, value in content.items() if isinstance(content, Mapping) else ():
            kinds = set(_mentioned(types.get(key, Any)))
            leaves = _leaves(value) if Any in kinds else ()
            odd = next((one for one in leaves if isinstance(one, float) and not math.isfinite(one)), None)
            if odd is not None:
                raise ValueError(f"{key}={odd}; expected a finite number")
            items = value if isinstance(value, list | tuple) else (value,)
            booleans = [str(one).lower() for one in items if isinstance(one, bool)]
            if booleans and not {bool, Any} & kinds:
                raise ValueError(
                    f"{key}={booleans[0]}; expected a number or text; put a name that YAML reads as true or false in"
                    " quotes"
                )
        return content


def describe_errors(error: ValidationError, content: Any, model: type[BaseModel] | None = None) -> str:
    """Describe what pydantic refused in one line: key, value, and what is expected, for at most three keys.

    Args:
        error: The error.
        content: What was validated. Paths in the message are paths in this content.
        model: The model that it was validated as; its keys are listed for an unknown key.
    """
    expected: dict[str, list[str]] = {}
    items = [(_path_of(item["loc"], content, item["type"] == "missing"), item) for item in error.errors()]
    for path, item in items:
        if not any(other[: len(path)] == path != other for other, _ in items):  # else only one type of several failed
            start, message = _problem(item, path, model)
            expected.setdefault(start, []).append(message)
    lines = [start + " or ".join(dict.fromkeys(messages)) for start, messages in expected.items()]
    more = len(lines) - MOST_ERRORS
    return "; ".join(lines[:MOST_ERRORS]) + (f"; and {more} more" if more > 0 else "")


def _problem(item: Any, path: tuple[str | int, ...], model: type[BaseModel] | None) -> tuple[str, str]:
    """The key with its value, and what is expected there."""
    where, message = ".".join(map(str, path)), item["msg"].removeprefix("Value error, ")
    match item["type"]:
        case "value_error":
            return f"{where}: " if where else "", message
        case "missing":
            return f"{where} is missing", ""
        case "extra_forbidden":
            known = _keys_at(model, path[:-1])
            return f"{where} is not a known key; ", did_you_mean(path[-1], known) or f"known keys: {', '.join(known)}"
        case "union_tag_not_found":
            return f"{where} needs the key ", item["ctx"]["discriminator"]
        case "union_tag_invalid":
            key = item["ctx"]["discriminator"].strip("'")
            return f"{where}.{key}={item['ctx']['tag']!r}; expected ", item["ctx"]["expected_tags"]
    return f"{where or 'the content'}={short(item['input'])}; expected ", _expected(item)


def _expected(item: Any) -> str:
    """Describe what pydantic expected, in words that can follow "expected"."""
    if item["type"] in FORMS:
        return FORMS[item["type"]]
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    for pattern, words in WORDING:
        message = re.sub(pattern, words, message)
    return message


def _path_of(place: tuple[str | int, ...], content: Any, keep_last: bool) -> tuple[str | int, ...]:
    """The keys in a place that pydantic names; it adds names of types where several types are possible."""
    path: list[str | int] = []
    for at, part in enumerate(place):
        last = at == len(place) - 1
        try:
            content = content[part]
        except (LookupError, TypeError):
            if not (last and keep_last):
                continue
        path.append(part)
    return tuple(path)


def _keys_at(model: type[BaseModel] | None, path: tuple[str | int, ...]) -> list[str]:
    """The keys that a model knows at a path of keys."""
    models = [] if model is None else [model]
    for part in path:
        hints = [f.annotation for one in models for name, f in one.model_fields.items() if (f.alias or name) == part]
        inner = [
            one for hint in hints for one in _mentioned(hint) if isinstance(one, type) and issubclass(one, BaseModel)
        ]
        models = inner or models  # a number of a list, or a name in a mapping
    return list(dict.fromkeys(f.alias or name for one in models for name, f in one.model_fields.items()))


def _leaves(value: Any) -> Iterator[Any]:
    """The values inside nested lists and mappings."""
    if isinstance(value, list | tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


def _printable_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError(f"{short(name)} is not a name; expected printable text that is not empty")
    return name


Name = Annotated[str, Field(max_length=500), AfterValidator(_printable_name)]
"""A name that appears in tables, files and terminals."""

OutputCount = Annotated[int, Field(ge=0, le=100_000)]
"""Number of a model's outputs: classes or targets."""


def short(value: object) -> str:
    """Write a value in one line of at most about 120 characters."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of {value.dtype}, {list(value.shape)}"  # pyright: ignore
    if isinstance(value, int) and value.bit_length() > 100:
        return f"<number of {value.bit_length()} bits>"
    if isinstance(value, (*LEAVES, list, tuple, dict, set, range, type(None))):
        return _short.repr(value)
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else f"<{type(value).__name__}>"


def _mentioned(hint: Any) -> Iterator[Any]:
    """A type, and all types inside it."""
    yield hint
    for part in get_args(hint):
        yield from _mentioned(part)


_hints_of = functools.cache(functools.partial(get_type_hints, include_extras=True))


def check_argument(what: str, value: object, hint: Any) -> None:
    """Check one value against a type.

    Args:
        what: Name of the value, for the message.
        value: The value.
        hint: The type, as in an annotation.
    """
    refused = _refused(value, hint)
    if refused is not None:
        place, wrong, expected = refused
        raise ArgumentError(f"{what}{place}={short(wrong)}; expected {expected}")


def _refused(value: Any, hint: Any) -> Refused | None:
    """The first part of a value that does not fit a type; None if all parts fit."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        refused = [_refused(value, part) for part in parts]
        inner = [one for one in refused if one is not None and one[0]]
        expected = " or ".join(dict.fromkeys(one[2] for one in refused if one is not None))
        return None if None in refused else inner[0] if inner else ("", value, expected)
    if hint is Any:
        return None
    if hint is None or hint is type(None):
        return None if value is None else ("", value, "None")
    if origin is Annotated and get_origin(parts[0]) is None and parts[0] not in LEAVES:
        return _refused(value, parts[0])
    if hint in LEAVES or origin in (Annotated, Literal):
        return _refused_leaf(value, hint)
    if isinstance(origin, type) and issubclass(origin, Iterable) and origin is not type:
        return _refused_items(value, origin, parts)
    if origin is Callable or hint is Callable:
        return None if callable(value) else ("", value, "a function")
    wanted = getattr(hint, "array_type", origin or hint)
    if not isinstance(wanted, type) or isinstance(value, wanted):
        return None
    if wanted.__name__ == "Tensor":
        return "", value, "a torch tensor: torch.as_tensor(x).float()"
    return "", value, f"{'an' if wanted.__name__[0] in 'AEIOU' else 'a'} {wanted.__name__}"


def _refused_leaf(value: Any, hint: Any) -> Refused | None:
    if type(value) is hint and hint is not float:
        return None
    try:
        _adapter(hint).validate_python(value.item() if isinstance(value, np.generic) else value)
    except ValidationError as error:
        return "", value, _expected(error.errors()[0])
    return None


@functools.lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=STRICT)


def _refused_items(value: Any, origin: type, parts: tuple[Any, ...]) -> Refused | None:
    """Check a container, then its items. Iterators are not checked, because they can be read only once."""
    kind = {Mapping: "a mapping", Sequence: "a list", Iterable: "a list"}.get(origin, f"a {origin.__name__}")
    if isinstance(value, str | bytes) or not isinstance(value, origin):
        return "", value, kind
    if isinstance(value, Mapping) and issubclass(origin, Mapping):
        items = [(f"[{short(k)}]", one, hint) for k, v in value.items() for one, hint in ((k, parts[0]), (v, parts[1]))]
    elif isinstance(value, list | tuple) and parts:
        hints = parts if origin is tuple and parts[-1] is not Ellipsis else parts[:1] * len(value)
        if len(hints) != len(value):
            return "", value, f"{len(hints)} values"
        items = [(f"[{i}]", one, hint) for i, (one, hint) in enumerate(zip(value, hints, strict=True))]
    else:
        return None
    for place, one, hint in items:
        refused = _refused(one, hint)
        if refused is not None:
            return place + refused[0], *refused[1:]
    return None
