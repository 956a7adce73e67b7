// What the job did: videos, failures by reason, time by stage, footage by kind.

import { clock, count, footage, h, percent } from "./dom.js";
import { tell } from "./state.js";

export function mount(root, state) {
  const { overview: o } = state.about;
  const statuses = Object.entries(o.videos).map(([name, n]) => `${count(n)} ${name}`);
  const cards = [];
  if (statuses.length || o.footage !== null)
    cards.push(card("Videos", h("p", {}, statuses.join(", "), o.footage === null ? "" : ` · ${footage(o.footage)} usable`), o.warnings.map(([text, n]) => h("p", { class: "hint" }, `${n} × ${text}`))));
  if (o.failures.length) cards.push(card("Failures by reason", h("ul", { class: "bars" }, bars(o.failures, (f) => f.count, (f) => `${f.where}: ${f.reason}`, (f) => count(f.count), "bad"))));
  else cards.push(card("Failures by reason", h("p", { class: "hint" }, "none")));
  if (o.seconds.length)
    cards.push(card("Time by stage", h("ul", { class: "bars" }, bars(o.seconds, (r) => r[1], (r) => r[0], (r) => `${clock(r[1])} · ${percent(r[2])}`, "time"))));
  for (const kind of o.kinds)
    cards.push(card(`Footage by ${kind.title}`, h("ul", { class: "bars" }, bars(kind.rows, (r) => r.hours, (r) => r.kind, (r) => `${footage(r.hours)} · ${count(r.count)}`, ""))));
  root.replaceChildren(...cards);
}

const card = (title, ...body) => h("div", { class: "card" }, h("h3", {}, title), body);

function bars(rows, size, name, value, kind) {
  const most = Math.max(...rows.map(size), 1e-12);
  return rows.map((row) =>
    h(
      "li",
      { class: row.clip ? `${kind} link` : kind, title: row.path || row.reason || "", onclick: row.clip && (() => tell({ open: row.clip })) },
      h("span", { class: "fill", style: { width: `${(100 * size(row)) / most}%` } }),
      h("span", { class: "name" }, name(row)),
      h("span", { class: "value" }, value(row)),
    ),
  );
}
