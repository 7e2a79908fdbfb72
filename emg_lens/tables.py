"""Data frames that print whole: pandas leaves rows and columns out of the middle of larger ones."""

import pandas as pd

MOST_ROWS = 500
"""A longer table is printed as pandas does, with an ellipsis."""


class WholeTable(pd.DataFrame):
    """A data frame that prints all its columns, and all its rows if it has at most 500.

    What pandas makes of it (a selection of rows or columns, a sorted or a merged table) prints in the same way.

    Example:
        >>> from emg_lens.tables import WholeTable
        >>> table = WholeTable({"condition": [f"L{layer}" for layer in range(200)], "accuracy": 0.5})
        >>> len(str(table).splitlines()), len(str(table[["condition"]]).splitlines())
        (201, 201)
    """

    @property
    def _constructor(self) -> type["WholeTable"]:
        return WholeTable

    def __repr__(self) -> str:
        return self.to_string() if len(self) <= MOST_ROWS else super().__repr__()

    def _repr_html_(self) -> str:
        return self.to_html(notebook=True) if len(self) <= MOST_ROWS else super()._repr_html_()


class WholeSeries(pd.Series):
    """A series that prints its texts whole, and all its entries if it has at most 500."""

    @property
    def _constructor(self) -> type["WholeSeries"]:
        return WholeSeries

    def __repr__(self) -> str:
        if len(self) > MOST_ROWS:
            return super().__repr__()
        width = max((len(str(name)) for name in self.index), default=0)
        values = (f"{one:.6g}" if isinstance(one, float) else str(one) for one in self)
        return "\n".join(f"{name!s:<{width}}  {value}" for name, value in zip(self.index, values, strict=True))
