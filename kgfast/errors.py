"""The exceptions that kgfast raises for bad input; each message names the argument, file, line or id at
fault.
"""


class KgfastError(ValueError):
    """Base of every error about what the caller handed in."""


class DataError(KgfastError):
    """A graph, file or id that can't be used."""


class ConfigError(KgfastError):
    """A setting that does not exist, has a wrong value, or contradicts another."""


class CheckpointError(KgfastError):
    """A checkpoint that is missing, damaged, or belongs to another graph or model."""
