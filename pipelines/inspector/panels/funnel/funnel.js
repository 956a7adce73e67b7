// The filters in order, and what each leaves.

import { count, footage, h, plural } from "./dom.js";
import { remove, sign } from "./filters.js";
import { active, ask, changed, remember, state, stepOf, tell, undo } from "./state.js";

export const keys = [
  ["n", "just below and just above a threshold; again: the next filter's", () => nextNear()],
  ["u U", "undo, redo a change of the filters", (key) => undo(key === "u")],
];
let root = null;
let shape = "";

export function mount(element) {
  root = element;
  shape = "";
}

// Rows are made anew only when a filter comes, goes or is answered, so that a control keeps the focus.
export function draw(event) {
  if (!state.view || typeof event !== "string" || event === "histograms" || event === "near") return;
  const next = JSON.stringify([state.filters, state.view.funnel, state.page.only]);
  if (next !== shape) root.replaceChildren(...funnel());
  shape = next;
}

function funnel() {
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
  return [
    h("h2", {}, "Funnel", h("span", { class: "spacer" }), h("button", { class: "quiet", onclick: reset, title: "the selection that was recorded with the dataset" }, "reset"), h("button", { class: "quiet", onclick: clear }, "clear")),
    h("ol", { class: "funnel" }, rows),
    ...(state.filters.length ? [] : [h("p", { class: "hint" }, "No filters: everything is kept. Drag the edge of a histogram to make one.")]),
    ...(about.overview.made ? [made(about.overview.made)] : []),
  ];
}

function made(found) {
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

const only = (index) => ask({ only: state.page.only === index ? null : index });

function near(index) {
  state.near = state.near === index ? null : index;
  tell("near");
}

function nextNear() {
  const all = active().map((f, i) => [f, i]).filter(([f]) => stepOf(f)?.column && stepOf(f).threshold !== null);
  if (!all.length) return;
  const at = all.findIndex(([, i]) => i === state.near);
  if (state.near === null) near(all[0][1]);
  else if (at + 1 < all.length) near(all[at + 1][1]);
  else near(state.near);
}

function toggle(filter) {
  remember();
  filter.off = !filter.off;
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
