// The page at /. Whatever comes from data is inserted as text: textContent, option.text, labels drawn on a canvas.
"use strict";

const ANSWERS = 12, ORANGE = "#f58518";
const HOLDS = { train: "in train", valid: "held out (valid)", test: "held out (test)" };
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let drawn = null; // the cytoscape graph
let turn = 0; // answers of earlier turns come too late

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function call(path, body) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, request);
  const found = await response.json().catch(() => ({ detail: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(found.detail);
  return found;
}

// What goes wrong is told in one place, and gone with the next thing that works.
async function attempt(work) {
  try {
    await work();
    byId("trouble").hidden = true;
  } catch (error) {
    byId("trouble").textContent = error.message;
    byId("trouble").hidden = false;
  }
}

// Where the page is, in the address: #entity=france&relation=borders&side=tail&question=..
const place = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

function go(changes) {
  const next = new URLSearchParams({ ...place(), ...changes });
  for (const [key, value] of [...next]) if (!value) next.delete(key);
  location.hash = next.toString();
}

function link(name, label) {
  const made = element("a", label);
  made.href = `#${new URLSearchParams({ ...place(), entity: name, relation: "", question: "" })}`;
  return made;
}

// The neighbourhood

function draw(container, nodes, edges) {
  if (drawn) drawn.destroy();
  const text = colour("--text"), back = colour("--back"), soft = colour("--soft"), line = colour("--line");
  const shown = { "text-background-color": back, "text-background-opacity": 0.85, "text-background-padding": 2,
    "text-wrap": "wrap", "text-max-width": 105 };
  const far = 52; // of an edge's label from its neighbour: at the centre all meet
  drawn = cytoscape({
    container,
    elements: [...nodes.map((data) => ({ data })), ...edges.map((data) => ({ data }))],
    style: [
      { selector: "node", style: { ...shown, label: "data(label)", color: text, "font-size": 12, width: 15, height: 15,
        "background-color": colour("--accent"), "text-valign": "bottom", "text-margin-y": 4 } },
      { selector: "node[?centre]", style: { width: 28, height: 28, "background-color": ORANGE, "font-size": 15,
        "font-weight": 600 } },
      { selector: "node[?way]", style: { "background-color": ORANGE } },
      { selector: "edge", style: { ...shown, "font-size": 10, color: soft, width: 1.4, "line-color": line,
        "target-arrow-color": line, "target-arrow-shape": "triangle", "arrow-scale": 0.8, "curve-style": "bezier" } },
      { selector: "edge[side = 'middle']", style: { label: "data(label)", "text-rotation": "autorotate" } },
      { selector: "edge[side = 'target']", style: { "target-label": "data(label)", "target-text-offset": far,
        "target-text-rotation": "autorotate" } },
      { selector: "edge[side = 'source']", style: { "source-label": "data(label)", "source-text-offset": far,
        "source-text-rotation": "autorotate" } },
      { selector: "edge[?way]", style: { width: 3, "line-color": ORANGE, "target-arrow-color": ORANGE } },
      { selector: "edge[?guess]", style: { "line-style": "dashed" } },
    ],
    layout: layout(container, nodes, edges),
    minZoom: 0.3, maxZoom: 2.5,
  });
  drawn.on("resize", () => drawn.fit(undefined, 34));
  drawn.on("tap", "node", (event) => go({ entity: event.target.id(), relation: "", question: "" }));
}

// A star fills the frame: neighbours on two ellipses by turns. A way that leads further is laid out by forces.
function layout(container, nodes, edges) {
  if (edges.some((edge) => edge.side === "middle")) {
    return { name: "cose", animate: false, randomize: false, padding: 30, nodeRepulsion: () => 40000,
      idealEdgeLength: () => 80, nodeDimensionsIncludeLabels: true };
  }
  const wide = container.clientWidth / 2 - 60, high = container.clientHeight / 2 - 42;
  const places = new Map(), around = nodes.filter((node) => !node.centre);
  around.forEach((node, number) => {
    const angle = 2 * Math.PI * (number + 0.5) / around.length, far = around.length > 9 && number % 2 ? 0.68 : 1;
    places.set(node.id, { x: far * wide * Math.cos(angle), y: far * high * Math.sin(angle) });
  });
  return { name: "preset", positions: (node) => places.get(node.id()) || { x: 0, y: 0 }, padding: 34 };
}

async function show(name, way) {
  const mine = ++turn;
  const around = await call(`/neighbours?${new URLSearchParams({ entity: name, k: 1000 })}`);
  if (mine !== turn) return;
  byId("name").textContent = around.label;
  byId("entity").value = around.label;
  const room = way.length ? 6 : byId("graph").clientWidth < 500 ? 9 : 22; // neighbours that are drawn
  const all = around.triples, shown = spread(all, room);
  const count = all.length === 1000 ? "1,000 triples or more" : `${all.length} triples`;
  byId("count").textContent = all.length > shown.length ? `${shown.length} of ${count}` : count;
  const labels = new Map([[around.name, around.label]]);
  for (const triple of shown) {
    labels.set(triple.head, triple.labels[0]);
    labels.set(triple.tail, triple.labels[2]);
  }
  const edges = shown.map((triple) => ({
    source: triple.head, target: triple.tail, label: triple.labels[1],
    side: triple.head === around.name ? "target" : "source",
  }));
  const onWay = layWay(way, labels, edges);
  const nodes = [...labels].map(([id, label]) => ({ id, label, centre: id === around.name, way: onWay.has(id) }));
  draw(byId("graph"), nodes, edges);
  byId("legend").textContent =
    `Click a neighbour to go there.${onWay.size ? " Orange: the way to the likeliest answer." : ""}`;
  await predict(around, mine);
}

// Puts the way to an answer, triples of labels, into nodes and edges; the ids of its nodes.
function layWay(way, labels, edges) {
  const ids = new Map([...labels].map(([id, label]) => [label, id])), onWay = new Set();
  for (const step of way) {
    const [source, target] = [step.head, step.tail].map((label) => {
      if (!ids.has(label)) ids.set(label, label);
      const id = ids.get(label);
      labels.set(id, label);
      onWay.add(id);
      return id;
    });
    const there = edges.find((one) => one.source === source && one.target === target && one.label === step.relation);
    if (there) there.way = true;
    else edges.push({ source, target, label: step.relation, side: "middle", way: true, guess: !step.known });
  }
  return onWay;
}

// Some triples of every relation and direction, by turns: a country's cities must not hide its language.
function spread(triples, count) {
  const groups = new Map();
  for (const triple of triples) {
    const key = JSON.stringify([triple.relation, triple.head === place().entity]);
    groups.set(key, [...(groups.get(key) || []), triple]);
  }
  const chosen = [];
  for (let row = 0; chosen.length < Math.min(count, triples.length); row++) {
    for (const group of groups.values()) if (row < group.length && chosen.length < count) chosen.push(group[row]);
  }
  return chosen;
}

// Predictions

async function predict(around, mine) {
  const { relation: asked, side: direction = "tail" } = place();
  const counts = new Map();
  for (const triple of around.triples) {
    const mineIs = direction === "tail" ? triple.head === around.name : triple.tail === around.name;
    if (mineIs) counts.set(triple.relation, (counts.get(triple.relation) || 0) + 1);
  }
  const select = byId("relation");
  const often = [...counts].sort((a, b) => b[1] - a[1])[0];
  select.value = asked || (often ? often[0] : select.options[0].value);
  byId("side").value = direction;
  const known = direction === "tail" ? "head" : "tail";
  const query = { [known]: around.name, relation: select.value };
  const { results } = await call("/predict", { queries: [query], k: ANSWERS, known: "mark" });
  if (mine !== turn) return;
  byId("answers").replaceChildren(...results[0].map((answer) => {
    const row = element("tr"), name = element("td", undefined, "word");
    name.append(link(answer.name, answer.label));
    row.append(element("td", answer.rank), name, element("td", answer.score.toFixed(2)),
      element("td", HOLDS[answer.split] || "", "word known"));
    return row;
  }));
}

// Questions

async function ask(question) {
  byId("question").value = question;
  const { results } = await call("/ask", { questions: [question], k: 3, always: true });
  const [found] = results;
  const parts = [];
  if (found.knows === false) {
    parts.push(element("p", found.topic === null ? "The question names nothing of the graph." :
      "It does not know; this is its guess.", "reply soft"));
  }
  parts.push(element("p", found.by, "soft small"));
  if (found.value !== null) {
    const reply = element("div", undefined, "reply");
    reply.append(element("b", String(found.value)), element("span", ` ${found.probability.toFixed(3)}`, "soft small"));
    parts.push(reply);
  }
  for (const answer of found.answers) {
    const reply = element("div", undefined, "reply"), first = element("div"), bar = element("progress");
    bar.max = 1;
    bar.value = answer.probability;
    const name = element("b");
    name.append(link(answer.name, answer.label));
    first.append(name, bar, element("span", answer.probability.toFixed(3), "soft small"));
    reply.append(first);
    for (const step of answer.support) {
      const way = element("div", `${step.head} — ${step.relation} → ${step.tail} `, "way");
      if (!step.known) way.append(element("span", "predicted, not in the graph", "guess"));
      else if (step.split !== "train") way.append(element("span", `held out (${step.split})`, "soft small"));
      reply.append(way);
    }
    parts.push(reply);
  }
  byId("replies").replaceChildren(...parts);
  return { topic: found.topic, way: found.answers.length ? found.answers[0].support : [] };
}

// Search

const list = byId("found"), box = byId("entity");
let typed = 0;

function close() {
  list.hidden = true;
  box.setAttribute("aria-expanded", "false");
}

function choose(item) {
  close();
  if (item) go({ entity: item.dataset.name, relation: "", question: "" });
}

async function suggest() {
  const mine = ++typed;
  if (!box.value.trim()) return close();
  const { entities } = await call(`/entities?${new URLSearchParams({ q: box.value })}`);
  if (mine !== typed) return;
  list.replaceChildren(...entities.map((entity, number) => {
    const item = element("li", entity.label);
    item.dataset.name = entity.name;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(number === 0));
    item.addEventListener("mousedown", () => choose(item));
    return item;
  }));
  if (!entities.length) list.replaceChildren(element("li", "no entity", "soft"));
  list.hidden = false;
  box.setAttribute("aria-expanded", "true");
}

box.addEventListener("input", () => attempt(suggest));
box.addEventListener("blur", close);
box.addEventListener("keydown", (event) => {
  const items = [...list.querySelectorAll("[role=option]")];
  const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  if (event.key === "Escape") close();
  if (!items.length || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const next = (at + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length;
  items.forEach((item, number) => item.setAttribute("aria-selected", String(number === next)));
  items[next].scrollIntoView({ block: "nearest" });
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(list.querySelector("[aria-selected=true]"));
});

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question) return;
  if (place().question === question) attempt(arrive);
  else go({ question });
});
byId("relation").addEventListener("change", (event) => go({ relation: event.target.value }));
byId("side").addEventListener("change", (event) => go({ side: event.target.value, relation: "" }));
window.addEventListener("hashchange", () => attempt(arrive));

// What the address says; without an entity, the one that the question is about, or the first that the graph has.
async function arrive() {
  const { entity, question } = place();
  let topic = entity, way = [];
  if (question && health.questions) ({ topic, way } = await ask(question));
  else byId("replies").replaceChildren();
  if (!topic) topic = (await call("/entities?q=&k=1")).entities[0].name;
  if (topic !== entity) {
    history.replaceState(null, "", `#${new URLSearchParams({ ...place(), entity: topic, relation: "" })}`);
  }
  await show(topic, way);
}

let health = null;
attempt(async () => {
  health = await call("/health");
  document.title = `${health.run} | kgfast`;
  byId("title").textContent = health.run;
  const [entities, relations] = [health.entities, health.relations].map((count) => count.toLocaleString("en"));
  byId("about").textContent = `${entities} entities, ${relations} relations; ${health.score}`;
  byId("asking").hidden = !health.questions;
  byId("relation").replaceChildren(...(await call("/relations")).map((one) => {
    const option = element("option");
    option.value = one.name;
    option.text = one.label;
    return option;
  }));
  await arrive();
});
