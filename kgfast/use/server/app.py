"""What each address answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from kgfast import __version__
from kgfast.errors import KgfastError
from kgfast.evaluate.predict import find_id
from kgfast.use.server import forms
from kgfast.use.server.batching import Busy
from kgfast.use.server.engine import Engine, Prediction, Question
from kgfast.use.server.guard import Guard
from kgfast.use.trained import TrainedRun

MOST_BYTES = 2**20  # of a body
SECONDS = 30.0  # for a body to come, and for its answer
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/cytoscape.min.js": ("cytoscape.min.js", "text/javascript"),
}
SHOWN = 100  # of what a request echoes back in an error

T = TypeVar("T")
Entity = Annotated[str, Query(min_length=1, max_length=2000)]
router = APIRouter()


def create_app(run: TrainedRun, host: str = LOOPBACK[0], seconds: float = SECONDS, index: bool = False) -> Any:
    """The ASGI application of a run, served at `host`: on loopback, requests that name another host are refused, as
    those of a page somewhere else that had a browser call this machine. `index`: predictions by the run's index."""
    engine = Engine(run, index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.working():
            yield

    about = f"Predictions and answers of {run.folder.name}"
    app = FastAPI(title="kgfast", version=__version__, description=about, docs_url=None, redoc_url=None,
                  lifespan=lifespan)  # fmt: skip
    app.state.engine, app.state.seconds = engine, seconds
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    app.include_router(router)
    for path, (name, kind) in PAGE.items():
        add_file(app, path, name, kind)
    app.add_exception_handler(RequestValidationError, explain)
    app.add_exception_handler(KgfastError, tell)
    app.add_exception_handler(asyncio.TimeoutError, late)
    app.add_exception_handler(Busy, busy)
    return Guard(app, MOST_BYTES, seconds)


def add_file(app: FastAPI, path: str, name: str, kind: str) -> None:
    content = (files("kgfast.use.server") / "page" / name).read_bytes()

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind)


async def in_time(request: Request, answer: Awaitable[T]) -> T:
    return await asyncio.wait_for(answer, request.app.state.seconds)


def engine_of(request: Request) -> Engine:
    return request.app.state.engine


@router.post("/predict")
async def predict(request: Request, form: forms.PredictForm) -> forms.Predictions:
    """The k best answers to each query, exact (every entity or relation is ranked) unless served with an index."""
    engine = engine_of(request)

    def resolve() -> list[Prediction]:
        queries = [engine.run.query(query.head, query.relation, query.tail) for query in form.queries]
        return [Prediction(query, form.k, form.known) for query in queries]

    async def answer() -> forms.Predictions:
        found = await engine.predictions.answers(await asyncio.to_thread(resolve))
        return forms.Predictions(results=found)

    return await in_time(request, answer())


@router.post("/score")
async def score(request: Request, form: forms.ScoreForm) -> forms.Scores:
    """The score of each triple of names, the higher the likelier."""
    engine = engine_of(request)

    async def answer() -> forms.Scores:
        ids = await asyncio.to_thread(engine.run.ids, form.triples)
        (found,) = await engine.scores.answers([ids])
        return forms.Scores(scores=found)

    return await in_time(request, answer())


@router.post("/ask")
async def ask(request: Request, form: forms.AskForm) -> forms.Asked:
    """Answers to questions, each with the triples that lead to it; for runs that were trained on questions."""
    engine = engine_of(request)
    engine.run.with_questions()

    def resolve() -> list[Question]:
        asked = list(zip(form.questions, form.topics or [None] * len(form.questions), strict=True))
        for text, topic in asked:
            engine.check(text, topic)
        return [Question(text, topic, form.k, form.always) for text, topic in asked]

    async def answer() -> forms.Asked:
        found = await engine.questions.answers(await asyncio.to_thread(resolve))
        return forms.Asked(results=found)

    return await in_time(request, answer())


@router.get("/neighbours")
async def neighbours(
    request: Request, entity: Entity, k: Annotated[int, Query(ge=1, le=forms.MOST_K)] = 50
) -> forms.Neighbours:
    """Up to k triples of the graph with the entity at either end."""
    engine = engine_of(request)

    def look() -> forms.Neighbours:
        number = find_id(engine.graph, "entity", entity)
        name, label = engine.run.entities[number], engine.graph.label(number)
        triples: Any = engine.run.neighbours(entity, k)
        return forms.Neighbours(name=name, label=label, triples=triples)

    return await in_time(request, asyncio.to_thread(look))


@router.get("/entities")
async def entities(
    request: Request,
    q: Annotated[str, Query(max_length=200, description="what a label begins with, or holds")],
    k: Annotated[int, Query(ge=1, le=100)] = 10,
) -> forms.Found:
    """Entities by a part of their label."""
    found: Any = await in_time(request, asyncio.to_thread(engine_of(request).search, q, k))
    return forms.Found(entities=found)


@router.get("/relations")
async def relations(request: Request) -> list[forms.Named]:
    """All relations."""
    return [forms.Named(**one) for one in engine_of(request).relation_names()]


@router.get("/health")
async def health(request: Request) -> forms.Health:
    """That the server answers, and what it serves."""
    engine = engine_of(request)
    run = engine.run
    return forms.Health(
        status="ok", run=run.folder.name, score=run.model.score, entities=len(run.entities),
        relations=len(run.relations), questions=engine.answers_questions, threshold=run.threshold,
    )  # fmt: skip


# Errors: {"detail": a sentence that names what is wrong}


async def explain(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": "; ".join(described(one) for one in error.errors())}, 422)


def described(error: dict[str, Any]) -> str:
    """`queries.0.k=0: must be ...` of what pydantic found."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query")) or "the body"
    given = repr(error.get("input"))
    shown = given if len(given) <= SHOWN else f"{given[:SHOWN]}.."
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place}={shown}: {error['msg'].replace('Input should', 'must').removeprefix('Value error, ')}"


async def tell(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


async def late(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": f"the answer took longer than {request.app.state.seconds:g} s"}, 503)


async def busy(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": "too many requests are waiting; try again"}, 503)
