"""What the bundle says when a configuration or its data cannot be used."""


class ConfigurationError(ValueError):
    """A key, a path or a datalist that cannot be used: one sentence that names it and says what to do."""
