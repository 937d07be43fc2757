"""Reads YAML as plain data: no code, no duplicate keys, no aliases that unfold to gigabytes."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from wbcnets.errors import ConfigError, DataError
from wbcnets.io.tables import read_text

MAX_BYTES = 1 << 20
MAX_ALIASES = 100


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses duplicate keys and too many aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts the aliases: ten levels of ten would unfold to ten billion entries."""
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > MAX_ALIASES:
                mark = self.peek_event().start_mark
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases{mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a duplicate key; PyYAML keeps the last."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # PyYAML itself refuses keys other than texts and numbers
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} is a duplicate{key.start_mark}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """Reads a YAML file.

    Args:
        path: The file.
        loader: ``StrictLoader`` or a subclass.

    Raises:
        ConfigError: if it cannot be read, is larger than 1 MiB, or is not such YAML.
    """
    try:
        text = read_text(path, "the YAML file", MAX_BYTES)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return parse_yaml(text, str(path), loader)


def parse_yaml(text: str, name: str, loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """Returns the data of a YAML text.

    Args:
        text: The YAML.
        name: Names the text in messages.
        loader: ``StrictLoader`` or a subclass.

    Raises:
        ConfigError: if it is not such YAML.
    """
    try:
        # Always a kind of safe loader
        return yaml.load(text, loader)  # nosec B506
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{name}: cannot be read as YAML ({error})") from error
