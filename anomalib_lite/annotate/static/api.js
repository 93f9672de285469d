// Requests to the server. A POST resolves once the server has written the answer to its disk.

const tokenOf = (page) => page.querySelector('meta[name="annotate-token"]').content;
let token = tokenOf(document);

export async function getState() {
  const response = await fetch("/api/state", { cache: "no-store" });
  if (!response.ok) throw new Error(`the server returned status ${response.status}`);
  return response.json();
}

export const postAnswer = (id, label, defect) => post("/api/answer", JSON.stringify({ id, label, defect }));
export const postUndo = (id, label, defect) => post("/api/undo", JSON.stringify({ id, label, defect }));
// seen: version of the mask that was drawn on; the server refuses another.
export const postMask = (id, seen, png) => post(`/api/mask/${id}`, png, "image/png", { "if-match": seen ?? "" });

async function post(path, body, type = "application/json", headers = {}) {
  let response = await send(path, body, type, headers);
  if (response.status === 401) {
    // The server was restarted and has a new token, which only a page of its origin can read.
    token = tokenOf(new DOMParser().parseFromString(await (await fetch("/", { cache: "no-store" })).text(), "text/html"));
    response = await send(path, body, type, headers);
  }
  if (!response.ok) throw new Error(await detail(response));
  return response.json();
}

async function send(path, body, type, headers) {
  try {
    return await fetch(path, {
      method: "POST",
      body,
      headers: { ...headers, "content-type": type, authorization: `Bearer ${token}` },
      keepalive: type === "application/json", // completes the request even if the tab is closed now
    });
  } catch {
    throw new Error("Not saved: the server does not answer. Start annotate again, then press the key once more.");
  }
}

async function detail(response) {
  try {
    const text = (await response.json()).detail;
    return typeof text === "string" ? text : JSON.stringify(text);
  } catch {
    return `not saved: the server returned status ${response.status}`;
  }
}
