"""The names behind the ids of a run, for those who have the run and not its graph."""

from __future__ import annotations

from dataclasses import dataclass

from kgfast.data.names import Names, find_id


@dataclass(frozen=True)
class IdMaps:
    """The names of entities and relations by id, as far as they are known without the graph."""

    entity_names: Names
    relation_names: Names

    def __post_init__(self) -> None:
        for field in ("entity_names", "relation_names"):
            object.__setattr__(self, field, Names(getattr(self, field)))

    @property
    def num_entities(self) -> int:
        return len(self.entity_names)

    @property
    def num_relations(self) -> int:
        return len(self.relation_names)

    def entity_id(self, name: str) -> int:
        """The id of an entity; DataError with the nearest names."""
        return find_id("entity", name, self.entity_names)

    def relation_id(self, name: str) -> int:
        """The id of a relation; DataError with the nearest names."""
        return find_id("relation", name, self.relation_names)

    def label(self, entity_id: int) -> str:
        return self.entity_names[entity_id]
