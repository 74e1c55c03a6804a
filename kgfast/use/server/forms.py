"""What requests and responses hold. Limits are here, so that OpenAPI tells them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_K = 1000
MOST_ANSWERS = 50  # of a question: each comes with its support
MOST_ITEMS = 256  # queries, triples or questions of a request

Name = Annotated[str, Field(min_length=1, max_length=2000)]
Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QueryForm(Form):
    """Two of the three; the third is asked for."""

    head: Name | None = None
    relation: Name | None = None
    tail: Name | None = None

    @model_validator(mode="after")
    def two(self) -> QueryForm:
        if sum(name is None for name in (self.head, self.relation, self.tail)) != 1:
            raise ValueError("give two of head, relation and tail")
        return self


class PredictForm(Form):
    queries: list[QueryForm] = Field(min_length=1, max_length=MOST_ITEMS)
    k: int = Field(10, ge=1, le=MOST_K)
    known: Literal["exclude", "mark", "ignore"] = "exclude"


class ScoreForm(Form):
    triples: list[tuple[Name, Name, Name]] = Field(min_length=1, max_length=MOST_ITEMS)


class AskForm(Form):
    questions: list[Text] = Field(min_length=1, max_length=MOST_ITEMS)
    topics: list[Name | None] | None = Field(None, description="entities asked about; absent: found in the questions")
    k: int = Field(5, ge=1, le=MOST_ANSWERS)
    always: bool = Field(False, description="answer below the threshold too")

    @model_validator(mode="after")
    def as_many(self) -> AskForm:
        if self.topics is not None and len(self.topics) != len(self.questions):
            raise ValueError(f"there are {len(self.questions)} questions and {len(self.topics)} topics")
        return self


class Answer(BaseModel):
    rank: int
    id: int
    name: str
    label: str
    score: float
    known: bool | None = Field(description="whether the graph holds it; null where it wasn't looked at")
    split: str | None = Field(None, description="the split that holds it, where known answers are marked")


class Predictions(BaseModel):
    results: list[list[Answer]]


class Scores(BaseModel):
    scores: list[float]


class Support(BaseModel):
    head: str
    relation: str
    tail: str
    known: bool
    split: str | None = Field(description="the split that holds it; null: it is predicted")
    share: float


class Reply(BaseModel):
    rank: int
    id: int
    name: str
    label: str
    probability: float
    known: bool = Field(description="whether the graph's facts give it, or it is predicted")
    heads: dict[str, float]
    support: list[Support]


class Replies(BaseModel):
    question: str
    by: str = Field(description="the part of the model that answers")
    topic: str | None
    topics: list[str]
    knows: bool | None
    value: str | int | None = Field(description="yes, no or a number; null where the answer is a list")
    probability: float
    answers: list[Reply]


class Asked(BaseModel):
    results: list[Replies]


class Edge(BaseModel):
    head: str
    relation: str
    tail: str
    labels: tuple[str, str, str]
    split: str


class Neighbours(BaseModel):
    name: str
    label: str
    triples: list[Edge]


class Named(BaseModel):
    name: str
    label: str


class Found(BaseModel):
    entities: list[Named]


class Health(BaseModel):
    status: Literal["ok"]
    run: str
    score: str
    entities: int
    relations: int
    questions: bool = Field(description="whether the run answers questions")
    threshold: float | None
