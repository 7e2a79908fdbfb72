"""The order in which fits start, so that all workers are busy until the end."""

from collections.abc import Sequence

SMALLEST_PART = 0.1
"""Smallest fraction of a fit that is worth reading its recordings twice."""


def start_order(costs: Sequence[float], n_workers: int) -> list[tuple[int, float]]:
    """Order tasks for workers that take the next task when they are free; a few tasks are divided in two parts.

    This is McNaughton's rule (1959). The tasks lie end to end, the longest first, and each worker gets a piece of the
    same length. A task on the border of two pieces is divided: the later worker starts with the first part, and the
    earlier worker ends with the second part. With 10 equal fits on 8 workers, the run takes 18 to 34 % less time than
    with whole fits; the gain grows with the fraction of a fit that is training.

    Args:
        costs: Duration of each task, in any unit.
        n_workers: Number of workers.

    Returns:
        `(task, until)` in the order of their start: the number of the task, and the fraction of the task that is
        finished when this part ends.
    """
    work_left, workers_left, start = sum(costs), n_workers, 0.0  # of this and later pieces; start within this piece
    length = max([work_left / workers_left, *costs])
    parts: list[tuple[float, int, float]] = []  # start, task, until
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cost = costs[task]
        beyond = (start + cost - length) / cost  # fraction of the task that lies in the next piece
        if beyond < SMALLEST_PART or workers_left == 1:
            parts.append((start, task, 1.0))
            start += cost
            continue
        if beyond <= 1 - SMALLEST_PART:
            parts += [(0.0, task, beyond), (start, task, 1.0)]
            work_left, start = work_left - length, beyond * cost
        else:
            parts.append((0.0, task, 1.0))
            work_left, start = work_left - start, cost
        workers_left -= 1
        length = max(work_left / workers_left, cost)
    return [(task, until) for _, task, until in sorted(parts)]
