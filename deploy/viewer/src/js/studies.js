// The list of studies. Rows are changed in place, so that focus and reading position stay.
import { byId, make, setText } from "./dom.js";
import { clock, percent } from "./format.js";
import { titleOf } from "./titles.js";

export const ACTIVE = new Set(["queued", "running"]);
const WORDS = { queued: "waiting", running: "running", done: "done", failed: "failed" };
export const DO_NOT_USE = "do not use";

export class Studies {
  #rows = new Map();
  #states = new Map();
  #open;

  /** `onOpen` is called with a job's id, and whether it was opened by keyboard. */
  constructor(onOpen) {
    this.#open = onOpen;
  }

  /** Show the jobs, newest first, and mark the opened one; `more` says that the server has others. */
  show(jobs, opened, more) {
    const list = byId("studies");
    const known = new Set(jobs.map((job) => job.id));
    for (const [id, row] of this.#rows) {
      if (!known.has(id)) {
        row.item.remove();
        this.#rows.delete(id);
      }
    }
    jobs.forEach((job, place) => {
      const row = this.#rows.get(job.id) ?? this.#add(job.id);
      this.#update(row, job, job.id === opened);
      if (list.children[place] !== row.item) list.insertBefore(row.item, list.children[place] ?? null);
    });
    byId("no-studies").hidden = jobs.length > 0;
    byId("more-studies").hidden = !more;
    this.#announce(jobs);
  }

  #add(id) {
    const row = {
      name: make("span", { class: "study" }),
      state: make("span", { class: "state" }),
      flag: make("span", { class: "flag", hidden: true }, DO_NOT_USE),
      about: make("span", { class: "about" }),
      bar: make("progress", { max: 1, hidden: true }),
    };
    row.button = make(
      "button",
      { type: "button", on: { click: (event) => this.#open(id, event.detail === 0) } },
      row.name,
      row.state,
      row.flag,
      row.about,
      row.bar,
    );
    row.item = make("li", {}, row.button);
    this.#rows.set(id, row);
    return row;
  }

  #update(row, job, opened) {
    setText(row.name, titleOf(job));
    setText(row.state, WORDS[job.state] ?? job.state);
    row.state.className = `state ${job.flags.length ? "flagged" : job.state}`;
    row.flag.hidden = job.flags.length === 0;
    const done =
      job.state === "running"
        ? `${job.stage || "running"}, ${percent(job.progress ?? 0)}`
        : clock(job.finished ?? job.accepted);
    const kept = job.state === "failed" && job.results ? "has results" : "";
    setText(row.about, [job.model, done, kept].filter(Boolean).join(" · "));
    row.bar.hidden = job.state !== "running";
    row.bar.value = job.progress ?? 0;
    row.bar.setAttribute("aria-label", `progress of ${titleOf(job)}`);
    if (opened) row.button.setAttribute("aria-current", "true");
    else row.button.removeAttribute("aria-current");
  }

  /** Say what changed since the last time; the first list is not news. */
  #announce(jobs) {
    const news = jobs
      .filter((job) => this.#states.size && this.#states.get(job.id) !== job.state)
      .map((job) => {
        const state = WORDS[job.state] ?? job.state;
        return `${titleOf(job)}: ${job.flags.length ? `${state}, ${DO_NOT_USE}` : state}`;
      });
    for (const job of jobs) this.#states.set(job.id, job.state);
    if (news.length) setText(byId("news"), news.slice(0, 3).join("; "));
  }
}
