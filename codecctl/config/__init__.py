"""One YAML for every command: the schema, and how a file becomes it."""
