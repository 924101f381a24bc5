// Conversations, kept in this browser: one entry each, and a list of them.

const LIST = "alula.chats";
const one = (id) => `alula.chat.${id}`;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const prefer = {
  get: (name) => read(`alula.${name}`, null),
  set: (name, value) => write(`alula.${name}`, value),
};

/** All of them, the latest first: [{id, title, updated}]. */
export function list() {
  const all = read(LIST, []);
  return Array.isArray(all) ? all.sort((a, b) => b.updated - a.updated) : [];
}

/** A conversation that nobody has written in. */
export function fresh() {
  // randomUUID is not there without TLS.
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
  return { id, title: "", settings: prefer.get("settings") ?? {}, messages: [] };
}

/** One of them, or nothing. */
export function load(id) {
  const chat = read(one(id), null);
  return chat && Array.isArray(chat.messages) ? chat : null;
}

/** Keeps it; false if the browser has no room. */
export function save(chat) {
  if (!chat.messages.length) return true;
  const title = chat.title || chat.messages[0].content.trim().split("\n")[0].slice(0, 80) || "Conversation";
  // The list is read again, since another tab may have changed it.
  const others = list().filter((c) => c.id !== chat.id);
  return write(one(chat.id), chat) && write(LIST, [{ id: chat.id, title, updated: Date.now() }, ...others]);
}

export function drop(id) {
  localStorage.removeItem(one(id));
  write(LIST, list().filter((c) => c.id !== id));
}
