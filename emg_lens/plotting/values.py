"""Check and arrange what a picture shows: arrays, tables and result objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.colors import is_color_like, to_hex

from emg_lens.validation import ArgumentError, short

CellGrid = Float[np.ma.MaskedArray, "row column"]


def numbers(what: str, values: object, shape: Sequence[object]) -> np.ma.MaskedArray:
    """Return an array or tensor as numbers; cells may be masked, but not NaN.

    Args:
        what: Name of the argument, for messages.
        values: The array.
        shape: Expected shape: a number, or the name of an axis of any length. One name for each axis.
    """
    try:
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else values  # pyright: ignore
        array = np.ma.asarray(array, float) if np.ma.isMaskedArray(array) else np.ma.asarray(np.asarray(array, float))
    except (TypeError, ValueError):
        raise ArgumentError(f"{what}={short(values)}; expected an array of numbers {_written(shape)}") from None
    fits = [isinstance(size, str) or size == own for size, own in zip(shape, array.shape, strict=False)]
    if array.ndim != len(shape) or not all(fits) or not array.size:
        raise ArgumentError(f"{what} has shape {list(array.shape)}; expected {_written(shape)}")
    wrong = np.argwhere(~np.isfinite(array.filled(0)))
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise ArgumentError(
            f"{what} is {array[at]} at {list(at)}; expected finite numbers; mask cells without a value:"
            " numpy.ma.masked_invalid(...)"
        )
    return array


def table_of(what: str, value: object, columns: Sequence[str], numeric: Sequence[str] = ()) -> pd.DataFrame:
    """Return a data frame, or that of a result (its method `to_frame()` or its attribute `table`), with these columns.

    Args:
        what: Name of the argument, for messages.
        value: The data frame or the result.
        columns: Columns that it must have.
        numeric: Those that must be finite numbers.
    """
    table: Any = value
    if not isinstance(value, pd.DataFrame):
        table = getattr(value, "table", None)
        if not isinstance(table, pd.DataFrame) and hasattr(value, "to_frame"):
            table = value.to_frame()  # pyright: ignore[reportAttributeAccessIssue]
    wanted = f"expected a data frame with the columns {', '.join(columns)}"
    if not isinstance(table, pd.DataFrame):
        raise ArgumentError(f"{what}={short(value)}; {wanted}, or a result that has one")
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise ArgumentError(f"{what} has no column {', '.join(lacking)}, only {short(list(table))}; {wanted}")
    if not len(table):
        raise ArgumentError(f"{what} has no rows; expected one or more")
    for name in numeric:
        texts = table[name][table[name].map(lambda one: isinstance(one, str))]
        if len(texts):
            raise ArgumentError(
                f"{what}: {name} is {short(texts.iloc[0])} in a row; expected finite numbers; convert text with"
                f" pandas.to_numeric"
            )
        column = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        if not np.isfinite(column).all():
            wrong = table[name].iloc[int(np.argmax(~np.isfinite(column)))]
            wrong = wrong.item() if isinstance(wrong, np.generic) else wrong
            raise ArgumentError(
                f"{what}: {name} is {short(wrong)} in a row; expected finite numbers; leave such rows out"
            )
    return table


def grid_of(
    what: str, table: pd.DataFrame, value: str, rows: Sequence[Any], columns: Sequence[Any], ends: tuple[str, str]
) -> CellGrid:
    """Arrange the rows of a table as a grid; cells without a row are masked, and several rows of a cell are summed.

    Args:
        what: Name of the argument, for messages.
        table: The table.
        value: Column of the values.
        rows: Entries of the rows, in order.
        columns: Entries of the columns, in order.
        ends: Columns of the table that hold the entries of rows and columns.
    """
    sums = table.groupby(list(ends), sort=False)[value].sum().unstack()
    unknown = [name for name in [*sums.index, *sums.columns] if name not in {*rows, *columns}]
    if unknown:
        raise ArgumentError(
            f"{what} names {unknown[0]!r}; expected one of {short([*dict.fromkeys([*rows, *columns])])}"
        )
    return np.ma.masked_invalid(sums.reindex(index=list(rows), columns=list(columns)).to_numpy(float))


def whole_columns(what: str, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the table with these columns, such as `layer`, as integers from 0; other numbers are errors."""
    for name in names:
        column = table[name].to_numpy(float)
        wrong = column[(column < 0) | (column % 1 != 0)]
        if len(wrong):
            raise ArgumentError(f"{what}: {name} is {wrong[0]:g} in a row; expected whole numbers from 0")
    return table.assign(**{name: table[name].astype(int) for name in names})


def check_single(what: str, table: pd.DataFrame, ends: Sequence[str], value: str) -> None:
    """Check that the table has one row for each combination of these columns."""
    rows = table.groupby(list(ends), sort=False).size()
    if rows.max() > 1:
        several = rows[rows > 1].reset_index().iloc[0]
        place = ", ".join(f"{name} {several[name]:g}" for name in ends)
        raise ArgumentError(
            f"{what} has {rows[rows > 1].iloc[0]} rows for {place}; expected one; average them first:"
            f" table.groupby({list(ends)}, as_index=False)[{value!r}].mean()"
        )


def check_limits(limits: tuple[float | None, float | None] | None) -> tuple[float | None, float | None]:
    """Return the limits, or (None, None) without; exchanged or infinite ones are errors."""
    low, high = limits or (None, None)
    if not all(np.isfinite(one) for one in (low, high) if one is not None):
        raise ArgumentError(f"limits={limits}; expected finite numbers")
    if low is not None and high is not None and low > high:
        raise ArgumentError(f"limits={limits}; expected the lower value first: ({high:g}, {low:g})")
    return low, high


def hex_colour(what: str, colour: str) -> str:
    """Return a colour that matplotlib knows as `#rrggbb`."""
    if not is_color_like(colour):
        raise ArgumentError(f"{what}={short(colour)}; expected a colour, such as 'blue' or '#0072B2'")
    return to_hex(colour)


def chosen(what: str, one: int | None, known: Sequence[int]) -> list[int]:
    """Return one of the layers or heads, or all of them for None."""
    if one is None:
        return list(known)
    if one not in known:
        of = f"{known[0]} to {known[-1]}" if list(known) == list(range(known[0], known[-1] + 1)) else str(list(known))
        raise ArgumentError(f"{what}={one} does not exist; expected {of} ({what}s count from 0)")
    return [one]


def _written(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"
