// The official `openai` npm client against `alula serve`.
//
//     npm ci && node suite.js ../../../target/debug/alula

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import OpenAI from "openai";

/** The address of a server, and how to stop it. A binary that is an address is a server that runs already. */
async function serving(binary) {
  if (binary.startsWith("http")) return [binary, async () => {}];
  const child = spawn(binary, ["serve", "--port", "0"], { stdio: ["ignore", "ignore", "pipe"] });
  const stop = () => new Promise((done) => { child.on("exit", done); child.kill("SIGTERM"); });
  for await (const line of createInterface({ input: child.stderr })) {
    const found = / on (http:\/\/\S+)/.exec(line);
    if (found) {
      child.stderr.resume();
      return [found[1], stop];
    }
  }
  throw new Error("the server does not start");
}

const [url, stop] = await serving(process.argv[2]);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const model = "builtin";
const messages = [{ role: "user", content: "Tell me about a bird" }];
const chat = (more = {}) => client.chat.completions.create({ model, messages, seed: 1, max_completion_tokens: 16, ...more });
const text = (answer) => answer.choices[0].message.content;

async function joined(stream) {
  const [texts, chunks] = [[], []];
  for await (const chunk of stream) {
    chunks.push(chunk);
    for (const c of chunk.choices) texts[c.index] = (texts[c.index] ?? "") + (c.delta?.content ?? c.text ?? "");
  }
  return [texts, chunks];
}

async function refused(call, kind, param, code) {
  await assert.rejects(call, (e) => {
    assert(e instanceof kind, String(e));
    assert.equal(e.param, param);
    if (code) assert.equal(e.code, code);
    return true;
  });
}

const cases = {
  async models() {
    const all = [];
    for await (const m of client.models.list()) all.push(m.id);
    assert.deepEqual(all, [model]);
    assert.equal((await client.models.retrieve(model)).object, "model");
    await refused(() => client.models.retrieve("nobody"), OpenAI.NotFoundError, "model", "model_not_found");
  },
  async chat() {
    const one = await chat();
    assert(text(one));
    assert.equal(text(one), text(await chat()), "same seed, same text");
    assert.equal(one.usage.total_tokens, one.usage.prompt_tokens + one.usage.completion_tokens);
    for (const more of [{}, { n: 3 }, { stop: [" a", "the"] }, { temperature: 0, frequency_penalty: 1, presence_penalty: -1 }, { logprobs: true, top_logprobs: 2 }]) {
      const whole = await chat(more);
      const [texts, chunks] = await joined(await chat({ ...more, stream: true }));
      assert.deepEqual(texts, whole.choices.map((c) => c.message.content), JSON.stringify(more));
      assert(new Set(chunks.map((c) => c.id)).size === 1);
    }
    const alone = await Promise.all([1, 2, 3].map((seed) => chat({ seed })));
    assert.deepEqual((await chat({ n: 3 })).choices.map((c) => c.message.content), alone.map(text));
    const [, chunks] = await joined(await chat({ stream: true, stream_options: { include_usage: true } }));
    assert.deepEqual(chunks.at(-1).usage.completion_tokens, one.usage.completion_tokens);
    const runner = client.chat.completions.stream({ model, messages, seed: 1, max_completion_tokens: 16 });
    assert.equal(await runner.finalContent(), text(one));
    assert.equal(text(await chat({ temperature: 2, top_k: 1 })), text(await chat({ temperature: 0 })), "top_k");
  },
  async cancels() {
    const stream = await chat({ stream: true, max_completion_tokens: 400, ignore_eos: true });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
    assert(chunks < 100, `${chunks} after it was cancelled`);
    assert(text(await chat()));
  },
  async forms() {
    const schema = { type: "object", properties: { happy: { type: "boolean" } }, required: ["happy"], additionalProperties: false };
    const answer = await chat({ max_completion_tokens: 400, response_format: { type: "json_schema", json_schema: { name: "x", schema, strict: true } } });
    assert.equal(typeof JSON.parse(text(answer)).happy, "boolean");
  },
  async completions() {
    const complete = (more = {}) => client.completions.create({ model, prompt: "Once upon", seed: 1, max_tokens: 12, ...more });
    for (const more of [{}, { echo: true }, { n: 2 }, { prompt: ["One day", "A bird"] }]) {
      const whole = await complete(more);
      assert.deepEqual((await joined(await complete({ ...more, stream: true })))[0], whole.choices.map((c) => c.text));
    }
    await refused(() => complete({ suffix: "end" }), OpenAI.BadRequestError, "suffix");
  },
  async refusals() {
    await refused(() => chat({ temperature: 3 }), OpenAI.BadRequestError, "temperature");
    await refused(() => chat({ nothing: 3 }), OpenAI.BadRequestError, "nothing", "unknown_field");
    await refused(() => chat({ model: "none" }), OpenAI.NotFoundError, "model", "model_not_found");
    await refused(() => chat({ messages: [{ role: "user", content: "word ".repeat(2000) }] }), OpenAI.BadRequestError, "messages", "context_length_exceeded");
  },
};

try {
  for (const [name, run] of Object.entries(cases)) {
    await run();
    console.log(`ok ${name}`);
  }
} finally {
  await stop();
}
