// A small part of Markdown, made into elements. Text only ever becomes text nodes, so nothing in it can run.

/** An element with properties and children. */
export function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,4})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const DASHES = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Puts what `source` says into `into`. */
export function render(source, into) {
  into.replaceChildren(...blocks(source.split("\n"), 0));
}

// Quotes within quotes and lists within lists, so deep at most.
const DEEPEST = 8;

function blocks(lines, depth) {
  const out = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}${match[1][0]}{${match[1].length},}\\s*$`);
      let end = at + 1;
      while (end < lines.length && !close.test(lines[end])) end += 1;
      out.push(code(lines.slice(at + 1, end).join("\n"), match[2]));
      at = end + 1;
    } else if ((match = HEADING.exec(line))) {
      out.push(el(`h${match[1].length}`, {}, ...inline(match[2])));
      at += 1;
    } else if (RULE.test(line)) {
      out.push(el("hr"));
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const inner = [];
      while (at < lines.length && (match = QUOTE.exec(lines[at]))) {
        inner.push(match[1]);
        at += 1;
      }
      out.push(el("blockquote", {}, ...blocks(inner, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const [list, next] = items(lines, at, depth);
      out.push(list);
      at = next;
    } else if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DASHES.test(lines[at + 1])) {
      const [table, next] = rows(lines, at);
      out.push(table);
      at = next;
    } else {
      const text = [line];
      at += 1;
      while (at < lines.length && lines[at].trim() && !begins(lines[at])) {
        text.push(lines[at]);
        at += 1;
      }
      out.push(el("p", {}, ...text.flatMap((t, i) => (i ? [el("br"), ...inline(t)] : inline(t)))));
    }
  }
  return out;
}

const begins = (line) => [FENCE, HEADING, RULE, ITEM, QUOTE].some((kind) => kind.test(line));

function items(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const margin = first[1].length;
  const ordered = /\d/.test(first[2]);
  const list = el(ordered ? "ol" : "ul");
  if (ordered) list.start = parseInt(first[2], 10);
  let inner = [];
  const close = () => {
    if (!inner.length) return;
    const made = blocks(inner, depth + 1);
    // An item of one paragraph is written tight.
    list.append(el("li", {}, ...(made[0]?.tagName === "P" ? [...made[0].childNodes, ...made.slice(1)] : made)));
    inner = [];
  };
  while (at < lines.length) {
    const line = lines[at];
    const match = ITEM.exec(line);
    const indent = line.length - line.trimStart().length;
    if (match && match[1].length <= margin + 1) {
      if (match[1].length < margin || /\d/.test(match[2]) !== ordered) break;
      close();
      inner.push(match[3]);
    } else if (!line.trim()) {
      const next = lines[at + 1] ?? "";
      if (!next.trim() || (!ITEM.test(next) && next.length - next.trimStart().length <= margin)) break;
      inner.push("");
    } else if (indent > margin) {
      inner.push(line.slice(Math.min(indent, margin + match_width(first))));
    } else if (begins(line)) {
      break;
    } else {
      inner.push(line);
    }
    at += 1;
  }
  close();
  return [list, at];
}

const match_width = (match) => match[2].length + 1;

function rows(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());
  const row = (line, tag) => el("tr", {}, ...cells(line).map((c) => el(tag, {}, ...inline(c))));
  const table = el("table", {}, el("thead", {}, row(lines[at], "th")));
  const body = el("tbody");
  at += 2;
  while (at < lines.length && lines[at].includes("|")) {
    body.append(row(lines[at], "td"));
    at += 1;
  }
  table.append(body);
  return [table, at];
}

function code(text, language) {
  const copy = el("button", { type: "button", className: "plain", textContent: "Copy" });
  copy.dataset.copy = "";
  return el("div", { className: "code" }, el("div", {}, el("span", { textContent: language || "text" }), copy),
    el("pre", { tabIndex: 0 }, el("code", { textContent: text })));
}

// Each kind of mark: how it looks, and what it becomes. The first that begins earliest wins.
const MARKS = [
  [/(`+)(.+?)\1(?!`)/, (m) => el("code", { textContent: m[2].trim() || m[2] })],
  [/\*\*(?=\S)(.+?)(?<=\S)\*\*/, (m) => el("strong", {}, ...inline(m[1]))],
  [/(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])/, (m) => el("em", {}, ...inline(m[1]))],
  [/(?<![\w_])_(?=[^\s_])([^_]+?)(?<=[^\s_])_(?![\w_])/, (m) => el("em", {}, ...inline(m[1]))],
  [/~~(?=\S)(.+?)(?<=\S)~~/, (m) => el("s", {}, ...inline(m[1]))],
  [/\[([^\]\n]+)\]\(((?:https?:\/\/|mailto:)[^\s()<>]+(?:\([^\s()<>]*\)[^\s()<>]*)*)\)/, (m) => link(m[2], m[1])],
  [/https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?]/, (m) => link(m[0], m[0])],
];

function link(href, text) {
  return el("a", { href, textContent: text, target: "_blank", rel: "noopener noreferrer nofollow" });
}

function inline(text) {
  const out = [];
  while (text) {
    let best = null;
    for (const [kind, make] of MARKS) {
      const match = kind.exec(text);
      if (match && (!best || match.index < best.match.index)) best = { match, make };
    }
    if (!best) break;
    const { match, make } = best;
    out.push(text.slice(0, match.index), make(match));
    text = text.slice(match.index + match[0].length);
  }
  if (text) out.push(text);
  return out;
}
