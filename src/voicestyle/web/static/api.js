// What the server is asked. Every path is relative, so that the page works under any prefix of a proxy.

export class Trouble extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { Accept: "application/json" } });
  } catch {
    throw new Trouble(0, "The server does not answer. Is it still running?");
  }
  const told = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Trouble(answer.status, sentence(told.detail || answer.statusText));
  return told;
}

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value !== null && value !== undefined) data.append(name, value);
  return data;
}

// Calls heard(name, data) for each event of a job, from its first; ends by itself when the job is over.
export function listen(job, heard) {
  const source = new EventSource(job.events);
  const over = ["done", "failed", "stopped"];
  const names = ["started", "voice", "prototypes", "start", "step", "faces", "report", "way", "files", ...over];
  for (const name of names) {
    source.addEventListener(name, (event) => {
      if (over.includes(name)) source.close();
      heard(name, JSON.parse(event.data));
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) heard("lost", { detail: "The connection to the server was lost." });
  });
  return () => source.close();
}

export function sentence(text) {
  const clean = String(text).trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}
