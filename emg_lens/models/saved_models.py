"""Load a saved model without naming its architecture."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from emg_lens.lens.signals import CONFIG_FILE, ModelFileError
from emg_lens.models.pretrained import weights_files
from emg_lens.models.registry import ARCHITECTURES


def saved_model(folder: str | Path) -> Any:
    """Load a model of any registered architecture.

    Args:
        folder: A folder of `save_pretrained`: also that of a fit of a study, or of a pre-training.

    Returns:
        The model, in evaluation mode. Its architecture is the one with exactly the saved settings.

    Raises:
        ModelFileError: There is no saved model, or no registered architecture has its settings.

    Example:
        >>> import tempfile
        >>> from emg_lens import build_model
        >>> from emg_lens.models.saved_models import saved_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     build_model("multimodal-mlp", modalities={"emg": 4}, n_samples=50, n_classes=3).save_pretrained(folder)
        ...     type(saved_model(folder)).__name__
        'MultimodalMLP'
    """
    files = weights_files(str(folder))
    if len(files) < 2:
        raise ModelFileError(f"{folder} is a file of weights; expected a folder with {CONFIG_FILE}")
    place = files[0].parent
    try:
        saved = set(json.loads(files[0].read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{files[0]} is not a configuration ({error}); save the model again") from None
    errors = []
    for _, entry in ARCHITECTURES.items():
        if saved != {field.name for field in fields(entry.config) if field.init}:
            continue
        try:
            return entry.model.from_pretrained(place)
        except ModelFileError as error:
            errors.append(str(error))
    if errors:
        raise ModelFileError(errors[0])
    raise ModelFileError(
        f"{place}: no registered model has exactly the settings in {CONFIG_FILE} ({', '.join(sorted(saved)[:5])}, ...);"
        " load it with from_pretrained of its class, and save it again"
    )
