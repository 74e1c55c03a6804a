"""Python files of the user's own, run before a command: scores, tasks, formats."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from traceback import extract_tb

from kgfast.errors import ConfigError, KgfastError


def run_file(path, name):
    """Run the file as a module of this name; ConfigError names the line at which it raises something."""
    specification = spec_from_file_location(name, path)
    if specification is None or specification.loader is None or not path.is_file():
        raise ConfigError(f"--import {path}: it is no Python file")
    module = module_from_spec(specification)
    sys.modules[module.__name__] = module
    try:
        specification.loader.exec_module(module)
    except KgfastError:
        raise
    except Exception as error:  # whatever a file of the user's may raise
        raise ConfigError(f"--import {path}{place_in(error, path)}: {type(error).__name__}: {error}") from error


def place_in(error, path):
    """The line of the file that was running, or could not be read, when the error came, as words behind its name."""
    places = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else places and places[-1]
    return f", line {line}" if line else ""
