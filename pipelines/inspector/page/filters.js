// Filters: as text, which score they are on, and how they are put on and taken off.

import { short } from "./dom.js";
import { changed, remember, state } from "./state.js";

// A clip's length is filtered by a condition, as the table has only its start and its end.
export const LENGTH = /^\s*end_time\s*-\s*start_time\s*(>=|<=)\s*(\d+\.?\d*|\.\d+)\s*$/i;
export const lengthSql = (low, value) => `end_time - start_time ${low ? ">=" : "<="} ${value}`;

export function sign(filter, step) {
  if (filter.kind === "where") return filter.sql.replace(/^end_time - start_time (>=|<=) /i, (_, sign) => `length ${sign === ">=" ? "≥" : "≤"} `);
  const at = step && step.threshold !== null ? step.threshold : filter.amount;
  return `${filter.column} ${keepsHigh(filter) ? "≥" : "≤"} ${filter.kind.startsWith("drop") && !step ? "?" : short(at)}`;
}

// What is true of a clip that a filter drops.
export function unmet(filter, step, isNull) {
  if (isNull) return `${filter.column || "where"} is null`;
  const text = sign(filter, step);
  if (filter.kind === "where" && !text.startsWith("length ")) return `not (${text})`;
  return text.replace(" ≥ ", " < ").replace(" ≤ ", " > ");
}

// The score whose histogram shows it, or null.
export function columnOf(filter) {
  if (filter.kind !== "where") return filter.column;
  return LENGTH.test(filter.sql) ? "seconds" : null;
}

export const keepsHigh = (filter) => (filter.kind === "where" ? LENGTH.exec(filter.sql)?.[1] === ">=" : filter.kind === "min" || filter.kind === "drop_bottom");

// A threshold on a score, not yet among the filters.
export const threshold = (column, low, amount) => (column === "seconds" ? { kind: "where", sql: lengthSql(low, amount) } : { kind: low ? "min" : "max", column, amount });

export function remove(filter) {
  remember();
  state.filters = state.filters.filter((f) => f !== filter);
  state.page.only = state.near = null;
  changed();
}
