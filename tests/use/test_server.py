"""The server: what each address answers, what it refuses, and many requests in one call."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest

import kgfast
from kgfast.errors import KgfastError
from kgfast.use.server.batching import MOST, ROOM, Batcher, Busy

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from kgfast.use.server import forms  # noqa: E402
from kgfast.use.server.app import MOST_BYTES, create_app  # noqa: E402
from kgfast.use.server.serve import listen  # noqa: E402

PAGE = files("kgfast.use.server") / "page"
HERE = "http://localhost"


@pytest.fixture(scope="module")
def graph(graph_run):
    run = kgfast.load(graph_run)
    with TestClient(create_app(run), base_url=HERE) as client:
        yield client, run


@pytest.fixture(scope="module")
def joint(joint_run):
    run = kgfast.load(joint_run)
    with TestClient(create_app(run), base_url=HERE) as client:
        yield client, run


def post(client, path, **body):
    response = client.post(path, json=body)
    return response.status_code, response.json()


def test_health_tells_what_is_served(graph, joint):
    told = graph[0].get("/health").json()
    assert told == {
        "status": "ok", "run": "run", "score": "complex", "entities": 72, "relations": 3, "questions": False,
        "threshold": None,
    }  # fmt: skip
    assert joint[0].get("/health").json()["questions"] is True


@pytest.mark.parametrize("known", ["exclude", "mark", "ignore"])
def test_predictions_are_those_of_the_run(graph, known):
    client, run = graph
    queries = [{"head": "entity 0", "relation": "0"}, {"relation": "1", "tail": "entity 40"},
               {"head": "entity 0", "tail": "entity 31"}]  # fmt: skip
    status, found = post(client, "/predict", queries=queries, k=5, known=known)
    assert status == 200
    for query, rows in zip(queries, found["results"], strict=True):
        for row, expected in zip(rows, run.predict(**query, k=5, known=known), strict=True):
            assert row == {"split": None, **expected, "score": pytest.approx(expected["score"], rel=1e-6)}


def test_scores_neighbours_and_search(graph):
    client, run = graph
    triples = [["entity 0", "0", "entity 31"], ["entity 1", "2", "entity 50"]]
    status, found = post(client, "/score", triples=triples)
    assert status == 200 and found["scores"] == pytest.approx(run.score(triples).tolist(), rel=1e-6)
    around = client.get("/neighbours", params={"entity": "entity 0", "k": 3}).json()
    assert around["name"] == around["label"] == "entity 0"
    expected = run.neighbours("entity 0", 3)
    assert around["triples"] == [{**one, "labels": list(one["labels"])} for one in expected]
    names = [one["name"] for one in client.get("/entities", params={"q": "ENTITY 7", "k": 5}).json()["entities"]]
    assert names == ["entity 7", "entity 70", "entity 71"]
    assert [one["name"] for one in client.get("/entities", params={"q": "y 33"}).json()["entities"]] == ["entity 33"]
    assert [one["name"] for one in client.get("/relations").json()] == ["0", "1", "2"]


def test_questions(joint):
    client, run = joint
    questions = ["where does town1x1 lie", "what colour has it"]
    body = dict(questions=questions, topics=[None, "country2"], k=2, always=True)
    status, found = post(client, "/ask", **body)
    assert status == 200
    for one, expected in zip(found["results"], run.ask(questions, [None, "country2"], 2, True), strict=True):
        told = ("by", "topic", "topics", "knows", "value")
        assert [one[key] for key in told] == [expected[key] for key in told]
        assert [row["name"] for row in one["answers"]] == [row["name"] for row in expected["answers"]]
        assert [row["support"] for row in one["answers"]] == [row["support"] for row in expected["answers"]]
    run.threshold, before = 1.1, run.threshold
    try:
        assert post(client, "/ask", questions=questions[:1])[1]["results"][0]["answers"] == []
    finally:
        run.threshold = before
    status, found = post(client, "/ask", questions=["where is it"])
    assert status == 200 and (found["results"][0]["topic"], found["results"][0]["knows"]) == (None, False)
    asked = ["is town1x1 in country1", "how many towns has country1"]
    status, found = post(client, "/ask", questions=asked, always=True)
    assert [one["by"] for one in found["results"]] == ["yes/no", "count"]
    assert found["results"][0]["value"] in ("yes", "no") and isinstance(found["results"][1]["value"], int)
    for question, topic, said in ((" ", None, "is empty"), ("where is it", "x", "no entity is named")):
        status, found = post(client, "/ask", questions=[question], topics=[topic])
        assert status == 422 and said in found["detail"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/predict", {"queries": [{"head": "entitx 0", "relation": "0"}]}, "no entity is named 'entitx 0'; did you"),
        ("/predict", {"queries": [{"head": "entity 0"}]}, "give two of head, relation and tail"),
        ("/predict", {"queries": [{"head": "entity 0", "relation": "0"}], "k": 0}, "k=0: must be greater than"),
        ("/predict", {"queries": [{"head": "entity 0", "relation": "0"}], "known": "hide"}, "known='hide': must be"),
        ("/predict", {"queries": [{"head": "entity 0", "relation": "0", "tial": "x"}]}, "queries.0.tial='x'"),
        ("/predict", {"queries": []}, "queries=[]"),
        ("/predict", {}, "queries is missing"),
        ("/score", {"triples": [["entity 0", "0"]]}, "triples.0.2 is missing"),
        ("/score", {"triples": [["entity 0", "0", "entity 1"]] * (forms.MOST_ITEMS + 1)}, "at most 256 items"),
        ("/ask", {"questions": ["where?"]}, "was not trained with questions"),
        ("/ask", {"questions": ["where?"], "topics": []}, "there are 1 questions and 0 topics"),
    ],
)
def test_what_is_wrong_is_named(graph, path, body, said):
    status, found = post(graph[0], path, **body)
    assert status == 422 and said in found["detail"]


def test_bodies_are_bounded(graph):
    client, _ = graph
    large = client.post("/predict", content=b" " * (MOST_BYTES + 1), headers={"content-type": "application/json"})
    assert large.status_code == 413 and "1,048,576 bytes" in large.json()["detail"]

    def parts():
        for _ in range(20):
            yield b" " * 2**16

    chunked = client.post("/predict", content=parts(), headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    broken = client.post("/predict", content=b'{"queries": NaN', headers={"content-type": "application/json"})
    assert broken.status_code == 422 and "JSON decode error" in broken.json()["detail"]


def test_bodies_and_answers_that_take_too_long(graph_run, monkeypatch):
    run = kgfast.load(graph_run)
    app = create_app(run, seconds=0.05)

    async def never():
        await asyncio.sleep(60)

    sent = []

    async def keep(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    asyncio.run(app(scope, never, keep))
    assert sent[0]["status"] == 408 and b"longer than 0.05 s" in sent[1]["body"]
    with TestClient(app, base_url=HERE) as client:
        engine = app.app.state.engine
        work = engine.predictions.call
        monkeypatch.setattr(engine.predictions, "call", lambda items: __import__("time").sleep(0.4) or work(items))
        status, found = post(client, "/predict", queries=[{"head": "entity 0", "relation": "0"}])
        assert status == 503 and "longer than 0.05 s" in found["detail"]


def test_other_hosts_are_refused_on_loopback(graph, graph_run):
    assert graph[0].get("/health", headers={"host": "evil.example"}).status_code == 400
    with TestClient(create_app(kgfast.load(graph_run), host="0.0.0.0"), base_url=HERE) as client:
        assert client.get("/health", headers={"host": "served.example"}).status_code == 200


def test_every_response_has_a_policy(graph):
    client, _ = graph
    for path in ("/", "/page.js", "/page.css", "/cytoscape.min.js", "/health", "/openapi.json", "/nothing"):
        response = client.get(path)
        assert response.status_code == (404 if path == "/nothing" else 200)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    described = client.get("/openapi.json").json()
    assert {"/predict", "/score", "/neighbours", "/ask", "/health"} <= set(described["paths"])
    assert described["components"]["schemas"]["PredictForm"]["properties"]["k"]["maximum"] == forms.MOST_K


def test_the_page_takes_data_as_text_and_nothing_from_elsewhere():
    script, page = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.js", "index.html"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
    assert not re.search(r"https?://", script + page) and not re.search(r"<script(?! src=)|\son\w+=|style=", page)
    for path in re.findall(r'(?:src|href)="/([^"]+)"', page):
        assert (PAGE / path).is_file()
    assert "Permission is hereby granted" in (PAGE / "cytoscape.LICENSE").read_text(encoding="utf-8")


def run_queue(requests, call=lambda items: [2 * item for item in items]):
    """(answers or errors of requests made at once, the sizes of the calls)."""
    sizes = []

    def counted(items):
        sizes.append(len(items))
        return call(items)

    async def together():
        with ThreadPoolExecutor(1) as executor:
            queue = Batcher(counted, executor)
            worker = asyncio.create_task(queue.work())
            found = await asyncio.gather(*(queue.answers(items) for items in requests), return_exceptions=True)
            worker.cancel()
        return found

    return asyncio.run(together()), sizes


def test_requests_that_come_together_are_one_call():
    found, sizes = run_queue([[1], [2, 3], [4]])
    assert (found, sizes) == ([[2], [4, 6], [8]], [4])
    found, sizes = run_queue([[number] for number in range(MOST + 5)])
    assert found == [[2 * number] for number in range(MOST + 5)] and sizes == [MOST, 5]


def test_a_call_that_fails_fails_its_requests_and_no_others():
    def call(items):
        if -1 in items:
            raise KgfastError("no -1")
        return items

    async def one_after_the_other():
        with ThreadPoolExecutor(1) as executor:
            queue = Batcher(call, executor)
            worker = asyncio.create_task(queue.work())
            wrong = await asyncio.gather(queue.answers([1, -1]), return_exceptions=True)
            right = await queue.answers([5])
            worker.cancel()
        return wrong, right

    (wrong,), right = asyncio.run(one_after_the_other())
    assert isinstance(wrong, KgfastError) and right == [5]
    (full,), sizes = run_queue([list(range(ROOM + 1))])
    assert isinstance(full, Busy) and not sizes


def test_concurrent_requests_share_calls_and_have_their_own_answers(graph):
    client, run = graph
    queue = client.app.app.state.engine.predictions
    before = (queue.calls, queue.items)
    names = [f"entity {number}" for number in range(24)]

    def one(name):
        k = 3 + len(name) % 3
        return post(client, "/predict", queries=[{"head": name, "relation": "0"}], k=k)[1]["results"][0]

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(one, names))
    for name, rows in zip(names, found, strict=True):
        expected = run.predict(head=name, relation="0", k=3 + len(name) % 3)
        assert [row["name"] for row in rows] == [row["name"] for row in expected]
    assert queue.items - before[1] == 24 and queue.calls - before[0] < 24


def test_serve_says_what_to_install(graph_run, monkeypatch, capsys):
    import sys

    from kgfast.cli.main import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(graph_run)])
    assert end.value.code == 2 and 'pip install "kgfast[serve]"' in " ".join(capsys.readouterr().err.split())


def test_no_host_is_not_every_host():
    with pytest.raises(KgfastError, match="host is empty"):
        listen("", 0)


def test_a_port_that_is_taken_is_named():
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match=f"127.0.0.1:{taken.getsockname()[1]} can't"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.slow
def test_the_real_server_holds_connections(graph_run, capsys):
    """In another process, on a free port, asked by the benchmark."""
    pytest.importorskip("uvicorn")
    from benchmarks.serving import main

    found = main([str(graph_run), "--connections", "4", "--seconds", "1", "--threads", "1"])
    assert found["errors"] == 0 and found["answered"] >= 4 and 0 < found["p50 ms"] <= found["p99 ms"]
    assert json.loads(capsys.readouterr().out) == found
