// The viewer of /openapi.json.

import { key } from "./api.js";
import { el } from "./markdown.js";

const $ = (id) => document.getElementById(id);
let schemas = {};

const last = (ref) => ref.split("/").at(-1);

/** What kind of value a schema is for, in a few words. */
function kind(s) {
  if (!s || s === true) return "any";
  if (s.$ref) return last(s.$ref);
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (s.const !== undefined) return JSON.stringify(s.const);
  const any = s.oneOf ?? s.anyOf ?? s.allOf;
  if (any) return any.map(kind).join(s.allOf ? " & " : " | ");
  const types = [s.type ?? "any"].flat().map((t) => (t === "array" ? `array of ${kind(s.items)}` : t));
  const [low, high] = [s.minimum ?? s.exclusiveMinimum, s.maximum ?? s.exclusiveMaximum];
  const range = low !== undefined || high !== undefined ? ` (${low ?? ""}…${high ?? ""})` : "";
  return types.join(" | ") + range;
}

/** The fields of an object's schema; those of schemas that it names open below. */
function fields(schema, seen = []) {
  if (schema?.$ref) schema = schemas[last(schema.$ref)];
  const table = el("table");
  for (const [name, s] of Object.entries(schema?.properties ?? {})) {
    const must = schema.required?.includes(name);
    const cell = el("td", {}, el("span", { textContent: s.description ?? "" }));
    for (const ref of refs(s)) {
      if (seen.includes(ref) || !schemas[ref]?.properties) continue;
      cell.append(el("details", {}, el("summary", { textContent: ref }), fields(schemas[ref], [...seen, ref])));
    }
    table.append(el("tr", {}, el("th", { scope: "row" }, el("code", { textContent: name }), must ? " *" : ""),
      el("td", { className: "kind", textContent: kind(s) }), cell));
  }
  return table;
}

function refs(s) {
  if (!s || typeof s !== "object") return [];
  if (s.$ref) return [last(s.$ref)];
  return [...new Set([...(s.oneOf ?? s.anyOf ?? s.allOf ?? []).flatMap(refs), ...refs(s.items)])];
}

function operation(path, method, op) {
  const node = el("details", { className: "route" }, el("summary", {},
    el("b", { textContent: method.toUpperCase() }), el("code", { textContent: path }), el("span", { textContent: op.summary ?? "" })));
  if (op.description) node.append(el("p", { textContent: op.description }));
  for (const p of op.parameters ?? []) {
    node.append(el("p", {}, el("code", { textContent: p.name }), ` in the ${p.in}: ${kind(p.schema)}. ${p.description ?? ""}`));
  }
  const body = op.requestBody?.content?.["application/json"]?.schema;
  if (body) node.append(el("h3", { textContent: `Body: ${kind(body)}` }), fields(body));
  node.append(el("h3", { textContent: "Answers" }));
  const answers = el("table");
  for (const [status, r] of Object.entries(op.responses ?? {})) {
    const cell = el("td", {}, el("span", { textContent: r.description }));
    for (const [type, content] of Object.entries(r.content ?? {})) {
      // Of an event, the data is what matters.
      const schema = content.schema?.properties?.data?.contentSchema ?? content.schema;
      const inner = fields(schema);
      if (inner.rows.length) cell.append(el("details", {}, el("summary", { textContent: `${type}: ${kind(schema)}` }), inner));
    }
    answers.append(el("tr", {}, el("th", { scope: "row", textContent: status }), cell));
  }
  node.append(answers);
  return node;
}

async function load() {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  const response = await fetch("openapi.json", { headers });
  $("unlock").hidden = response.status !== 401;
  if (!response.ok) {
    $("about").textContent = (await response.json()).error.message;
    return;
  }
  const doc = await response.json();
  schemas = doc.components.schemas;
  $("about").textContent = `${doc.info.description} Version ${doc.info.version}.`;
  const groups = new Map();
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const [method, op] of Object.entries(item)) {
      const tag = op.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), operation(path, method, op)]);
    }
  }
  $("routes").replaceChildren(...[...groups].flatMap(([tag, list]) => [el("h2", { textContent: tag }), ...list]));
  $("routes").removeAttribute("aria-busy");
}

$("unlock").addEventListener("submit", (e) => {
  e.preventDefault();
  key.set($("key").value.trim());
  load();
});
load();
