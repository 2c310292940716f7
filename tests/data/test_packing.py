"""Packing loses nothing, pads little, and keeps workers in step."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raydaa.data.batches import global_batches, num_steps, split_work, subset
from raydaa.data.packing import Block, ExampleTable, PackedBatch, PairTable, Sharing
from raydaa.store.tables import EXAMPLES, PAIRS

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 200))
def test_work_is_split_whole_and_in_step(lengths: list[int], workers: int, budget: int) -> None:
    plans = split_work(np.array(lengths), workers, budget)
    assert sorted(item for plan in plans for batch in plan for item in batch) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    for batch in (batch for plan in plans for batch in plan):
        assert sum(lengths[item] for item in batch) <= budget or len(batch) == 1


@given(st.integers(1, 50), st.integers(1, 20), st.sampled_from([0.3, 1, 1.5, 3]), st.integers(0, 5))
def test_epochs_are_permutations_cut_into_batches(size: int, batch: int, epochs: float, seed: int) -> None:
    batches = global_batches(size, batch, epochs, seed)
    assert len(batches) == num_steps(size, batch, epochs)
    order = np.concatenate(batches)
    for first in range(0, len(order), size):
        part = order[first : first + size]
        assert len(set(part)) == len(part)
    total = max(1, round(size * epochs))
    assert total - len(order) < batch
    again = global_batches(size, batch, epochs, seed)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


@given(st.integers(1, 300), st.floats(0.01, 1), st.floats(0.01, 1))
def test_smaller_fractions_are_nested(size: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert set(subset(size, small)) <= set(subset(size, large))
    assert len(subset(size, small)) == max(1, round(size * small))


ROWS = [
    {"pair_id": 1, "prompt_tokens": [5, 6], "chosen_tokens": [7, 8, 2], "rejected_tokens": [9, 2]},
    {"pair_id": 2, "prompt_tokens": [5], "chosen_tokens": [2], "rejected_tokens": [7, 2]},
]


def scored(batch: PackedBatch) -> list[tuple[int, int, int]]:
    return list(zip(batch.sequences.tolist(), batch.columns.tolist(), batch.targets.tolist(), strict=True))


def test_a_pair_is_one_block_with_the_longer_response_first() -> None:
    table = PairTable(pa.Table.from_pylist(ROWS, schema=PAIRS))
    batch = table.pack([0, 1])
    assert batch.tokens.tolist() == [5, 6, 7, 8, 2, 9, 2, 5, 7, 2, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2, 1]
    assert batch.blocks == (Block(0, 2, 5, 7), Block(7, 8, 10, 11))
    assert table.row_lengths.tolist() == [7, 4]
    # The first token of both responses is predicted from the prompt's last; sequence 2i is the chosen one.
    assert scored(batch) == [
        *[(0, 1, 7), (0, 2, 8), (0, 3, 2)],
        *[(1, 1, 9), (1, 5, 2)],
        (2, 7, 2),
        *[(3, 7, 7), (3, 8, 2)],
    ]
    assert batch.lengths.tolist() == [3, 2, 1, 2]


def test_a_pair_that_does_not_share_is_two_blocks() -> None:
    table = PairTable(pa.Table.from_pylist(ROWS, schema=PAIRS), sharing=Sharing(allowed=False))
    batch = table.pack([0])
    assert batch.tokens.tolist() == [5, 6, 7, 8, 2, 5, 6, 9, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.blocks == (Block(0, 2, 5, 5), Block(5, 7, 9, 9))
    assert table.row_lengths.tolist() == [9, 5]
    assert scored(batch) == [(0, 1, 7), (0, 2, 8), (0, 3, 2), (1, 6, 9), (1, 7, 2)]


def test_a_prompt_is_shared_where_that_is_cheaper() -> None:
    """10 tokens of linear layers against the masked triangle of the second response, less the prompt's own."""
    sharing = Sharing(linear_per_cell=20.0)
    assert sharing.worthwhile(np.array([10, 10, 0]), np.array([22, 23, 1])).tolist() == [True, False, False]
    assert Sharing().worthwhile(np.array([1]), np.array([9999])).tolist() == [True]


def test_an_example_scores_marked_tokens_only() -> None:
    row = {"example_id": 1, "tokens": [1, 5, 6, 7, 2], "scored": [True, False, False, True, True]}
    batch = ExampleTable(pa.Table.from_pylist([row, row], schema=EXAMPLES)).pack([0, 1])
    assert scored(batch) == [(0, 2, 7), (0, 3, 2), (1, 7, 7), (1, 8, 2)]
    assert batch.blocks == (Block(0, 0, 5, 5), Block(5, 5, 10, 10))
