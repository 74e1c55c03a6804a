"""Options that several commands have; those of `kgfast train`, whose help is what the settings say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperOption

from kgfast.errors import ConfigError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else there.")]
Data = Annotated[str | None, typer.Option(help="Where the run's data lies now.", show_default="as in training")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto: cuda if there is one.")]
Index = Annotated[bool, typer.Option("--index", help="By the index that `kgfast index` made; the default is exact.")]


def setting(**more):
    """An option that is a setting; None means not given, so that recipe, file and pairs count."""
    return typer.Option(show_default=False, **more)


class SettingsCommand(TyperCommand):
    """A command whose options tell the description and the choices of the setting that they are called after."""

    def format_help(self, ctx, formatter) -> None:
        from kgfast.run.recipes import GRAPH, JOINT
        from kgfast.run.settings import choices
        from kgfast.train.config import TrainConfig  # with torch: only those who ask for help wait for it

        for option in self.params:
            field = TrainConfig.model_fields.get(option.name or "")
            if isinstance(option, TyperOption) and field is not None and option.help is None:
                words = [*GRAPH, *JOINT] if option.name == "recipe" else choices(TrainConfig, option.name)
                told = str(field.description) + (f": {', '.join(words)}" if words else "")
                sentence = told.split()[0].isalpha()  # and no list of words to choose from
                option.help = f"{told[0].upper() if sentence else told[0]}{told[1:]}."
        super().format_help(ctx, formatter)


def words(settings):
    """(YAML file or None, key=value pairs) of the words of a command; the name of a graph, or a folder, is its data."""
    from kgfast.data.resolve import is_name  # imports Arrow

    plain = [word for word in settings or () if "=" not in word]
    graphs = [word for word in plain if Path(word).is_dir() or (is_name(word) and not Path(word).exists())]
    files = [word for word in plain if word not in graphs]
    for what, given in (("YAML file", files), ("graph", graphs)):
        if len(given) > 1:
            raise ConfigError(f"one {what} at most, got {' and '.join(given)}")
    pairs = [f"data={word}" for word in graphs] + [word for word in settings or () if "=" in word]
    return (files[0] if files else None), pairs


def numbers(option, text):
    """The integers of "1,3,10"."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: must be integers with commas between them, such as 1,3,10") from None
