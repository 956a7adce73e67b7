// Taking the selection away, and how labels agree with it.

import { $, copy, footage, get, h, percent, plural, post, short, toast } from "./dom.js";
import { sign } from "./overview.js";
import { active, asked, changed, remember, state, stepOf } from "./state.js";

const dialog = $("#take");
const labels = $("#labels");
let name = null;

const head = (box, title) => h("header", {}, h("h2", {}, title), h("span", { class: "spacer" }), h("button", { title: "close (Esc)", onclick: () => box.close() }, "×"));

export async function take() {
  name = name || suggestion();
  const field = h("input", { id: "out", value: name, "aria-label": "folder to make", spellcheck: "false", onchange: () => ((name = field.value.trim()), take()) });
  let made;
  try {
    made = await post("/api/take", { filters: asked(), name });
  } catch (error) {
    if (dialog.open) return toast(error.message, true);
    dialog.replaceChildren(head(dialog, "Take away"), h("p", { class: "wrong" }, error.message));
    return dialog.showModal();
  }
  const progress = h("div", { id: "progress" });
  dialog.replaceChildren(
    head(dialog, "Take away"),
    h("p", {}, `${plural(state.view.clips, "clip")}, ${footage(state.view.hours)}, of ${plural(state.about.clips, "clip")}.`),
    made.left_out.length ? h("p", { class: "wrong" }, `Without ${plural(made.left_out.length, "filter")} that cannot be applied: ${made.left_out.join("; ")}`) : "",
    h("h3", {}, "As a command", h("span", { class: "spacer" }), h("button", { id: "copy-command", autofocus: true, onclick: () => copy(made.command) }, "Copy")),
    h("pre", { id: "command" }, made.command),
    h("h3", {}, "As YAML, for a config", h("span", { class: "spacer" }), h("button", { onclick: () => copy(made.yaml) }, "Copy")),
    h("pre", { id: "yaml" }, made.yaml),
    h("h3", {}, "Write it here"),
    h("p", { class: "run" }, h("label", {}, "folder beside the dataset ", field), h("button", { id: "run", class: "primary", onclick: () => run(progress) }, "Run select")),
    progress,
  );
  if (!dialog.open) dialog.showModal();
  const now = await get("/api/select");
  if (now.state === "running") watch(progress);
}

const suggestion = () => (state.about.kind === "curated" ? "curated-2" : "selected");

async function run(progress) {
  try {
    await post("/api/select", { filters: asked(), name: $("#out").value.trim() });
    watch(progress);
  } catch (error) {
    progress.replaceChildren(h("p", { class: "wrong" }, error.message));
  }
}

async function watch(progress) {
  while (dialog.open) {
    const now = await get("/api/select");
    const share = now.total ? now.done / now.total : 0;
    if (now.state === "running")
      progress.replaceChildren(h("div", { class: "gauge wide" }, h("span", { style: { width: percent(share, 1) } })), h("p", {}, now.total ? `cut ${now.done} of ${now.total} clips, ${now.failed} failed` : "selecting …", " ", h("button", { onclick: () => post("/api/select/stop") }, "Stop")));
    else if (now.state === "done") progress.replaceChildren(h("p", { class: "done" }, `${now.already ? "Was there already" : "Done"}: ${plural(now.clips, "clip")}, ${footage(now.hours)}, ${(now.bytes / 1e6).toFixed(1)} MB in ${now.out}`, now.failed ? `; ${now.failed} could not be cut` : ""));
    else progress.replaceChildren(h("p", { class: "wrong" }, now.state === "stopped" ? "Stopped. The same folder and filters go on from there." : now.error || now.state));
    if (now.state !== "running") return;
    await new Promise((done) => setTimeout(done, 300));
  }
}

export async function agreement() {
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
  labels.replaceChildren(
    head(labels, "Labels and filters"),
    h("p", {}, `${found.good} good, ${found.bad} bad. Precision: of the labelled clips that are kept, the share that is good. Recall: of the good clips, the share that is kept.`),
    found.all
      ? h("table", { id: "agreement" }, heads("filter"), h("tr", { class: "all" }, h("td", {}, "the whole selection"), cells(found.all), h("td")), rows)
      : h("p", { class: "hint" }, "Nothing is labelled yet: g and b label the clip under the mouse or the one that is open. Labels are kept in labels.jsonl in the dataset, and --where \"label = 'good'\" selects by them."),
    best.length ? h("h3", {}, "The threshold on each score that agrees best (highest F1)") : "",
    best.length ? h("table", {}, heads("threshold"), best) : "",
  );
  if (!labels.open) labels.showModal();
}

function use(found) {
  remember();
  const low = found.sign === ">=";
  if (found.column === "seconds") state.filters.push({ kind: "where", sql: `end_time - start_time ${found.sign} ${found.threshold}` });
  else {
    const kind = low ? "min" : "max";
    const old = state.filters.find((f) => f.column === found.column && (low ? ["min", "drop_bottom"] : ["max", "drop_top"]).includes(f.kind));
    if (old) Object.assign(old, { kind, amount: found.threshold, off: false });
    else state.filters.push({ kind, column: found.column, amount: found.threshold });
  }
  changed();
  labels.close();
}
