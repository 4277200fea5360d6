"""One YAML for every command: the schema, and how a file becomes it."""

from codecctl.config.load import dump_config, load_config, override_config, parse_config, with_data
from codecctl.config.schema import Config

__all__ = ["Config", "dump_config", "load_config", "override_config", "parse_config", "with_data"]
