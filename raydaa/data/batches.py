"""Which rows make a global batch, and which worker gets which micro-batch of it."""

import numpy as np


def global_batches(size: int, batch_size: int, epochs: float, seed: int) -> list[np.ndarray]:
    """Indices of every step's global batch: epochs shuffled one after another, cut into equal batches.

    A batch may span two epochs; what is left at the very end is less than a batch and is not used. Fewer
    items than one batch make one smaller batch.
    """
    shuffled = [np.random.default_rng([seed, epoch]).permutation(size) for epoch in range(int(np.ceil(epochs)))]
    order = np.concatenate(shuffled)[: max(1, round(size * epochs))]
    steps = num_steps(size, batch_size, epochs)
    return [order[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


def num_steps(size: int, batch_size: int, epochs: float) -> int:
    """How many global batches `global_batches` gives."""
    return max(1, round(size * epochs) // batch_size)


def subset(size: int, fraction: float) -> np.ndarray:
    """Rows of the first ``fraction`` of a table in a fixed shuffled order; smaller fractions are nested in larger."""
    chosen = np.random.default_rng([0, size]).permutation(size)[: max(1, round(size * fraction))]
    return np.sort(chosen)


def split_work(lengths: np.ndarray, workers: int, budget: int) -> list[list[list[int]]]:
    """For each worker its micro-batches, as positions in ``lengths``; every worker gets the same number of them.

    Items are dealt from the longest down, to and fro, so that workers carry about the same tokens; each worker's
    share is then cut where a micro-batch would exceed ``budget`` tokens. A worker with fewer micro-batches
    gets empty ones: it must run something there, or collective operations would wait for it for ever.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-int(lengths[i]), i))
    shares: list[list[int]] = [[] for _ in range(workers)]
    for position, item in enumerate(order):
        lap, seat = divmod(position, workers)
        shares[seat if lap % 2 == 0 else workers - 1 - seat].append(item)
    plans = [_cut(share, lengths, budget) for share in shares]
    most = max(map(len, plans))
    return [plan + [[]] * (most - len(plan)) for plan in plans]


def _cut(share: list[int], lengths: np.ndarray, budget: int) -> list[list[int]]:
    plan: list[list[int]] = []
    size = 0
    for item in share:
        size += int(lengths[item])
        if plan and size <= budget:
            plan[-1].append(item)
        else:
            plan.append([item])
            size = int(lengths[item])
    return plan
