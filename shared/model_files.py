"""A checkpoint's folder: where it is, and what its JSON files say of the model, as typed values.

Used by the launcher (to refuse early), the tokenizer and the worker. Speaks Hugging Face's formats,
old and new spellings; says in one sentence what is wrong with a folder.
Knows no tensors (see weight_files.py for where they lie) and runs no code from a checkpoint.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from .model_config import ModelConfig, RawConfig, resolve
from .model_errors import ModelFilesError
from .weight_files import TensorEntry, read_weight_entries

__all__ = [
    "DEMO_MODEL",
    "DEMO_NAME",
    "GenerationConfig",
    "ModelConfig",
    "ModelFilesError",
    "TensorEntry",
    "check",
    "eos_token_ids",
    "find_model",
    "read_generation_config",
    "read_model_config",
    "read_weight_entries",
]

DEMO_MODEL = Path(__file__).resolve().parent / "demo_model"
"""Served when no model is named."""
DEMO_NAME = "quire-demo"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL_HUB_FILES = ["*.json", "*.jinja", "tokenizer.model"]
_HUB_FILES = [*_SMALL_HUB_FILES, "*.safetensors"]
_JSON_LIMIT = 16 << 20
"""Bytes; a config file is some kilobytes."""

Config = TypeVar("Config")


class GenerationConfig(msgspec.Struct, frozen=True):
    """Sampling defaults of a checkpoint (generation_config.json); None where it has none."""

    eos_token_ids: list[int] = []
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


class _RawGenerationConfig(msgspec.Struct):
    eos_token_id: int | list[int] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None


def find_model(name_or_path: str | None, has_weights: bool = True) -> Path:
    """The folder of a checkpoint: the demo model (None), a local folder, or a hub id, which is fetched when needed,

    without its weights unless has_weights. Raises ModelFilesError.
    """
    if name_or_path is None:
        return DEMO_MODEL
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise ModelFilesError(f"{name_or_path} is a file; a model is a folder with config.json and *.safetensors")
    if not is_hub_id(name_or_path):
        raise ModelFilesError(f"model folder {name_or_path} does not exist")
    return _fetch(name_or_path, _HUB_FILES if has_weights else _SMALL_HUB_FILES)


def is_hub_id(name_or_path: str) -> bool:
    """Whether a name that is no folder here may be OWNER/NAME on the Hugging Face hub."""
    return _HUB_ID.fullmatch(name_or_path) is not None


def _fetch(hub_id: str, wanted: list[str]) -> Path:
    # Imported here: most starts never need it, and it costs a third of a second.
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # First the small file that can refuse the model, then the gigabytes.
        config = Path(huggingface_hub.hf_hub_download(hub_id, "config.json"))
        read_model_config(config.parent)
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted))
    except GatedRepoError:
        raise ModelFilesError(f"model {hub_id} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelFilesError(f"model {hub_id} is neither a folder here nor on the Hugging Face hub") from None
    except LocalEntryNotFoundError:
        raise ModelFilesError(f"model {hub_id} is no folder here, and the Hugging Face hub cannot be reached") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, ModelFilesError):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelFilesError(f"model {hub_id} could not be fetched: {reason}") from None


def check(name_or_path: str | None, has_weights: bool = True) -> None:
    """Everything that can be known to be wrong without loading, in milliseconds; a hub id is not looked up.

    has_weights: whether weights must be there. Raises ModelFilesError.
    """
    if name_or_path is not None and not Path(name_or_path).expanduser().exists() and is_hub_id(name_or_path):
        return
    folder = find_model(name_or_path)
    read_model_config(folder)
    read_generation_config(folder)
    if has_weights:
        read_weight_entries(folder)


def read_model_config(folder: Path) -> ModelConfig:
    """config.json, with the defaults of its family filled in. Raises ModelFilesError."""
    if not (folder / "config.json").is_file():
        raise ModelFilesError(f"{folder} has no config.json; is it a Hugging Face model folder?")
    return resolve(_read_json(folder / "config.json", RawConfig), str(folder / "config.json"))


def read_generation_config(folder: Path) -> GenerationConfig:
    """generation_config.json, empty when there is none. Raises ModelFilesError."""
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig()
    raw = _read_json(folder / "generation_config.json", _RawGenerationConfig)
    return GenerationConfig(
        eos_token_ids=_as_list(raw.eos_token_id),
        temperature=raw.temperature,
        top_p=raw.top_p,
        top_k=raw.top_k,
        min_p=raw.min_p,
        repetition_penalty=raw.repetition_penalty,
        max_new_tokens=raw.max_new_tokens,
    )


def eos_token_ids(folder: Path) -> list[int]:
    """All ids that end an output: of generation_config.json, then those only config.json names."""
    config = read_model_config(folder)
    both = read_generation_config(folder).eos_token_ids + config.eos_token_ids
    return [token_id for token_id in dict.fromkeys(both) if 0 <= token_id < config.vocab_size]


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]


def _read_json(file: Path, kind: type[Config]) -> Config:
    try:
        if file.stat().st_size > _JSON_LIMIT:
            raise ModelFilesError(f"{file} has {file.stat().st_size} bytes; a config has at most {_JSON_LIMIT}")
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ModelFilesError(f"{file} cannot be read: {error}") from None
