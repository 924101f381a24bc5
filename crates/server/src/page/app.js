// The chat page: what is shown, and what happens when something is pressed.

import { Refused, chat as answer, key, models } from "./api.js";
import { el, render } from "./markdown.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["system", "temperature", "max_tokens", "seed"];

/** The conversation on the screen. */
let chat = store.load(store.prefer.get("here")) ?? store.fresh();
/** The answer that is being written: its conversation, its message and how to stop it. */
let busy = null;

// What is shown.

function icon(name) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const use = document.createElementNS(ns, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

function button(name, label, act) {
  const node = el("button", { type: "button", title: label, onclick: act }, icon(name));
  node.setAttribute("aria-label", label);
  return node;
}

function say(text) {
  $("status").textContent = text;
}

/** A message's element, made of what it holds. */
function article(message, at) {
  const node = el("article", { className: message.role });
  node.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  node.append(el("div", { className: "text" }), el("div", { className: "under" }));
  fill(node, message, at);
  return node;
}

function fill(node, message, at) {
  const live = busy?.message === message;
  const [text, under] = [node.querySelector(".text"), node.querySelector(".under")];
  node.classList.toggle("live", live);
  for (const old of node.querySelectorAll(":scope > .error")) old.remove();
  if (message.role === "user") text.textContent = message.content;
  else render(message.content, text);
  if (message.reasoning) {
    let thought = node.querySelector(".thought");
    if (!thought) {
      thought = el("details", { className: "thought" }, el("summary", { textContent: "Thoughts" }), el("div"));
      node.prepend(thought);
    }
    thought.querySelector("div").textContent = message.reasoning;
  }
  if (message.error) {
    const error = el("div", { className: "error" }, el("span", { textContent: message.error }));
    error.setAttribute("role", "alert");
    if (!busy) error.append(el("button", { type: "button", textContent: "Try again", onclick: again }));
    under.before(error);
  }
  under.replaceChildren();
  if (live) return;
  if (message.content) under.append(copies(() => message.content));
  if (message.role === "user") under.append(button("edit", "Edit and send again", () => edit(at)));
  else if (at === chat.messages.length - 1 && !message.error) under.append(button("again", "Write another answer", again));
  if (message.stats) under.append(el("span", { className: "stats", textContent: message.stats }));
}

function copies(text) {
  const node = button("copy", "Copy", async () => {
    await copy(text());
    node.replaceChildren(icon("check"));
    setTimeout(() => node.replaceChildren(icon("copy")), 1500);
  });
  return node;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS there is no clipboard, but the old way works.
    const area = el("textarea", { value: text, className: "hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied");
}

function show() {
  $("log").replaceChildren(...chat.messages.map(article));
  for (const name of FIELDS) $(name).value = chat.settings[name] ?? "";
  document.title = chat.messages.length ? `${chat.title || chat.messages[0].content.slice(0, 60)} – Alula` : "Alula";
  store.prefer.set("here", chat.id);
  chats();
  buttons();
  down(true);
}

function chats() {
  const row = ({ id, title }) => {
    const open = el("button", { type: "button", className: "open", textContent: title, title, onclick: () => go(id) });
    const drop = button("trash", `Delete “${title}”`, () => remove(id, title));
    drop.className = "drop";
    const node = el("li", {}, open, drop);
    if (id === chat.id) {
      node.dataset.here = "";
      open.setAttribute("aria-current", "true");
    }
    return node;
  };
  $("chats").replaceChildren(...store.list().map(row));
}

function buttons() {
  const here = busy?.chat === chat;
  $("send").hidden = here;
  $("stop").hidden = !here;
  $("send").disabled = !$("ask").value.trim() || Boolean(busy);
  $("forget").hidden = !key.get();
}

/** Scrolls down if the end was in sight. */
function down(always) {
  const scroll = $("scroll");
  if (always || near) scroll.scrollTop = scroll.scrollHeight;
}

let near = true;
$("scroll").addEventListener("scroll", () => {
  const s = $("scroll");
  near = s.scrollHeight - s.scrollTop - s.clientHeight < 60;
});

function save() {
  if (!store.save(busy?.chat ?? chat)) say("This browser has no room for more; delete some conversations.");
}

// What happens.

function go(id) {
  chat = busy?.chat.id === id ? busy.chat : store.load(id) ?? store.fresh();
  show();
  menu(false);
  $("ask").focus();
}

function remove(id, title) {
  if (!confirm(`Delete “${title}”?`)) return;
  if (busy?.chat.id === id) busy.stop.abort();
  if (busy?.chat.id === id) busy.dropped = true;
  store.drop(id);
  if (chat.id === id) chat = store.fresh();
  show();
}

function edit(at) {
  if (busy) return;
  $("ask").value = chat.messages[at].content;
  chat.messages.length = at;
  if (!at) store.drop(chat.id);
  save();
  show();
  grow();
  $("ask").focus();
}

function again() {
  if (busy) return;
  while (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
  if (chat.messages.length) write();
}

/** The request for a conversation. */
function request(of) {
  const body = { model: $("model").value || undefined, messages: [] };
  if (of.settings.system?.trim()) body.messages.push({ role: "system", content: of.settings.system });
  for (const name of FIELDS.slice(1)) {
    if (of.settings[name] !== undefined && of.settings[name] !== "") body[name] = Number(of.settings[name]);
  }
  for (const { role, content } of of.messages) {
    if (role === "user" || content) body.messages.push({ role, content });
  }
  return body;
}

/** Lets the model answer what the conversation ends with. */
async function write() {
  const of = chat;
  const body = request(of);
  const message = { role: "assistant", content: "" };
  of.messages.push(message);
  const mine = { chat: of, message, stop: new AbortController(), dropped: false };
  busy = mine;
  save();
  show();
  say("The answer is being written");
  const node = $("log").lastElementChild;
  const clock = { began: performance.now(), first: 0, last: 0, parts: 0 };
  let [usage, end, drawn, kept] = [null, null, 0, clock.began];
  const draw = () => {
    drawn = 0;
    if (chat === of) {
      fill(node, message, of.messages.length - 1);
      down();
    }
  };
  // Drawn when the screen is, and kept twice a second.
  const soon = () => {
    drawn ||= requestAnimationFrame(draw);
    if (performance.now() - kept > 500 && !mine.dropped) {
      kept = performance.now();
      save();
    }
  };
  try {
    for await (const chunk of answer(body, mine.stop.signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      end = choice.finish_reason ?? end;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (!content && !reasoning) continue;
      clock.last = performance.now();
      clock.first ||= clock.last;
      clock.parts += 1;
      message.content += content ?? "";
      if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
      soon();
    }
  } catch (e) {
    if (mine.stop.signal.aborted) end = "stopped";
    else message.error = e.message;
    if (e instanceof Refused && e.status === 401) unlock(e.message);
    if (!(e instanceof Refused) && !mine.stop.signal.aborted) console.error(e);
  }
  cancelAnimationFrame(drawn);
  message.stats = stats(clock, usage, end);
  if (!mine.dropped) save();
  busy = null;
  say(message.error ? "" : end === "stopped" ? "Stopped" : "The answer is whole");
  if (chat === of) {
    // The buttons of the messages before it come back too.
    [...$("log").children].forEach((n, i) => fill(n, of.messages[i], i));
    down();
  }
  chats();
  buttons();
}

/** A line on what an answer took. */
function stats(clock, usage, end) {
  if (!clock.parts) return end === "length" ? "no room for an answer" : end === "stopped" ? "stopped" : "";
  const out = [];
  const tokens = usage?.completion_tokens ?? clock.parts;
  const seconds = (clock.last - clock.first) / 1000;
  out.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (tokens > 1 && seconds > 0) out.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  out.push(`first after ${((clock.first - clock.began) / 1000).toFixed(2)} s`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    out.push(`prompt ${usage.prompt_tokens}${cached ? `, ${cached} of it cached` : ""}`);
  }
  if (end === "stopped") out.push("stopped");
  if (end === "length") out.push("ended by its length");
  return out.join(" · ");
}

// Models and the key.

async function fetchModels() {
  try {
    const all = await models();
    const wanted = store.prefer.get("model");
    $("model").replaceChildren(...all.map((m) => el("option", { value: m.id, textContent: m.id })));
    if (all.some((m) => m.id === wanted)) $("model").value = wanted;
    hint(all);
    $("model").onchange = () => {
      store.prefer.set("model", $("model").value);
      hint(all);
    };
  } catch (e) {
    $("hint").textContent = e.message;
    if (e.status === 401) unlock(e.message);
  }
  buttons();
}

function hint(all) {
  const model = all.find((m) => m.id === $("model").value);
  $("hint").textContent = model ? `${model.id} reads and writes up to ${model.max_model_len.toLocaleString()} tokens.` : "";
}

function unlock(why) {
  if ($("keys").open) return;
  $("keys-why").textContent = why;
  $("key").value = "";
  $("keys").showModal();
}

$("keys").querySelector("form").addEventListener("submit", () => {
  key.set($("key").value.trim());
  fetchModels();
  const last = chat.messages.at(-1);
  if (last?.error && !busy) again();
});
$("keys-cancel").onclick = () => $("keys").close();
$("forget").onclick = () => {
  key.set("");
  fetchModels();
};

// Controls.

function send() {
  const text = $("ask").value;
  if (!text.trim() || busy) return;
  const settings = $("settings");
  if (!settings.checkValidity()) {
    toggle(settings, $("tune"), true);
    settings.reportValidity();
    return;
  }
  $("ask").value = "";
  grow();
  chat.messages.push({ role: "user", content: text });
  write();
}

function grow() {
  const ask = $("ask");
  // Where the browser does not do it by itself.
  if (!CSS.supports("field-sizing", "content")) {
    ask.style.height = "auto";
    ask.style.height = `${ask.scrollHeight}px`;
  }
  buttons();
}

function toggle(node, by, on) {
  node.hidden = !on;
  by.setAttribute("aria-expanded", String(on));
}

function menu(on) {
  document.body.classList.toggle("side", on);
  $("menu").setAttribute("aria-expanded", String(on));
}

$("ask").addEventListener("input", grow);
$("ask").addEventListener("keydown", (e) => {
  // While a word is being composed, Enter chooses it.
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    send();
  }
});
$("composer").addEventListener("submit", (e) => {
  e.preventDefault();
  send();
});
$("stop").onclick = () => busy?.stop.abort();
$("new").onclick = () => {
  chat = store.fresh();
  show();
  menu(false);
  $("ask").focus();
};
$("menu").onclick = () => menu(!document.body.classList.contains("side"));
$("veil").onclick = () => menu(false);
$("tune").onclick = () => toggle($("settings"), $("tune"), $("settings").hidden);
$("settings").addEventListener("submit", (e) => e.preventDefault());
$("settings").addEventListener("input", () => {
  chat.settings = Object.fromEntries(FIELDS.map((name) => [name, $(name).value]).filter(([, v]) => v !== ""));
  store.prefer.set("settings", chat.settings);
  store.save(chat);
});
$("log").addEventListener("click", async (e) => {
  if (e.target.dataset?.copy === undefined) return;
  await copy(e.target.closest(".code").querySelector("code").textContent);
  e.target.textContent = "Copied";
  setTimeout(() => (e.target.textContent = "Copy"), 1500);
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || $("keys").open) return;
  if (document.body.classList.contains("side")) menu(false);
  else busy?.stop.abort();
});
addEventListener("pagehide", () => {
  if (busy && !busy.dropped) save();
});
addEventListener("storage", (e) => {
  if (e.key === "alula.chats") chats();
});

// Colours: as the system has them, or as chosen.
const THEMES = ["automatic", "light", "dark"];
function theme() {
  const chosen = store.prefer.get("theme") ?? "automatic";
  document.documentElement.dataset.theme = chosen;
  $("theme").title = `Colours: ${chosen}`;
}
$("theme").onclick = () => {
  const at = THEMES.indexOf(store.prefer.get("theme") ?? "automatic");
  store.prefer.set("theme", THEMES[(at + 1) % THEMES.length]);
  theme();
};

theme();
show();
fetchModels();
if (matchMedia("(hover: hover)").matches) $("ask").focus();
