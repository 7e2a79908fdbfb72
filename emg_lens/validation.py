"""Arguments are what signatures say: what is of another type, or out of range, is refused in one line.

`checked` reads the annotations of a function, `check_fields` those of a dataclass, so that what a type checker would
find in a script is found in a notebook too. Numbers are strict: neither `True` nor `"3"` nor `2.5` is an integer, and
NaN is no number. Shapes and kinds of arrays are told by the functions themselves, in their own words.
"""

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import SimpleNamespace, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic._internal._model_construction import ModelMetaclass

from emg_lens.errors import EmgLensError

F = TypeVar("F", bound=Callable)
Refused = tuple[str, object, str]
"""Where in a value, what stands there, and what was expected."""

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
LEAVES = (int, float, bool, str, bytes)
"""Types whose values pydantic checks; those of other classes are told by `isinstance`."""
LONGEST = 120
"""Letters of a value in a message."""
_short = reprlib.Repr()
_short.maxstring, _short.maxother = LONGEST, LONGEST


class ArgumentError(EmgLensError, ValueError, TypeError):
    """A value of another type than a signature or a field promises, or outside of its range."""


def checked(function: F) -> F:
    """The function, which refuses arguments of other types than its annotations say.

    Annotations may narrow a type: `n: NonNegativeInt`, `mode: Literal["all", "mlp"]`.

    Raises:
        ArgumentError: From calls: which argument, what came, what was expected.
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
            return function(*args, **kwargs)  # which says in Python's words what is missing or too much
        for name, value in given.items():
            if signature.parameters[name].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                check_argument(f"{function.__name__}: {name}", value, hints().get(name, Any))
        return function(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def check_fields(instance: Any) -> None:
    """Refuse a dataclass whose fields hold values of other types than they are declared with.

    A class that declares a field anew, for another default, keeps the bounds of the one it inherits from.

    Raises:
        ArgumentError: Which field, what came, what was expected.
    """
    for kind in (one for one in reversed(type(instance).__mro__) if is_dataclass(one)):
        for name, hint in _hints_of(kind).items():
            if name in instance.__dataclass_fields__:
                check_argument(name, getattr(instance, name), hint)


def findings(error: ValidationError) -> str:
    """What pydantic found, in a line: at most three findings."""
    found = [_finding(item) for item in error.errors()[:3]]
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more else "")


def _finding(item: Any) -> str:
    where, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
    match item["type"]:
        case "value_error":
            return f"{where}: {message}" if where else message
        case "extra_forbidden":
            return f"{where} is not known"
        case "missing":
            return f"{where} is needed and missing"
    return f"{where or 'it'}={short(item['input'])}, expected {message.removeprefix('Input should be ')}"


class _OneLine(ModelMetaclass):
    """Of classes that refuse their arguments in one line."""

    if not TYPE_CHECKING:  # to a type checker the fields are the arguments

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            with _in_one_line(cls):
                return super().__call__(*args, **kwargs)


@contextmanager
def _in_one_line(cls: Any) -> Iterator[None]:
    """What pydantic finds inside is refused in one line.

    Raises:
        ArgumentError: That line.
    """
    try:
        yield
    except ValidationError as error:
        unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
        known = f"; it has {', '.join(f.alias or name for name, f in cls.model_fields.items())}" * unknown
        raise ArgumentError(f"{cls.__name__}: {findings(error)}{known}") from None


class SpecModel(BaseModel, metaclass=_OneLine):
    """What a study file says: no key that is not known, no NaN, and `true` is neither a number nor a name.

    Raises:
        ArgumentError: From calls in Python, `model_validate` among them: what came, and what was expected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ADDED: ClassVar[tuple[str, ...]] = ()
    """Fields of later versions, written only where they differ from their defaults: what does not use them stays as it
    was, and keeps its digest."""

    if not TYPE_CHECKING:  # pydantic's own signatures

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Any:
            """As pydantic's, with its findings in one line."""
            with _in_one_line(cls):
                return super().model_validate(obj, **options)

        @classmethod
        def model_validate_json(cls, json_data: Any, **options: Any) -> Any:
            """As pydantic's, with its findings in one line."""
            with _in_one_line(cls):
                return super().model_validate_json(json_data, **options)

    @classmethod
    def from_content(cls, content: Any) -> Self:
        """As `model_validate`, for readers of files, who say what pydantic found in words of their own.

        Raises:
            ValidationError: What it found.
        """
        return super().model_validate(content)

    @model_serializer(mode="wrap")
    def _used(self, write: Any) -> dict[str, Any]:
        unused = {name for name in self.ADDED if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in write(self).items() if name not in unused}

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, content: Any) -> Any:
        """No NaN either where no type is declared, which `allow_inf_nan` does not see."""
        typed = {f.alias or name for name, f in cls.model_fields.items() if Any not in _mentioned(f.annotation)}
        for name, given in content.items() if isinstance(content, Mapping) else ():
            odd = [value for value in _leaves(given) if isinstance(value, float) and not math.isfinite(value)]
            if odd and name not in typed:
                raise ValueError(f"{name}: expected a finite number, got {odd[0]}")
        return content

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, content: Any) -> Any:
        given = content if isinstance(content, Mapping) else {}
        for name, field in cls.model_fields.items():
            value = given.get(field.alias or name)
            wrong = [one for one in (value if isinstance(value, list | tuple) else (value,)) if isinstance(one, bool)]
            if wrong and not {bool, Any} & set(_mentioned(field.annotation)):
                told = str(wrong[0]).lower()
                raise ValueError(
                    f"{field.alias or name}: expected a number or text, got {told}; if that is a name, quote it"
                )
        return content


