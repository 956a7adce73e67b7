// How labels and filters agree, and the threshold on each score that agrees best.

import { dialogHead, h, percent, plural, post, short, toast } from "./dom.js";
import { sign, threshold } from "./filters.js";
import { active, asked, changed, remember, state, stepOf } from "./state.js";

export const keys = [["l", "labels, and how filters agree with them", () => open()]];
let dialog = null;

export function mount(root) {
  dialog = root;
}

export async function open() {
  let found;
  try {
    found = await post("/api/agreement", { filters: asked() });
  } catch (error) {
    return toast(error.message, true);
  }
  const cells = (m) => [percent(m.precision), percent(m.recall), m.f1 === null ? "–" : m.f1.toFixed(2), m.kept_good, m.kept_bad, m.dropped_good, m.dropped_bad].map((v) => h("td", { class: "number" }, v));
  const heads = (first) => h("tr", {}, [first, "precision", "recall", "F1", "good kept", "bad kept", "good dropped", "bad dropped", ""].map((t) => h("th", {}, t)));
  const rows = found.filters.map((m) => h("tr", {}, h("td", {}, sign(active()[m.index], stepOf(active()[m.index]))), cells(m), h("td")));
  const best = found.scores.slice(0, 12).map((m) =>
    h("tr", {}, h("td", {}, `${m.column} ${m.sign === ">=" ? "≥" : "≤"} ${short(m.threshold)}`), cells(m), h("td", {}, h("button", { class: "quiet", onclick: () => use(m) }, "use"))),
  );
  dialog.replaceChildren(
    dialogHead(dialog, "Labels and filters"),
    h("p", {}, `${found.good} good, ${found.bad} bad. Precision: of the labelled clips that are kept, the share that is good. Recall: of the good clips, the share that is kept.`),
    found.all
      ? h("table", { id: "agreement" }, heads("filter"), h("tr", { class: "all" }, h("td", {}, "the whole selection"), cells(found.all), h("td")), rows)
      : h("p", { class: "hint" }, "Nothing is labelled yet: g and b label the clip under the mouse or the one that is open. Labels are kept in labels.jsonl in the dataset, and --where \"label = 'good'\" selects by them."),
    best.length ? h("h3", {}, "The threshold on each score that agrees best (highest F1)") : "",
    best.length ? h("table", {}, heads("threshold"), best) : "",
  );
  if (!dialog.open) dialog.showModal();
}

function use(found) {
  remember();
  const chosen = threshold(found.column, found.sign === ">=", found.threshold);
  const kinds = { min: ["min", "drop_bottom"], max: ["max", "drop_top"] }[chosen.kind] || [];
  const old = state.filters.find((f) => f.column === found.column && kinds.includes(f.kind));
  if (old) Object.assign(old, chosen, { off: false });
  else state.filters.push(chosen);
  changed();
  dialog.close();
}
