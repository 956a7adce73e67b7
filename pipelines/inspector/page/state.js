// What the page shows: the filters, the part of the grid, and the last answer of the server. One request is under way at a
// time and only the newest wish waits, so that a drag never queues.

import { post, toast } from "./dom.js";

export const state = {
  about: null,
  filters: [], // {kind, column, amount, sql, off}
  page: { show: "kept", only: null, sort: "id", descending: false, seed: 1, offset: 0, limit: 48, find: {} },
  view: null,
  visible: new Set(), // scores whose histogram is in sight
  kept: {}, // score -> counts of kept clips, as of `stamps`
  stamps: {},
  busy: false, // an answer is to come
  near: null, // index of a filter whose threshold is looked at from both sides
  rows: [], // of the clips that the grid shows, in its order
};

// What happened, to every panel's `draw`: "filters", "view", "histograms", "near", or {open: id}, {labelled: id, answer}.
const listeners = [];
export const listen = (listener) => listeners.push(listener);
export const tell = (event) => listeners.forEach((listener) => listener(event));

export const active = () => state.filters.filter((f) => !f.off);
export const plain = (f) => (f.kind === "where" ? { kind: f.kind, sql: f.sql } : { kind: f.kind, column: f.column, amount: f.amount });
export const asked = () => active().map(plain);

const past = [];
const future = [];
let version = 0;

// The step of the funnel that belongs to a filter, or undefined while it is off.
export function stepOf(filter) {
  const index = active().indexOf(filter);
  return index < 0 ? undefined : state.view?.funnel[index];
}

export function remember() {
  past.push(JSON.stringify(state.filters));
  if (past.length > 100) past.shift();
  future.length = 0;
}

export function undo(back = true) {
  const [from, to] = back ? [past, future] : [future, past];
  if (!from.length) return toast(back ? "Nothing to undo" : "Nothing to redo");
  to.push(JSON.stringify(state.filters));
  state.filters = JSON.parse(from.pop());
  changed();
}

// Filters are not what they were: ask for everything anew.
export function changed({ keepPage = false } = {}) {
  version += 1;
  if (!keepPage) state.page.offset = 0;
  if (state.page.only !== null && state.page.only >= active().length) state.page.only = null;
  if (state.near !== null && state.near >= active().length) state.near = null;
  const hash = JSON.stringify(state.filters);
  history.replaceState(null, "", hash === JSON.stringify(state.about.filters) ? "#" : `#${encodeURIComponent(hash)}`);
  tell("filters");
  wish({ grid: true });
}

let running = false;
let waiting = null;

// grid: the grid is wanted too. Histograms are always those in sight.
export function wish({ grid = false } = {}) {
  waiting = { grid: grid || Boolean(waiting?.grid) };
  if (!running) run();
}

async function run() {
  running = state.busy = true;
  while (waiting) {
    const wanted = waiting;
    waiting = null;
    const now = version;
    const histograms = [...state.visible].filter((name) => state.stamps[name] !== now);
    const body = { filters: asked(), histograms };
    if (wanted.grid) body.page = state.page;
    try {
      const view = await post("/api/view", body);
      if (!view.grid && state.view) view.grid = state.view.grid;
      state.view = view;
      for (const [name, counts] of Object.entries(view.histograms)) {
        state.kept[name] = counts;
        state.stamps[name] = now;
      }
      tell(wanted.grid ? "view" : "histograms");
    } catch (error) {
      toast(error.message, true);
    }
  }
  running = state.busy = false;
}

// Another part of the clips.
export function ask(change) {
  Object.assign(state.page, { offset: 0 }, change);
  state.near = null;
  tell("filters");
  wish({ grid: true });
}

export const like = (id) => ask({ find: { ...state.page.find, like: id, sentence: "" }, sort: "like", show: "all", only: null });

export function restore() {
  try {
    const found = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    if (Array.isArray(found)) return found.filter((f) => typeof f.kind === "string");
  } catch {
    // no filters in the address
  }
  return null;
}
