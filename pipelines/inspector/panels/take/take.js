// The selection as a command, as YAML, or written into a folder.

import { $, copy, dialogHead, footage, get, h, percent, plural, post, toast } from "./dom.js";
import { asked, state } from "./state.js";

export const keys = [["t", "take the selection away: command, YAML, run", () => open()]];
export const primary = true; // its button stands out
let dialog = null;
let name = null;

export function mount(root) {
  dialog = root;
}

export async function open() {
  name = name || suggestion();
  const field = h("input", { id: "out", value: name, "aria-label": "folder to make", spellcheck: "false", onchange: () => ((name = field.value.trim()), open()) });
  let made;
  try {
    made = await post("/api/take", { filters: asked(), name });
  } catch (error) {
    if (dialog.open) return toast(error.message, true);
    dialog.replaceChildren(dialogHead(dialog, "Take away"), h("p", { class: "wrong" }, error.message));
    return dialog.showModal();
  }
  const progress = h("div", { id: "progress" });
  dialog.replaceChildren(
    dialogHead(dialog, "Take away"),
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
    else progress.replaceChildren(h("p", { class: "wrong" }, now.state === "stopped" ? "Stopped. The same folder and filters resume from there." : now.error || now.state));
    if (now.state !== "running") return;
    await new Promise((done) => setTimeout(done, 300));
  }
}
