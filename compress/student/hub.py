"""A model on the Hugging Face hub → a local directory, by huggingface_hub's own cache.

Only safetensors, JSON and tokenizer files are fetched: no pickle and no code. The configuration comes first, so that an
unsupported family is refused before gigabytes of weights move. Without a network, a snapshot fetched before is used.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import ModuleType

from edgepress.artifact.hf_config import find_family
from edgepress.compress.student.json_file import read_json
from edgepress.errors import InputError, require

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ["model*.safetensors", "*.json", "tokenizer.model", "merges.txt", "*.jinja"]
_TIMEOUT_S = 15


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``org/name``."""
    return _HUB_ID.fullmatch(name) is not None and not name.endswith(".gguf")


def fetch_from_hub(hub_id: str) -> Path:
    """The local directory of a model.

    Raises:
        InputError: the hub cannot be reached, has no such model, or the model is of an unsupported kind.
    """
    hub = require("huggingface_hub", "compress")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would be told one by one
    try:
        info = hub.HfApi().model_info(hub_id, timeout=_TIMEOUT_S)
        files = [entry.rfilename for entry in info.siblings or []]
        if not any(file.endswith(".safetensors") for file in files):
            raise InputError(f"no safetensors among its {len(files)} files; pickle is never loaded")
        find_family(read_json(Path(hub.hf_hub_download(hub_id, "config.json", revision=info.sha))))
        return Path(hub.snapshot_download(hub_id, revision=info.sha, allow_patterns=_WANTED))
    except InputError as error:
        raise InputError(f"{hub_id}: {error}") from error
    except Exception as error:  # HTTP libraries differ between versions, and so do their exceptions
        return _fetched_before(hub, hub_id, error)


def _fetched_before(hub: ModuleType, hub_id: str, reason: Exception) -> Path:
    try:
        return Path(hub.snapshot_download(hub_id, allow_patterns=_WANTED, local_files_only=True))
    except Exception:
        first_line = (str(reason).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"{hub_id}: not a local directory, and the hub cannot be reached or has no such model: "
            f"{type(reason).__name__}: {first_line[:200]}; download it elsewhere and give its directory"
        ) from reason
