// The page at /. Whatever comes from data is inserted as text: textContent, option.text, labels drawn on a canvas.
"use strict";

const NEIGHBOURS = 24, ANSWERS = 12;
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
  const text = colour("--text"), back = colour("--back");
  const label = {
    label: "data(label)", color: text, "font-size": 12, "text-wrap": "wrap", "text-max-width": 110,
    "text-background-color": back, "text-background-opacity": 0.8, "text-background-padding": 2,
  };
  drawn = cytoscape({
    container,
    elements: [...nodes.map((data) => ({ data })), ...edges.map((data) => ({ data }))],
    style: [
      { selector: "node", style: { ...label, width: 16, height: 16, "background-color": colour("--accent"),
        "text-valign": "bottom", "text-margin-y": 4, opacity: 0.95 } },
      { selector: "node[?centre]", style: { width: 30, height: 30, "background-color": "#f58518", "font-size": 15,
        "font-weight": 600 } },
      { selector: "edge", style: { ...label, "font-size": 9, color: colour("--soft"), width: 1.4,
        "line-color": colour("--line"), "target-arrow-color": colour("--line"), "target-arrow-shape": "triangle",
        "arrow-scale": 0.8, "curve-style": "bezier", "text-rotation": "autorotate" } },
    ],
    layout: { name: "cose", animate: false, randomize: false, padding: 26, nodeRepulsion: () => 60000,
      idealEdgeLength: () => 90, nodeDimensionsIncludeLabels: true },
    minZoom: 0.3, maxZoom: 2.5, autoungrabify: false,
  });
  drawn.on("tap", "node", (event) => go({ entity: event.target.id(), relation: "", question: "" }));
}

async function show(name) {
  const mine = ++turn;
  const around = await call(`/neighbours?${new URLSearchParams({ entity: name, k: 1000 })}`);
  if (mine !== turn) return;
  byId("name").textContent = around.label;
  byId("entity").value = around.label;
  const all = around.triples, shown = spread(all, NEIGHBOURS);
  const count = all.length === 1000 ? "1,000 triples or more" : `${all.length} triples`;
  byId("count").textContent = all.length > shown.length ? `${shown.length} of ${count}` : count;
  const labels = new Map([[around.name, around.label]]);
  for (const triple of shown) {
    labels.set(triple.head, triple.labels[0]);
    labels.set(triple.tail, triple.labels[2]);
  }
  const nodes = [...labels].map(([id, label]) => ({ id, label, centre: id === around.name }));
  const edges = shown.map((triple) => ({ source: triple.head, target: triple.tail, label: triple.labels[1] }));
  draw(byId("graph"), nodes, edges);
  await predict(around, mine);
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
      element("td", answer.known ? "in the graph" : "", "word known"));
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
    parts.push(element("p", "It does not know; this is its guess.", "reply soft"));
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
      reply.append(way);
    }
    parts.push(reply);
  }
  byId("replies").replaceChildren(...parts);
  return found.topic;
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
  if (place().question === question) attempt(() => ask(question));
  else go({ question });
});
byId("relation").addEventListener("change", (event) => go({ relation: event.target.value }));
byId("side").addEventListener("change", (event) => go({ side: event.target.value, relation: "" }));
window.addEventListener("hashchange", () => attempt(arrive));

// What the address says; without an entity, the one that the question is about, or the first that the graph has.
async function arrive() {
  const { entity, question } = place();
  let topic = entity;
  if (question && health.questions) topic = (await ask(question)) || entity;
  else byId("replies").replaceChildren();
  if (!topic) topic = (await call("/entities?q=&k=1")).entities[0].name;
  if (topic !== entity) {
    history.replaceState(null, "", `#${new URLSearchParams({ ...place(), entity: topic, relation: "" })}`);
  }
  await show(topic);
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
