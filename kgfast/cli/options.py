"""Options of `kgfast train` whose help is what the settings say of themselves."""

from __future__ import annotations

import typer
from typer.core import TyperCommand, TyperOption


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
