"""The short form of `kills.py`: every way to end a run once, and the finished run is the undisturbed one."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

bench = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("kills.py"))))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_killed_runs_end_as_if_nothing_had_been_and_leave_no_process(tmp_path):
    study = bench.KilledStudy(tmp_path, "plain", 20)
    tallies = list(bench.kill_again_and_again([study], len(bench.KILLS), seed=0))
    assert {tally.kill for tally in tallies} == {"finished", *(kill.name for kill in bench.KILLS)}
    assert not [tally for tally in tallies if tally.faults]
