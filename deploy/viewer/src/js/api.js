// The server's REST interface. Every failure becomes an ApiError whose message is for the person at the screen.

const STORED = "medssl-token";

export class ApiError extends Error {
  constructor(message, { status = 0, reason = "", wait = 0 } = {}) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.wait = wait;
  }
}

let asking = null;
let askForToken = async () => null;

/** `ask` shows a form and resolves to a token, or to null where the person gives none. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

function headers() {
  const token = sessionStorage.getItem(STORED);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Ask once for all requests that wait; true where there is a token to try. */
async function renewToken() {
  const refused = sessionStorage.getItem(STORED) !== null;
  asking ??= askForToken(refused).finally(() => (asking = null));
  const token = await asking;
  if (token) sessionStorage.setItem(STORED, token);
  return Boolean(token);
}

const WORDS = {
  401: "The server asks for an access token. Reload the page to enter it.",
  403: "Your access token does not allow this.",
  404: "The server no longer has this: it may have been deleted, or its retention time has passed.",
  413: "This is more than the server accepts in one upload.",
  429: "The server has as much work as it can take.",
};

/** What a refusal says: `message` and `reason` of the body, else words for its status. */
export function refusal(status, body, retryAfter) {
  const told = body?.message;
  const wait = Number(retryAfter) || 0;
  const known = WORDS[status] ?? (status >= 500 ? `The server failed (${status}).` : `The server refused (${status}).`);
  const later = status === 429 ? ` Try again ${wait ? `in ${wait} s` : "in a while"}.` : "";
  const said = told && told !== known ? ` ${told}` : "";
  return new ApiError(`${known}${later}${said}`, { status, reason: body?.reason ?? "", wait });
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, { ...options, headers: headers(), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.");
  }
  if (response.status === 401 && (await renewToken())) return request(path, options);
  if (!response.ok) throw refusal(response.status, await body(response), response.headers.get("Retry-After"));
  return response;
}

async function body(response) {
  const text = await response.text().catch(() => "");
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const json = async (path) => (await request(path)).json();
const part = encodeURIComponent;

export const models = () => json("models");
export const modelCard = async (name) => (await request(`models/${part(name)}/card`)).text();
export const jobs = (state, limit) => json(`jobs?limit=${limit}${state ? `&state=${part(state)}` : ""}`);
export const job = (id) => json(`jobs/${part(id)}`);
export const results = (id) => json(`jobs/${part(id)}/results`);
export const remove = (id) => request(`jobs/${part(id)}`, { method: "DELETE" });
export const file = (id, name, signal) => request(`jobs/${part(id)}/results/${part(name)}`, { signal });

/**
 * Upload files; `onShare` hears how much has been sent, as fetch does not tell.
 * `fields` are `model`, `series` where one of several is meant, `channels` where they are named; empty ones are left out.
 */
export function submit(files, fields, onShare) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
  for (const entry of files) form.append("files", entry, entry.name);
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest();
    sender.open("POST", "api/jobs");
    for (const [name, value] of Object.entries(headers())) sender.setRequestHeader(name, value);
    sender.responseType = "text";
    sender.upload.onprogress = (event) => event.lengthComputable && onShare(event.loaded / event.total);
    sender.onerror = () =>
      reject(new ApiError("The server did not take the upload: the connection broke. Nothing was accepted."));
    sender.onload = () => {
      let answer = null;
      try {
        answer = JSON.parse(sender.responseText);
      } catch {
        // a body that is not JSON says nothing
      }
      if (sender.status === 202) resolve(answer);
      else reject(refusal(sender.status, answer, sender.getResponseHeader("Retry-After")));
    };
    sender.send(form);
  });
}
