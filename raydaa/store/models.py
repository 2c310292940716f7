"""Models that a study names: a folder of one's own, or what the hub's client keeps."""

from pathlib import Path

from raydaa.errors import InputError, first_line
from raydaa.store.artifacts import key_of, model_hash, tokenizer_hash


def local_model(source: str) -> Path:
    """A folder with the model: ``source`` itself, or what the hub's client keeps of it."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{source}: is not a model folder; it has no config.json")
        if not list(folder.glob("*.safetensors")):
            raise InputError(f"{source}: holds no safetensors weights; save the model with save_pretrained")
        return folder.absolute()
    if source.startswith(("/", ".")) or source.count("/") != 1:
        raise InputError(f"{source}: there is no such model folder")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except Exception as error:  # offline, unknown, gated: the client has a class for each
        raise InputError(f"{source}: the model can't be fetched: {first_line(error)}") from None


def model_identity(folder: Path) -> str:
    """Of a model's weights, and of how it reads text."""
    return key_of(weights=model_hash(folder), tokenizer=tokenizer_hash(folder))
