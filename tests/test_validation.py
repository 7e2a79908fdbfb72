"""Wrong arguments, fields and specifications are errors of one line that name the value."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field, NonNegativeInt
from torch import Tensor

from emg_lens.layout import TokenLayout
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.training.recipe import TrainingRecipe
from emg_lens.validation import ArgumentError, SpecModel, checked, short


@checked
def example(
    n: int = 1,
    fraction: float = 0.5,
    word: Literal["one", "two"] = "one",
    words: Sequence[str] | None = None,
    counts: Mapping[str, int] | None = None,
    seed: NonNegativeInt = 0,
    each: Callable[[int], None] | None = None,
    x: Tensor | None = None,
    layout: TokenLayout | None = None,
    pair: tuple[int, str] = (1, "a"),
    *rest: int,
    **options: int,
) -> int:
    """Nothing."""
    return n


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": True}, "example: n=True; expected an integer"),
        ({"n": 2.0}, "example: n=2.0; expected an integer"),
        ({"n": "3"}, "example: n='3'; expected an integer"),
        ({"n": None}, "example: n=None; expected an integer"),
        ({"fraction": math.nan}, "example: fraction=nan; expected a finite number"),
        ({"fraction": True}, "example: fraction=True; expected a number"),
        ({"word": "three"}, "example: word='three'; expected 'one' or 'two'"),
        ({"word": ["one"]}, "expected 'one' or 'two'"),
        ({"words": "one"}, "example: words='one'; expected a list or None"),
        ({"words": ["one", 2]}, r"example: words\[1\]=2; expected a string"),
        ({"words": 3}, "example: words=3; expected a list or None"),
        ({"counts": {"a": "b"}}, r"example: counts\['a'\]='b'; expected an integer"),
        ({"counts": {1: 1}}, r"example: counts\[1\]=1; expected a string"),
        ({"counts": [1]}, r"example: counts=\[1\]; expected a mapping or None"),
        ({"seed": -1}, "example: seed=-1; expected a number greater than or equal to 0"),
        ({"each": 3}, "example: each=3; expected a function or None"),
        ({"x": np.zeros((2, 3))}, r"example: x=ndarray of float64, \[2, 3\]; expected a torch tensor"),
        ({"layout": torch.nn.Linear(2, 2)}, "example: layout=Linear.*; expected a TokenLayout or None"),
        ({"pair": (1, 2)}, r"example: pair\[1\]=2; expected a string"),
        ({"pair": (1,)}, "expected 2 values"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(given, message):
    with pytest.raises(ArgumentError, match=message):
        example(**given)


def test_valid_arguments_are_passed_on():
    layout = TokenLayout.channels({"emg": 2})
    assert example(np.int64(3), np.float32(0.5), "two", ["a"], {"a": 1}, 4, print, torch.zeros(2), layout) == 3
    assert example(words=("a", "b"), other=3) == 1


def test_missing_and_unknown_arguments_keep_pythons_own_message():
    with pytest.raises(TypeError, match="missing 1 required"):
        checked(lambda needed: needed)()


def test_a_long_value_is_shortened_to_one_line():
    assert len(short("x" * 10**6)) < 150 and len(short([0] * 10**6)) < 150
    assert short("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"


class Steps(SpecModel):
    n: int = Field(default=1, ge=1, alias="count")
    names: tuple[str, ...] = ()


class Anything(SpecModel):
    model_config = ConfigDict(extra="allow")

    options: dict[str, Any] = {}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"count": 0}, "^Steps: count=0; expected a number greater than or equal to 1$"),
        ({"count": "x", "names": [1]}, r"^Steps: count='x'; expected an integer; names.0=1; expected a string$"),
        ({"count": True}, "^Steps: count=true; expected a number or text; put a name"),
        ({"kount": 1}, "^Steps: kount is not a known key; did you mean 'count'"),
        ({"a\nb": 1}, r"^Steps: a b is not a known key; known keys: count, names"),
    ],
)
def test_a_wrong_specification_in_python_is_an_error_of_one_line(given, message):
    with pytest.raises(ArgumentError, match=message):
        Steps(**given)


@pytest.mark.parametrize("value", [math.inf, math.nan, [1, math.inf], {"a": [-math.inf]}])
def test_undeclared_fields_must_be_finite_too(value):
    with pytest.raises(ArgumentError, match="d_mlp=-?(inf|nan); expected a finite number"):
        Anything(d_mlp=value)
    with pytest.raises(ArgumentError, match="options=-?(inf|nan); expected a finite number"):
        Anything(options={"d_mlp": value})
    assert Anything(d_mlp=3.5, more=["x"]).model_extra == {"d_mlp": 3.5, "more": ["x"]}


@pytest.mark.parametrize(
    "read",
    [
        lambda cls, content: cls(**content),
        lambda cls, content: cls.model_validate(content),
        lambda cls, content: cls.model_validate_json(json.dumps(content)),
    ],
)
def test_every_way_to_make_a_specification_gives_the_same_one_line_error(read):
    for cls, content, message in (
        (TrainingRecipe, {"epochs": "many"}, "TrainingRecipe: epochs='many'; expected an integer"),
        (TrainingRecipe, {"epoch": 3}, "TrainingRecipe: epoch is not a known key; did you mean 'epochs'"),
        (StudySpec, {"name": "a"}, "StudySpec: title is missing; cohort is missing"),
    ):
        with pytest.raises(ArgumentError) as error:
            read(cls, content)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert read(TrainingRecipe, {"epochs": 3}) == TrainingRecipe(epochs=3)
