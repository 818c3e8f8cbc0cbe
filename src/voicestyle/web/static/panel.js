// One voice: where it comes from, the face that forms, and what can be done with it.

import { ask, form, listen, sentence } from "./api.js";
import { record } from "./recorder.js";
import { drawWave, peaksOf } from "./wave.js";

const KEY = "voicestyle.jobs";
const NAMES = ["First voice", "Second voice"];

export class Panel {
  constructor(model, template, place, changed) {
    this.model = model;
    this.place = place;
    this.changed = changed;
    this.root = template.content.firstElementChild.cloneNode(true);
    this.isBusy = false;
    this.hasFaces = false;
    this.source = null; // { voice: Blob } or { example: name } or { of: job }
    this.ways = [];
    this.face = 0;
    this.find(".record").addEventListener("click", () => this.toggleRecording());
    this.find(".file").addEventListener("change", (event) => this.take(event.target.files[0]));
    this.find(".stop").addEventListener("click", () => this.stop());
    this.find(".again").addEventListener("click", () => this.again(1));
    this.find(".four").addEventListener("click", () => this.again(0, this.model.max_faces));
    this.find(".way input").addEventListener("input", (event) => this.showWay(Number(event.target.value)));
    this.find("input.photo").addEventListener("change", (event) => this.compare(event.target));
    this.find(".run").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    this.find(".again").title = "The same voice and the next seed";
    this.offerDrop();
    this.offerExamples();
    this.offerCounts();
  }

  find(selector) { return this.root.querySelector(selector); }

  name(isOneOfTwo) {
    this.find("h2").textContent = isOneOfTwo ? NAMES[this.place] : "Voice";
    this.find("h2").classList.toggle("single", !isOneOfTwo);
    this.root.setAttribute("aria-label", this.find("h2").textContent);
  }

  focus() { this.find(".record").focus(); }

  // ------------------------------------------------------------------------------------------------- what it does next

