// The head line, the funnel, and what the job did.

import { clock, count, footage, h, percent, plural, short } from "./dom.js";
import { active, changed, remember, state, stepOf, tell, wish } from "./state.js";

export function sign(filter, step) {
  if (filter.kind === "where") return filter.sql.replace(/^end_time - start_time (>=|<=) /i, (_, sign) => `length ${sign === ">=" ? "≥" : "≤"} `);
  const high = filter.kind === "min" || filter.kind === "drop_bottom";
  const at = step && step.threshold !== null ? step.threshold : filter.amount;
  return `${filter.column} ${high ? "≥" : "≤"} ${filter.kind.startsWith("drop") && !step ? "?" : short(at)}`;
}

// What is true of a clip that a filter drops.
export function unmet(filter, step, isNull) {
  if (isNull) return `${filter.column || "where"} is null`;
  const text = sign(filter, step);
  if (filter.kind === "where" && !text.startsWith("length ")) return `not (${text})`;
  return text.replace(" ≥ ", " < ").replace(" ≤ ", " > ");
}

export function headline() {
  const { about, view } = state;
  if (!view) return [];
  const share = about.hours ? view.hours / about.hours : 0;
  return [
    h("span", { class: "figure" }, h("b", { id: "hours-in" }, footage(about.hours)), h("i", {}, `in · ${plural(about.clips, "clip")}`)),
    h("span", { class: "arrow", "aria-hidden": "true" }, "→"),
    h(
      "span",
      { class: "figure kept" },
      h("b", { id: "hours-kept" }, footage(view.hours)),
      h("i", {}, "kept · ", h("span", { id: "clips-kept", data: { count: view.clips } }, plural(view.clips, "clip"))),
    ),
    h("span", { class: "share" }, h("span", { class: "gauge" }, h("span", { style: { width: percent(share, 2) } })), percent(share)),
  ];
}

export function funnel() {
  const { about, view } = state;
  const all = about.clips || 1;
  let before = about.clips;
  const rows = [
    h(
      "li",
      { class: "step first" },
      h("span", { class: "track" }, h("span", { class: "left", style: { width: "100%" } })),
      h("span", { class: "what" }, "all clips"),
      h("span", { class: "left-over" }, count(about.clips), h("i", {}, footage(about.hours))),
    ),
  ];
  state.filters.forEach((filter, place) => {
    const step = stepOf(filter);
    const index = active().indexOf(filter);
    const left = step ? step.remaining : before;
    const notes = [];
    if (filter.off) notes.push("off");
    if (step?.error) notes.push(`not applied: ${step.error}`);
    else if (step) {
      notes.push(`${count(step.failing)} fail`);
      if (step.null) notes.push(`${count(step.null)} null`);
      if (filter.kind.startsWith("drop")) notes.push(`${filter.kind === "drop_bottom" ? "lowest" : "highest"} ${filter.amount}%`);
    }
    const width = (n) => ({ width: `${(100 * n) / all}%` });
    rows.push(
      h(
        "li",
        { class: `step${filter.off ? " off" : ""}${step?.error ? " wrong" : ""}${state.page.only === index && index >= 0 ? " chosen" : ""}`, data: { index } },
        h("span", { class: "track" }, h("span", { class: "lost", style: width(before) }), h("span", { class: "left", style: width(left) })),
        h(
          "button",
          { class: "what", title: "show the clips that this filter drops", disabled: filter.off || Boolean(step?.error), onclick: () => only(index) },
          sign(filter, step),
          h("i", {}, notes.join(" · ")),
        ),
        h("span", { class: "left-over" }, step ? count(left) : "", h("i", {}, step ? footage(step.remaining_hours) : "")),
        h(
          "span",
          { class: "tools" },
          step?.column && step.threshold !== null && h("button", { title: "just below and just above the threshold (n)", onclick: () => near(index) }, "⇌"),
          place > 0 && h("button", { title: "earlier", onclick: () => move(place, -1) }, "↑"),
          h("button", { title: filter.off ? "on" : "off", onclick: () => toggle(filter) }, filter.off ? "○" : "●"),
          h("button", { title: "remove", onclick: () => remove(filter) }, "×"),
        ),
      ),
    );
    before = left;
  });
  const empty = state.filters.length
    ? null
    : h("p", { class: "hint" }, "No filters: everything is kept. Drag the edge of a histogram to make one.");
  return h(
    "section",
    { id: "funnel", "aria-label": "Funnel" },
    h("h2", {}, "Funnel", h("span", { class: "spacer" }), h("button", { class: "quiet", onclick: reset, title: "the selection that was recorded with the dataset" }, "reset"), h("button", { class: "quiet", onclick: clear }, "clear")),
    h("ol", { class: "funnel" }, rows),
    empty,
    made(),
  );
}

function made() {
  const found = state.about.overview.made;
  if (!found) return null;
  const line = `This curated dataset was selected from ${plural(found.clips, "clip")} (${footage(found.hours)}); ${count(found.copied)} copied, ${count(found.transcoded)} transcoded.`;
  const step = (row) =>
    h("tr", {}, h("td", {}, row.filter), h("td", {}, count(row.alone.failing)), h("td", {}, count(row.alone.null)), h("td", {}, count(row.in_order.remaining)));
  return h(
    "details",
    { class: "made", open: true },
    h("summary", {}, line),
    h("table", {}, h("tr", {}, ["its filter", "fail", "null", "left"].map((t) => h("th", {}, t))), found.funnel.map(step)),
  );
}

export function facts() {
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
  return h("section", { id: "facts", "aria-label": "What the job did" }, cards);
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

export function only(index) {
  state.page.only = state.page.only === index ? null : index;
  state.page.offset = 0;
  state.near = null;
  tell("filters");
  wish({ grid: true });
}

export function near(index) {
  state.near = state.near === index ? null : index;
  tell("near");
}

function toggle(filter) {
  remember();
  filter.off = !filter.off;
  state.page.only = state.near = null;
  changed();
}

export function remove(filter) {
  remember();
  state.filters = state.filters.filter((f) => f !== filter);
  state.page.only = state.near = null;
  changed();
}

function move(place, by) {
  remember();
  const [filter] = state.filters.splice(place, 1);
  state.filters.splice(place + by, 0, filter);
  state.page.only = state.near = null;
  changed();
}

function reset() {
  remember();
  state.filters = state.about.filters.map((f) => ({ ...f }));
  changed();
}

function clear() {
  remember();
  state.filters = [];
  changed();
}
