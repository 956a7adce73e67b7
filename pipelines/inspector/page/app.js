// The page: read what there is, let every panel draw it, and follow the dataset while a job writes to it.

import { $, footage, get, h, percent, plural, toast } from "./dom.js";
import { help, listenToKeys } from "./keys.js";
import { changed, listen, restore, state } from "./state.js";

const bar = $("#bar");
const message = $("#message");
const panes = $("#panes");
const stored = localStorage.getItem("winnow-theme");
if (stored) document.documentElement.dataset.theme = stored;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const own = [
  ["m", "light or dark", () => theme()],
  ["R", "read the dataset again", () => load()],
];
let panels = [];
const ready = modules().then((found) => {
  panels = found;
  listenToKeys(panels, own);
});

// The server put an element for each panel into the document: its script is a module of that name.
async function modules() {
  const roots = [...document.querySelectorAll("[data-panel]")];
  const found = await Promise.all(roots.map((root) => import(`/page/${root.dataset.panel}.js`).catch((error) => broken(root, error))));
  return roots.map((root, i) => ({ root, module: found[i] })).filter(({ module }) => module);
}

// A panel that fails costs itself, and not the page.
function broken(root, error) {
  console.error(error);
  root.replaceChildren(h("p", { class: "wrong" }, `The panel ${root.dataset.panel} failed: ${error.message}`));
}

async function guarded(panel, run) {
  try {
    await run();
  } catch (error) {
    broken(panel.root, error);
  }
}

async function load() {
  let about = await get("/api/start");
  for (let waited = 0; about.state === "loading"; waited += 0.15) {
    if (waited > 1 && !message.hidden) message.textContent = `Reading the clips … ${Math.round(waited)} s`;
    await wait(150);
    about = await get("/api/start");
  }
  await ready;
  bar.replaceChildren();
  document.title = `${about.name || "Winnow"} · Winnow`;
  if (about.state === "wrong") return wrong("This dataset cannot be shown", about.wrong);
  state.about = about;
  if (!about.clips) return empty(about);
  state.filters = restore() || (state.view && state.filters) || about.filters.map((f) => ({ ...f }));
  state.view = null;
  state.stamps = {};
  head();
  show(() => true);
  message.hidden = true;
  changed();
}

// Mount the panels that are wanted, and hide the others.
function show(wanted) {
  panes.hidden = false;
  panes.className = wanted === withoutClips ? "" : "panes";
  for (const panel of panels) {
    panel.root.hidden = !wanted(panel.root);
    if (wanted(panel.root)) mount(panel);
  }
}

// A panel that fetches before it is there misses events: once it is there, it draws the view that came meanwhile.
async function mount(panel) {
  panel.mounted = false;
  await guarded(panel, async () => {
    await panel.module.mount(panel.root, state);
    panel.mounted = true;
    if (state.view && panel.module.draw) panel.module.draw("view");
  });
}

const withoutClips = (root) => "withoutClips" in root.dataset;

function head() {
  const { about } = state;
  const dialogs = panels.filter(({ root }) => root.dataset.button);
  const opens = ({ root, module }) => {
    const key = module.keys?.find(([, , run]) => run)?.[0];
    const title = `${root.getAttribute("aria-label")}${key ? ` (${key})` : ""}`;
    return h("button", { id: `${root.id}-button`, class: module.primary ? "primary" : null, title, onclick: () => (module.open ? module.open() : root.showModal()) }, root.dataset.button);
  };
  bar.replaceChildren(
    h("span", { class: "brand", title: about.path }, h("b", {}, "winnow"), h("span", { id: "name" }, about.name)),
    h("span", { id: "headline" }),
    h("span", { class: "spacer" }),
    h("button", { id: "news", hidden: true, onclick: load }, "The dataset has changed · refresh"),
    ...dialogs.map(opens),
    h("button", { title: "light or dark (m)", "aria-label": "light or dark", onclick: theme }, "◐"),
    h("button", { title: "keyboard (?)", "aria-label": "keyboard", onclick: help }, "?"),
  );
}

function headline() {
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

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("winnow-theme", next);
}

function wrong(title, text) {
  panes.hidden = true;
  message.hidden = false;
  message.replaceChildren(h("h1", {}, title), h("p", { id: "wrong" }, text), h("p", { class: "hint" }, "The page looks again by itself."), h("button", { onclick: load }, "Look again"));
}

function empty(about) {
  wrong("There are no clips yet", about.empty || "No clip was found in these videos.");
  show(withoutClips);
}

listen((event) => {
  if (event === "view") $("#headline").replaceChildren(...headline());
  for (const panel of panels) if (panel.mounted && panel.module.draw) guarded(panel, () => panel.module.draw(event));
});

async function follow() {
  for (;;) {
    await wait(4000);
    if (document.hidden) continue;
    try {
      const now = await get("/api/changes");
      const news = $("#news");
      if (now.changed && (!state.about?.clips || now.state === "wrong")) await load();
      else if (news) news.hidden = !now.changed && now.version === state.about?.version;
    } catch {
      toast("The server does not answer: start `winnow inspect` again", true);
    }
  }
}

load().catch((error) => wrong("This dataset cannot be shown", error.message));
follow();