def _leaves(value: Any) -> Iterator[Any]:
    """What a value of lists and mappings holds at its ends."""
    if isinstance(value, list | tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)
    else:
        yield value


def _shown(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError(f"a name is printable text and not empty, got {short(name)}")
    return name


Name = Annotated[str, Field(max_length=500), AfterValidator(_shown)]
"""Of something that tables, files and terminals show."""


OutputCount = Annotated[int, Field(ge=0, le=100_000)]
"""Of a model: classes, or targets."""


def short(value: object) -> str:
    """A value in a few letters of one line."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of {value.dtype}, {list(value.shape)}"  # pyright: ignore
    if isinstance(value, int) and value.bit_length() > 100:
        return f"<number of {value.bit_length()} bits>"
    if isinstance(value, (*LEAVES, list, tuple, dict, set, range, type(None))):
        return _short.repr(value)
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else f"<{type(value).__name__}>"


def _mentioned(hint: Any) -> Iterator[Any]:
    """A type and all types inside it."""
    yield hint
    for part in get_args(hint):
        yield from _mentioned(part)


_hints_of = functools.cache(functools.partial(get_type_hints, include_extras=True))


def check_argument(what: str, value: object, hint: Any) -> None:
    """Refuse a value of another type.

    Raises:
        ArgumentError: What came, under the name `what`, and what was expected.
    """
    refused = _refused(value, hint)
    if refused is not None:
        where, found, expected = refused
        raise ArgumentError(f"{what}{where}={short(found)}; expected {expected}")


def _refused(value: Any, hint: Any) -> Refused | None:
    """The first thing in a value that does not fit a type; None where everything does."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        found = [_refused(value, part) for part in parts]
        deeper = [one for one in found if one is not None and one[0]]
        expected = " or ".join(dict.fromkeys(one[2] for one in found if one is not None))
        return None if None in found else deeper[0] if deeper else ("", value, expected)
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
        return "", value, "a torch tensor, torch.as_tensor(x).float() makes one"
    return "", value, f"{'an' if wanted.__name__[0] in 'AEIOU' else 'a'} {wanted.__name__}"


def _refused_leaf(value: Any, hint: Any) -> Refused | None:
    if type(value) is hint and hint is not float:
        return None
    try:
        _adapter(hint).validate_python(value.item() if isinstance(value, np.generic) else value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        return "", value, message.replace("a valid integer", "an integer").replace("a valid", "a")
    return None


@functools.lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=STRICT)


def _refused_items(value: Any, origin: type, parts: tuple[Any, ...]) -> Refused | None:
    """Of a container: whether it is one, then its items; what can be gone through only once is left to the function."""
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
    for where, one, hint in items:
        refused = _refused(one, hint)
        if refused is not None:
            return where + refused[0], *refused[1:]
    return None
