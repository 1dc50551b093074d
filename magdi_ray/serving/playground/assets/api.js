/* The server, asked with the reader's key. What goes wrong is a Problem in words: what happened, and what to do. */

const STORED = "magdi.key";

/** The key lives in this tab and nowhere else. */
export const key = {
  get: () => sessionStorage.getItem(STORED) ?? "",
  set: (value) => (value ? sessionStorage.setItem(STORED, value) : sessionStorage.removeItem(STORED)),
};

export class Problem extends Error {
  /** `mayPass`: the same request may well succeed later. */
  constructor({ status = 0, title, message = "", advice = "", request = "", mayPass = false }) {
    super(message);
    Object.assign(this, { status, title, advice, request, mayPass });
  }
}

const wait = (header) => {
  const after = Number(header);
  return header && Number.isFinite(after) ? `in ${Math.max(1, Math.ceil(after))} s` : "in a moment";
};

/** Title, advice and whether trying again can help, for an HTTP status. */
function meaning(status, retry) {
  if (status === 401) return { title: "The server asks for an API key.", advice: "Enter a valid key at the top of the page." };
  if (status === 403) return { title: "This key may not do that.", advice: "Use another key." };
  if (status === 404) return { title: "The server has no such thing." };
  if (status === 413) return { title: "The question is too long for this server.", advice: "Shorten it." };
  if (status === 429) return { title: "This key has asked too much for now.", advice: `Ask again ${wait(retry)}.`, mayPass: true };
  if (status === 503) return { title: "The student is busy.", advice: `Ask again ${wait(retry)}.`, mayPass: true };
  if (status === 504) return { title: "The reply took too long, and was ended.", advice: "Ask for a shorter one.", mayPass: true };
  if (status >= 500) return { title: "The server failed.", advice: "Its log knows more under the request's id.", mayPass: true };
  return { title: "The server refused the request." };
}

/** The error of an OpenAI error body, wherever it came from. */
export function told(body, status, response) {
  const error = body?.error ?? {};
  const request = error.request_id ?? body?.request_id ?? response?.headers.get("x-request-id") ?? "";
  const message = typeof error.message === "string" ? error.message : "";
  return new Problem({ status, message, request, ...meaning(status, response?.headers.get("retry-after")) });
}

/** What `fetch` and reading throw: an abort stays one, all else is a lost connection. */
function lost(error) {
  if (error.name === "AbortError" || error instanceof Problem) return error;
  const advice = "See that the server runs and that you are connected.";
  return new Problem({ title: "The server cannot be reached.", advice, mayPass: true });
}

async function send(path, { body, signal } = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body), credentials: "omit" };
  const response = await fetch(path, options);
  if (response.ok) return response;
  throw told(await response.json().catch(() => null), response.status, response);
}

/** A JSON answer. */
export async function ask(path, options) {
  try {
    return await (await send(path, options)).json();
  } catch (error) {
    throw lost(error);
  }
}

/** The events of a stream, parsed, until `[DONE]`; a stream that ends before it, or tells an error, is a Problem. */
export async function* stream(path, options) {
  try {
    const response = await send(path, options);
    for await (const data of lines(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw Object.assign(told(event, 500, response), { title: "The reply broke off." });
      yield event;
    }
    throw new Problem({ title: "The reply broke off.", message: "The connection ended before the reply did.", mayPass: true });
  } catch (error) {
    throw lost(error);
  }
}

/** The data of server-sent events. An event may come in several pieces, and several in one. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + value).split(/\r?\n/);
      held = parts.pop();
      for (const line of parts) if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
