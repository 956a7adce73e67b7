// Labels on their way to the server, in the order in which they were given: each waits for the one before.

import { post } from "./dom.js";
import { active, changed, tell } from "./state.js";

let last = Promise.resolve();
export const answered = () => last; // until the server has answered every label

// `body` is called when its turn comes, after the answer to the label before it. Resolves to the stored label.
export function label(clip, body) {
  const mine = last.then(async () => {
    const answer = await post("/api/label", { clip, ...body() }, { signal: AbortSignal.timeout(20000) });
    tell({ labelled: clip, answer });
    if (active().some((f) => f.kind === "where" && /label/i.test(f.sql))) changed({ keepPage: true });
    return answer;
  });
  last = mine.catch(() => {});
  return mine;
}
