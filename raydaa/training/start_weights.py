"""The weights that trials of one process begin with, loaded once."""

from typing import Any

import torch
from torch import Tensor

from raydaa.training.model import load_model


class StartWeights:
    """The starting model of this process's trials: loaded once, its weights copied back before each trial."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._model: Any = None
        self._weights: dict[str, Tensor] = {}

    def fresh(self, source: str, trust_remote_code: bool = False) -> Any:
        """The model of ``source`` with its own weights, whatever an earlier trial made of them."""
        if source != self._source:
            self._model = load_model(source, trust_remote_code=trust_remote_code)
            self._weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
            self._source = source
        else:
            with torch.no_grad():
                for name, tensor in self._model.state_dict().items():
                    tensor.copy_(self._weights[name])
            self._model.zero_grad(set_to_none=True)
        return self._model
