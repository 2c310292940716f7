"""How varied a model's responses are: preference tuning tends to make them longer and more alike."""

from collections.abc import Sequence


def distinct_n(responses: Sequence[str], n: int) -> float | None:
    """The share of different word n-grams among all of them, over all responses (Li et al. 2016, arXiv 1510.03055).

    It falls with the number of words: compare models on the same prompts. None where no response has ``n`` words.
    """
    grams: list[tuple[str, ...]] = []
    for response in responses:
        words = response.split()
        grams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else None
