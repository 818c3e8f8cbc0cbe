// The interface as openapi.json tells it, as a page to read.

const root = new URL("./", location.href).href;
document.querySelectorAll(".here").forEach((place) => { place.textContent = root; });

function make(tag, text = "", className = "") { return Object.assign(document.createElement(tag), { textContent: text, className }); }

function table(heads, rows) {
  const made = make("table");
  const head = made.createTHead().insertRow();
  heads.forEach((title) => { const cell = make("th", title); cell.scope = "col"; head.append(cell); });
  const body = made.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    cells.forEach((text, i) => row.insertCell().append(i ? text : make("code", text)));
  }
  return made;
}

function kind(schema) {
  const options = (schema.anyOf || [schema]).filter((one) => one.type !== "null");
  return options.map((one) => (one.enum ? one.enum.join(" | ") : one.const ?? (one.contentMediaType || one.format === "binary" ? "file" : one.type || "object"))).join(" | ");
}

function range(schema) {
  const one = { ...(schema.anyOf || [schema])[0], ...schema };
  const least = one.minimum !== undefined ? `from ${one.minimum}` : "";
  const most = one.maximum !== undefined ? `to ${one.maximum}` : "";
  return [kind(schema), least, most, one.default !== undefined && one.default !== null ? `(default ${one.default})` : ""].filter(Boolean).join(" ");
}

const told = await (await fetch("openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? told.components.schemas[schema.$ref.split("/").pop()] : schema);
const operations = document.getElementById("operations");
operations.replaceChildren();
for (const [path, methods] of Object.entries(told.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const title = make("h2");
    title.append(make("span", method.toUpperCase(), "verb"), make("code", path));
    operations.append(title, make("p", operation.description || operation.summary));
    const content = Object.values(operation.requestBody?.content || {})[0];
    const body = resolve(content?.schema);
    const rows = Object.entries(body?.properties || {}).map(([name, s]) => [name, range(s), s.description || ""]);
    const asked = (operation.parameters || []).map((p) => [p.name, range(p.schema), p.description || p.in]);
    if (rows.length + asked.length) operations.append(table(["field", "type", "meaning"], [...asked, ...rows]));
  }
}
