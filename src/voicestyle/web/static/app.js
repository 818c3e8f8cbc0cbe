// One panel a voice, and what they share.

import { ask } from "./api.js";
import { Panel } from "./panel.js";

const panels = [];
const second = document.getElementById("second");
const holder = document.getElementById("voices");

function open(model) {
  const panel = new Panel(model, document.getElementById("panel"), panels.length, refresh);
  panels.push(panel);
  holder.append(panel.root);
  refresh();
  return panel;
}

// One job at a time: while one panel works, the other one waits.
function refresh() {
  const busy = panels.some((panel) => panel.isBusy);
  panels.forEach((panel) => panel.setWaiting(busy));
  second.hidden = panels.length !== 1 || !panels[0].hasFaces;
  document.querySelector("main").classList.toggle("two", panels.length > 1);
  panels.forEach((panel) => panel.name(panels.length > 1));
}

async function begin() {
  let model;
  try {
    model = await ask("GET", "api/v1/model");
  } catch (error) {
    holder.textContent = error.message;
    return;
  }
  open(model);
  second.addEventListener("click", () => open(model).focus());
  const kept = Panel.kept();
  if (kept.length > 1) open(model);
  for (const [place, id] of kept.entries()) {
    const job = id && await ask("GET", `api/v1/jobs/${id}`).catch(() => null);
    if (job) panels[place].attach(job);
  }
}

document.getElementById("forget").addEventListener("click", async () => {
  await ask("DELETE", "api/v1/session").catch(() => null);
  Panel.forget();
  location.reload();
});

begin();
