"""In which order fits are started, so that all workers are busy to the end."""

from collections.abc import Sequence

SMALLEST_PART = 0.1
"""Of a fit: less is not worth reading its recordings twice."""


def wrap_around(costs: Sequence[float], n_workers: int) -> list[tuple[int, float]]:
    """Tasks, some in two parts, in the order in which workers, each taking the next as it gets free, are done soonest.

    McNaughton's rule (1959): the tasks lie end to end, longest first, and each worker gets a piece of the same length.
    A task on the border of two pieces is begun first thing by the later worker, and ended last thing by the earlier.

    Args:
        costs: What each task takes, in any unit.
        n_workers: Tasks at a time.

    Returns:
        `(task, share)` in order of start: task number, and the share of it that is done when this part ends.
    """
    left, n_left, start = sum(costs), n_workers, 0.0  # the work and workers from this one on, and when it is free
    length = max([left / n_left, *costs])
    parts: list[tuple[float, int, float]] = []  # start, task, share
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cost = costs[task]
        over = (start + cost - length) / cost
        if over < SMALLEST_PART or n_left == 1:
            parts.append((start, task, 1.0))
            start += cost
            continue
        if over <= 1 - SMALLEST_PART:
            parts += [(0.0, task, over), (start, task, 1.0)]
            left, start = left - length, over * cost
        else:
            parts.append((0.0, task, 1.0))
            left, start = left - start, cost
        n_left -= 1
        length = max(left / n_left, cost)
    return [(task, share) for _, task, share in sorted(parts)]
