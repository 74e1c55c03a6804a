"""The names behind the ids of a run, for those who have the run and not its graph."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from kgfast.errors import DataError


@dataclass(frozen=True)
class IdMaps:
    """The names of entities and relations by id, as far as they are known without the graph."""

    entity_names: list[str]
    relation_names: list[str]
    _ids: dict[str, dict[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_entities(self) -> int:
        return len(self.entity_names)

    @property
    def num_relations(self) -> int:
        return len(self.relation_names)

    def entity_id(self, name: str) -> int:
        """The id of an entity; DataError with the nearest names."""
        return self._id("entity", self.entity_names, name)

    def relation_id(self, name: str) -> int:
        """The id of a relation; DataError with the nearest names."""
        return self._id("relation", self.relation_names, name)

    def label(self, entity_id: int) -> str:
        return self.entity_names[entity_id]

    def _id(self, what: str, names: list[str], name: str) -> int:
        if what not in self._ids:
            self._ids[what] = {known: index for index, known in enumerate(names)}
        if name not in self._ids[what]:
            near = difflib.get_close_matches(name, names, n=3)
            raise DataError(f"unknown {what} {name!r}" + (f"; nearest: {', '.join(map(repr, near))}" if near else ""))
        return self._ids[what][name]
