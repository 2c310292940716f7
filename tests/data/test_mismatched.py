"""Prompts with the responses of the pair after them."""

import pyarrow as pa

from raydaa.data.packing import PairTable, mismatched


def table() -> PairTable:
    rows = [([1, 5, 6, 7], [8, 2], [9, 2]), ([1], [10, 11, 12, 13, 2], [14, 2]), ([1, 15], [16, 2], [17, 18, 2])]
    names = ("prompt_tokens", "chosen_tokens", "rejected_tokens")
    return PairTable(mismatched(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})))


def test_each_prompt_meets_the_next_pairs_responses_and_the_last_the_firsts() -> None:
    found = table()
    batch = found.pack([1, 2])
    assert batch.tokens.tolist() == [1, 17, 18, 2, 16, 2, 1, 15, 8, 2, 9, 2]
    assert batch.lengths.tolist() == [2, 3, 2, 2]
    assert found.row_lengths.tolist() == [8, 6, 6]


def test_no_sequence_grows_longer_than_the_tables_longest() -> None:
    """The longest of the table has 6 tokens; a prompt of 4 leaves room for 2 of a response of 5."""
    batch = table().pack([0])
    assert batch.tokens.tolist() == [1, 5, 6, 7, 10, 11, 14, 2]
    assert int(batch.positions.max()) == 5
