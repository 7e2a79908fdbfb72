"""Specifications that are one YAML file, by its path or by the name of a shipped file: studies and pre-trainings."""

import hashlib
import json
import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import ClassVar, Self

import yaml

from emg_lens.errors import EmgLensError, did_you_mean
from emg_lens.io.yaml_text import YAMLTextError, read_yaml
from emg_lens.validation import ArgumentError, SpecModel, check_argument, short


class SpecFile(SpecModel):
    """A specification that is the whole content of a YAML file.

    Attributes:
        KIND: What it specifies, for messages: `"study"`.
        KEYS: Some of its keys, for messages; the key of `OTHER_KIND` is none of them.
        OTHER_KIND: A key of another kind of specification, and the end of the message to a user who gives one.
        PACKAGE: Package whose folder `catalog` holds the shipped files.
        ERROR: The error that is raised.
        NO_NUMBER: Keys that `digest` leaves out, because no number of the fits depends on them.
    """

    KIND: ClassVar[str]
    KEYS: ClassVar[tuple[str, ...]]
    OTHER_KIND: ClassVar[tuple[str, str]]
    PACKAGE: ClassVar[str]
    ERROR: ClassVar[type[EmgLensError]]
    NO_NUMBER: ClassVar[tuple[str, ...]]

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a specification by its catalogue name or from a YAML file.

        Args:
            name_or_path: Name of a shipped specification, or the path of a `.yaml` file.

        Raises:
            StudyError, PretrainingError: There is no such name or file, the file is not YAML, or it has an unknown key
                or an invalid value.
        """
        check_argument(cls.KIND, name_or_path, str | Path)
        path, name = Path(name_or_path), str(name_or_path)
        if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # False also for text that cannot name a file
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:  # ValueError: not UTF-8, a zero byte
                reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
                raise cls.ERROR(f"cannot read {cls.KIND} {name!r}: {reason}") from None
            return cls.parse(text, source=name)
        shipped = shipped_names(cls.PACKAGE)
        if name not in shipped:
            hint = did_you_mean(name, shipped)
            raise cls.ERROR(
                f"unknown {cls.KIND} {short(name)}; {hint}give a .yaml file or one of: {', '.join(shipped)}"
            )
        return cls.parse(shipped_text(cls.PACKAGE, name), source=name)

    @classmethod
    def parse(cls, text: str, source: str = "") -> Self:
        """Read a specification from YAML text; `source` names the text in error messages."""
        source, (key, advice) = source or cls.KIND, cls.OTHER_KIND
        try:
            content = read_yaml(text)
            if not isinstance(content, dict):
                kind = "nothing" if content is None else f"a {type(content).__name__}"
                raise cls.ERROR(f"{source} holds {kind}; expected keys such as {', '.join(cls.KEYS)}")
            if key in content and cls.KEYS[1] not in content:
                raise cls.ERROR(f"{source} {advice}")
            return cls.from_content(content)
        except YAMLTextError as error:
            raise cls.ERROR(f"{source} {error}") from None
        except ArgumentError as error:
            raise cls.ERROR(f"{source}: {error}") from None

    def to_yaml(self) -> str:
        """Write the specification as YAML, with all defaults except the defaults of the architecture."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    def digest(self) -> str:
        """Hash all settings that could change a fit or its outputs, as ten hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json", exclude={*self.NO_NUMBER}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:10]


def shipped_names(package: str) -> tuple[str, ...]:
    """List the names of the YAML files in the folder `catalog` of a package."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder(package).iterdir() if f.name.endswith(".yaml")))


def shipped_text(package: str, name: str) -> str:
    """Return the text of a YAML file in the folder `catalog` of a package."""
    return (_folder(package) / f"{name}.yaml").read_text(encoding="utf-8")


def _folder(package: str) -> Traversable:
    return resources.files(package) / "catalog"
