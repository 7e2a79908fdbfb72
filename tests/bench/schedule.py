"""Duration of a run with the order of `start_order`, against the same fits undivided with the longest first.

`python tests/bench/schedule.py` computes both for equal fits. A fit consists of preparation (repeated in each part of a
divided fit), training (which can be divided) and the rest (sweep and files, in the last part). The fractions of
`quickstart` follow from its numbers of forward passes (`fitting_fraction`).
"""

from collections.abc import Sequence

from emg_lens.studies.runs.schedule import start_order

KINDS = {"as in quickstart": (0.05, 0.47, 0.48), "long training": (0.03, 0.90, 0.07)}
"""Fractions of a fit: preparation, training, rest."""


def duration(parts: Sequence[tuple[int, float]], n_workers: int, fractions: tuple[float, float, float]) -> float:
    """Duration of a run, in fits. A free worker takes the next part; a second part waits for the first."""
    preparation, training, rest = fractions
    free, done, ended = [0.0] * n_workers, dict[int, float](), dict[int, float]()
    for task, until in parts:
        worker = free.index(min(free))
        start = max(free[worker], ended.get(task, 0.0))
        length = preparation + training * (until - done.get(task, 0.0)) + (rest if until == 1 else 0.0)
        free[worker] = ended[task] = start + length
        done[task] = until
    return max(free)


def main() -> None:
    """Print the saved time."""
    for kind, fractions in KINDS.items():
        for n_fits in (5, 10, 17, 40):
            for n_workers in (2, 4, 8, 16):
                plain = duration([(task, 1.0) for task in range(n_fits)], n_workers, fractions)
                divided = duration(start_order([1.0] * n_fits, n_workers), n_workers, fractions)
                print(  # noqa: T201
                    f"{kind}: {n_fits} fits on {n_workers} workers: {plain:.2f} whole, {divided:.2f} divided,"
                    f" {100 * (1 - divided / plain):.0f} % saved"
                )


if __name__ == "__main__":
    main()
