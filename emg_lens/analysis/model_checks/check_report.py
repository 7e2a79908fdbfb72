"""What a check finds, and the report of all checks of a model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from emg_lens.tables import WholeTable

CheckVerdict = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        verdict: Whether the model passed.
        number: What was measured; NaN if the check is not applicable.
        sentence: The number in words, and what to do.
    """

    verdict: CheckVerdict
    number: float
    sentence: str


def judged(passed: bool, number: float, sentence: str) -> Finding:
    """Make the finding of a check that is applicable."""
    return Finding("pass" if passed else "fail", float(number), sentence)


def not_applicable(sentence: str) -> Finding:
    """Make the finding of a check that this model cannot pass or fail."""
    return Finding("not applicable", np.nan, sentence)


@dataclass(frozen=True, repr=False)
class CheckReport:
    """The findings of all checks, one line each: `print(report)`.

    Attributes:
        subject: What was checked.
        findings: The finding of each check, by its name.

    Example:
        >>> from emg_lens.analysis.model_checks.check_report import CheckReport, judged
        >>> CheckReport("a model", {"batch size": judged(False, 0.45, "a trial alone gives another output")})
        a model: 1 check, 1 failed
          FAIL  batch size  0.45  a trial alone gives another output
    """

    subject: str
    findings: dict[str, Finding]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, finding in self.findings.items() if finding.verdict == "fail"]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each check: check, verdict, number, sentence."""
        rows = [(name, one.verdict, one.number, one.sentence) for name, one in self.findings.items()]
        return WholeTable(rows, columns=["check", "verdict", "number", "sentence"])

    @property
    def summary(self) -> str:
        """The subject, and how many checks failed."""
        n = len(self.findings)
        return f"{self.subject}: {n} check{'s' * (n != 1)}, {len(self.failed) or 'none'} failed"

    def __repr__(self) -> str:
        shown = {"pass": "pass", "fail": "FAIL", "not applicable": "-"}
        numbers = ["" if np.isnan(one.number) else f"{one.number:.3g}" for one in self.findings.values()]
        widths = [max(map(len, cells), default=0) for cells in (self.findings, numbers)]
        lines = [
            f"  {shown[one.verdict]:<4}  {name:<{widths[0]}}  {number:<{widths[1]}}  {one.sentence}"
            for (name, one), number in zip(self.findings.items(), numbers, strict=True)
        ]
        return "\n".join([self.summary, *lines])