  offerDrop() {
    const drop = this.find(".drop");
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => { event.preventDefault(); this.take(event.dataTransfer.files[0]); });
  }

  offerExamples() {
    const list = this.find(".examples .list");
    Object.entries(this.model.examples).forEach(([name, title], i) => {
      const button = make("button", { type: "button", className: "link", textContent: title });
      button.addEventListener("click", () => this.choose({ example: name }, `api/v1/examples/${name}`, title));
      list.append(...(i ? [" or ", button] : [button]));
    });
  }

  offerCounts() {
    for (let count = 1; count <= this.model.max_faces; count += 1) {
      const input = make("input", { type: "radio", name: "num_faces", value: count, defaultChecked: count === 1 });
      const label = make("label", {});
      label.append(input, String(count));
      this.find(".count").append(label);
    }
  }

  async toggleRecording() {
    if (this.recording) { this.recording.stop(); return; }
    if (this.isOpening) return;
    this.isOpening = true;
    const button = this.find(".record");
    this.say("");
    try {
      this.recording = await record({
        onTime: (seconds) => { button.querySelector(".time").textContent = `${seconds.toFixed(1)} s`; },
        onLevel: (level) => button.style.setProperty("--level", level.toFixed(2)),
      });
    } catch (error) {
      this.say(error.message);
      return;
    } finally {
      this.isOpening = false;
    }
    button.setAttribute("aria-pressed", "true");
    button.querySelector(".what").textContent = "Stop recording";
    const blob = await this.recording.done;
    this.recording = null;
    button.setAttribute("aria-pressed", "false");
    button.querySelector(".what").textContent = "Record again";
    button.querySelector(".time").textContent = "";
    if (blob.size) this.take(blob, "Your recording");
    else this.say("Nothing was recorded. Try again.");
  }

  take(file, title) {
    if (!file) return;
    if (file.size > this.model.max_upload_bytes) {
      this.say(`That file has ${(file.size / 1e6).toFixed(0)} MB; up to ${this.model.max_upload_bytes / 1e6} MB are taken.`);
      return;
    }
    this.choose({ voice: file }, URL.createObjectURL(file), title || file.name);
  }

  async choose(source, address, title) {
    this.say("");
    this.source = source;
    const player = this.find("audio");
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = source.voice ? address : null;
    player.src = address;
    player.hidden = false;
    player.setAttribute("aria-label", title);
    this.find(".chosen").hidden = false;
    this.root.classList.add("has-voice");
    const named = title.charAt(0).toUpperCase() + title.slice(1);
    this.find(".wave figcaption").textContent = named;
    this.find(".wave svg").replaceChildren();
    this.find(".run .primary").focus({ preventScroll: true });
    try {
      const blob = source.voice || await (await fetch(address)).blob();
      const wave = await peaksOf(blob);
      if (this.source !== source) return;
      drawWave(this.find(".wave svg"), wave);
      this.find(".wave figcaption").textContent = `${named}, ${wave.seconds.toFixed(1)} s`;
    } catch { /* the browser cannot decode it; the server may */ }
  }

  // ----------------------------------------------------------------------------------------------------------- working

  async again(step, count) {
    const seed = this.find(".seed input");
    seed.value = Number(seed.value) + step;
    if (count) this.root.querySelectorAll(".count input").forEach((input) => { input.checked = Number(input.value) === count; });
    this.source = this.job?.status === "done" ? { of: this.job.id } : this.source;
    await this.run();
  }

  async run() {
    if (this.isBusy || !this.source) return;
    const fields = new FormData(this.find(".run"));
    const asked = form({ ...this.source, seed: fields.get("seed") || 0, num_faces: fields.get("num_faces"), watch: true });
    this.say("");
    this.setBusy(true);
    this.reset();
    this.tell("Sending the voice …");
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.find(".work").scrollIntoView({ block: "nearest", behavior: isCalm ? "auto" : "smooth" });
    try {
      this.follow(await ask("POST", "api/v1/generate", asked));
    } catch (error) {
      this.setBusy(false);
      this.find(".work").hidden = true;
      this.say(error.message);
    }
  }

  // A job that was begun before the page was loaded again.
  attach(job) {
    this.find(".chosen").hidden = false;
    this.root.classList.add("has-voice");
    this.find("audio").hidden = true;
    this.source = { of: job.id };
    this.reset();
    this.setBusy(true);
    this.follow(job);
  }

  follow(job) {
    this.job = job;
    this.keep();
    if (job.status === "queued" && job.ahead > 0) {
      const wait = job.wait_s === null ? "" : `, about ${Math.ceil(job.wait_s)} s`;
      this.tell(`Waiting: ${job.ahead} before you${wait}`);
    }
    this.find(".stop").disabled = false;
    listen(job, (name, data) => this[`on_${name}`]?.(data));
  }

  stop() {
    this.find(".stop").disabled = true;
    this.tell("Stopping …");
    ask("DELETE", `api/v1/jobs/${this.job.id}`).catch((error) => this.say(error.message));
  }

  on_started() { this.tell("Listening to the voice"); }

  on_voice(told) {
    this.find(".chosen").hidden = false;
    drawWave(this.find(".wave svg"), told);
    this.find(".wave figcaption").textContent =
      `${told.seconds.toFixed(1)} s, of which ${told.speech_s.toFixed(1)} s of speech were kept`;
    this.find(".wave svg").setAttribute("aria-label", this.find(".wave figcaption").textContent);
    this.tell("Looking for faces near this voice");
  }

  on_prototypes(told) {
    this.find(".evidence").hidden = false;
    for (const kind of ["members", "prototypes"]) this.find(`.evidence .${kind}-title`).textContent = `${told[`${kind}_title`]}.`;
    this.find(".legend").textContent = told.legend && sentence(told.legend);
    this.find(".members").replaceChildren(
      ...told.members.map((m) => this.tile(m.picture, m.fit, `of prototype ${m.prototype}`)));
    this.find(".prototypes").replaceChildren(
      ...told.prototypes.map((p) => this.tile(p.picture, `prototype ${p.prototype}`, `${p.place}, mean of its ${p.size}`)));
    this.show(this.file(`${told.prototypes[0].picture}.jpg`), "A group of faces that is near this voice, as one face");
  }

  tile(picture, ...lines) {
    const item = make("li", {});
    item.append(make("img", { src: this.file(`${picture}.jpg`), alt: "", loading: "lazy" }));
    item.append(...lines.map((textContent) => make("span", { textContent })));
    return item;
  }

  on_start() {
    this.find(".mean img").src = this.file("start.jpg");
    this.find(".mean").hidden = false;
    this.show(this.file("start.jpg"), "The mean of a few faces near this voice: here the search starts");
    this.tell("Moving the face towards the voice");
  }

  on_step({ step, of, pictures }) {
    const bar = this.find("progress");
    bar.max = of;
    bar.value = step;
    if (step % 25 === 0 || step === 1) this.tell(`Step ${step} of ${of}`);
    if (pictures.length) this.show(this.file(pictures[0]), "On the way");
  }

  on_faces({ similarity, pictures }) {
    this.hasFaces = true;
    this.similarity = similarity;
    this.faces = pictures.map((name) => this.file(name));
    this.face = 0;
    this.tell(similarity.length > 1 ? `${similarity.length} faces that fit this voice` : "A face that fits this voice");
    const choose = this.find(".choose");
    choose.hidden = this.faces.length < 2;
    choose.replaceChildren(...this.faces.map((src, i) => {
      const button = make("button", { type: "button" });
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", `Face ${i + 1}`);
      button.append(make("img", { src, alt: "" }));
      button.addEventListener("click", () => this.select(i));
      button.addEventListener("keydown", (event) => {
        const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!move) return;
        event.preventDefault();
        this.select((i + move + this.faces.length) % this.faces.length);
        choose.children[this.face].focus();
      });
      return button;
    }));
    this.select(0);
  }

  select(face) {
    this.face = face;
    [...this.find(".choose").children].forEach((button, i) => {
      button.setAttribute("aria-checked", String(i === face));
      button.tabIndex = i === face ? 0 : -1;
    });
    this.show(this.faces[face], "One of many that fit. It is not the speaker's face.");
    this.find(".stage img").alt = `AI-generated face ${face + 1} that fits the voice`;
    this.offerWay();
    this.offerDownloads();
  }

  on_way({ face, pictures }) {
    this.ways[face - 1] = pictures.map((name) => this.file(name));
    this.ways[face - 1].forEach((src) => { new Image().src = src; });
    this.offerWay();
  }

  offerWay() {
    const way = this.ways[this.face];
    this.find(".way").hidden = !way;
    if (!way) return;
    const slider = this.find(".way input");
    slider.max = way.length - 1;
    slider.value = way.length - 1;
    this.sayWay(way.length - 1);
  }

  showWay(at) {
    const last = this.ways[this.face].length - 1;
    if (at === last) this.select(this.face);
    else this.show(this.ways[this.face][at], "On the way");
    this.find(".way input").value = at;
    this.sayWay(at);
  }

  sayWay(at) {
    const last = this.ways[this.face].length - 1;
    const said = at === 0 ? "the prototype" : at === last ? "the face" : `${Math.round((100 * at) / last)} % of the way`;
    this.find(".way input").setAttribute("aria-valuetext", said);
  }

  on_files({ files }) { this.files = files; }

  on_done(result) {
    this.job = { ...this.job, status: "done" };
    this.files = result.files;
    this.finish();
    this.find(".beside").hidden = false;
    this.offerDownloads();
  }

  on_report({ sections: [said, ...others], voice }) {
    this.find(".after").hidden = false;
    const words = said.lines.map((line) => make("p", { textContent: line }));
    this.find(".report").replaceChildren(make("h3", { textContent: said.title }), ...words);
    this.find(".report").classList.toggle("doubtful", voice.doubt !== null);
    this.find(".sure dl").replaceChildren(...others.flatMap(({ title, lines }) =>
      [make("dt", { textContent: title }), ...lines.map((line) => make("dd", { textContent: line }))]));
  }

  on_failed({ detail }) { this.finish(); this.find(".work").hidden = true; this.say(sentence(detail)); }

  on_lost({ detail }) { this.finish(); this.say(detail); }

  on_stopped({ detail }) {
    this.finish();
    this.tell(detail === "stopped on request" ? "Stopped. The search had come this far." : sentence(detail));
  }

  // -------------------------------------------------------------------------------------------------------- afterwards

  offerDownloads() {
    if (!this.files?.length) return;
    const offered = [
      [`face-${this.face + 1}.png`, "picture"], ["sheet.png", "sheet of the evidence"],
      [`way-${this.face + 1}.gif`, "moving picture"], ["face.json", "recipe for the command line"],
      ["report.html", "report"],
    ].filter(([name]) => this.files.includes(name));
    const links = offered.map(([name, title]) =>
      make("a", { href: this.file(name), download: `voicestyle-${name}`, textContent: title }));
    this.find(".downloads").replaceChildren(make("span", { textContent: "Save" }), ...links);
  }

  async compare(input) {
    const [file] = input.files;
    input.value = "";
    if (!file || this.isBusy) return;
    const said = this.find(".beside .trouble");
    const figure = this.find("figure.photo");
    const caption = figure.querySelector("figcaption");
    said.hidden = true;
    const picture = figure.querySelector("img");
    if (picture.src) URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(file);
    figure.hidden = false;
    caption.textContent = "Looking at it …";
    this.setBusy(true);
    try {
      const job = await ask("POST", "api/v1/embed", form({ face: file, of: this.job.id, watch: true }));
      await new Promise((resolve, reject) => listen(job, (name, data) => {
        if (name === "done") { caption.textContent = percentile(data); resolve(); }
        if (["failed", "stopped", "lost"].includes(name)) reject(new Error(sentence(data.detail)));
      }));
    } catch (error) {
      figure.hidden = true;
      said.textContent = error.message;
      said.hidden = false;
    }
    this.setBusy(false, false);
  }

  // ------------------------------------------------------------------------------------------------------------ state

  reset() {
    this.hasFaces = false;
    this.ways = [];
    this.files = [];
    this.find(".work").hidden = false;
    for (const part of [".after", ".beside", ".way", ".choose", ".evidence", ".mean", "figure.photo"]) this.find(part).hidden = true;
    this.find(".progress").classList.remove("over");
    this.find("progress").hidden = this.find(".stop").hidden = false;
    this.find(".stop").disabled = true;
    this.find("progress").removeAttribute("value");
    this.find(".stage img").removeAttribute("src");
    this.find(".stage figcaption").textContent = "";
    this.find(".report").replaceChildren();
    this.find(".downloads").replaceChildren();
  }

  finish() {
    this.find("progress").hidden = this.find(".stop").hidden = true;
    this.find(".progress").classList.add("over");
    this.setBusy(false);
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    this.changed();
  }

  setWaiting(isBusy) {
    for (const button of this.root.querySelectorAll(".run .primary, .again, .four, .examples button, .record")) {
      button.disabled = isBusy;
    }
    this.root.querySelectorAll("input[type=file]").forEach((input) => { input.disabled = isBusy; });
  }

  show(src, caption) {
    const image = this.find(".stage img");
    image.src = src;
    image.alt = "";
    this.find(".stage figcaption").textContent = caption;
  }

  say(message) {
    const trouble = this.find(".hint + .trouble");
    trouble.textContent = message;
    trouble.hidden = !message;
  }

  tell(message) { this.find(".status").textContent = message; }

  file(name) { return `${this.job.files}/${name}`; }

  keep() {
    const kept = Panel.kept();
    kept[this.place] = this.job.id;
    sessionStorage.setItem(KEY, JSON.stringify(kept));
  }

  static kept() { return JSON.parse(sessionStorage.getItem(KEY) || "[]"); }

  static forget() { sessionStorage.removeItem(KEY); }
}

function make(tag, properties) { return Object.assign(document.createElement(tag), properties); }

function percentile({ percentile: part, among, similarity }) {
  if (part === undefined) return `Similarity to the voice: ${similarity.toFixed(2)}.`;
  return `Of 100 random people, about ${Math.round(part)} would fit this voice less well (compared with ${among} faces). `
    + "This says how well a face goes with such a voice. It does not say whose voice it is.";
}
