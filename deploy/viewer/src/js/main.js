// The page: what is opened stands in the address, the server is asked again and again, everything else follows.
import * as api from "./api.js";
import { askDelete, askToken, connectDialogs, showCard } from "./dialogs.js";
import { byId, fill, make, setText } from "./dom.js";
import { clock } from "./format.js";
import { Result } from "./result.js";
import { showHelp } from "./shortcuts.js";
import { ACTIVE, DO_NOT_USE, Studies } from "./studies.js";
import { titleOf } from "./titles.js";
import { Upload } from "./upload.js";

const SOON_MS = 1000;
const LATER_MS = 10000;
const MOST = 200;

const result = new Result();
const studies = new Studies(choose);
const upload = new Upload(choose);
let models = [];
let jobs = [];
let shown = "";
let current = null;
let asked = {};
let timer = 0;
let failures = 0;
let turns = 0;
let lastAnswer = "";

const address = () => new URLSearchParams(location.hash.slice(1));

/** Open a study, or none; the address changes and the page follows it. */
function open(id, other = "") {
  const next = new URLSearchParams();
  if (id) next.set("job", id);
  if (id && other) next.set("with", other);
  if (`#${next}` === location.hash) follow();
  else location.hash = next.toString();
}

/** Open a study because somebody asked for it. */
function choose(id, byKeyboard = false) {
  asked = { id, byKeyboard };
  open(id);
}

/**
 * Go to the study that was asked for, once it is there; on a narrow screen it lies below the list.
 * Who asked by keyboard goes on from its heading, not through the rest of the list, but stays where they went meanwhile.
 */
function arrive({ byKeyboard }) {
  if (byKeyboard && byId("studies").contains(document.activeElement)) byId("study-title").focus();
  if (byId("result").offsetTop > innerHeight / 2) byId("result").scrollIntoView();
}

/** Ask the server once and show what it says; then again after a pause. Of two at a time the later one counts. */
async function follow() {
  clearTimeout(timer);
  const turn = (turns += 1);
  let pause = LATER_MS;
  try {
    if (models.length === 0) await loadModels();
    const found = await api.jobs(byId("state-filter").value, MOST);
    const [opened, other] = [await find(found, "job"), await find(found, "with")];
    if (turn !== turns) return;
    jobs = found;
    studies.show(jobs, opened?.id, jobs.length === MOST);
    showOpened(opened, opened && other);
    answered();
    if (!document.hidden && [...jobs, opened].some((job) => job && ACTIVE.has(job.state))) pause = SOON_MS;
  } catch (error) {
    if (turn !== turns) return;
    pause = unanswered(error);
  }
  timer = setTimeout(follow, pause);
}

async function loadModels() {
  models = await api.models();
  upload.showModels(models);
}

async function find(found, key) {
  const id = address().get(key);
  return id ? (found.find((job) => job.id === id) ?? (await api.job(id))) : null;
}

/** Load anew only what changed: another study, another state, another one to compare with. */
function showOpened(job, other) {
  current = job;
  const key = job ? [job.id, job.state, other?.id].join(" ") : "";
  if (job) offerComparisons(job, other);
  if (key !== shown) {
    shown = key;
    if (job) result.show(job, other, models);
    else result.close();
  } else if (job) result.update(job);
  if (!job || job.id !== asked.id) return;
  arrive(asked);
  asked = {};
}

function offerComparisons(job, other) {
  const choices = jobs.filter((entry) => entry.results && entry.id !== job.id);
  const options = choices.map((entry) => {
    const said = [titleOf(entry), entry.model, clock(entry.finished), entry.flags.length && DO_NOT_USE];
    return [entry.id, said.filter(Boolean).join(" · ")];
  });
  const select = byId("compare-with");
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    fill(
      select,
      make("option", { value: "" }, "nothing"),
      ...options.map(([value, text]) => make("option", { value }, text)),
    );
  }
  select.value = other?.id ?? "";
}

function answered() {
  failures = 0;
  lastAnswer = clock(Date.now() / 1000);
  byId("connection").hidden = true;
}

/** Say what is wrong; returns the pause before the next try, longer each time. */
function unanswered(error) {
  failures += 1;
  const gone = error.status === 404;
  const pause = error.wait ? 1000 * error.wait : gone ? LATER_MS : Math.min(30000, 1000 * 2 ** failures);
  if (error.status === 0) models = []; // it may come back with others
  if (gone) {
    shown = "";
    result.close();
    history.replaceState(null, "", location.pathname);
  }
  const since = error.status === 0 && lastAnswer ? ` It last did at ${lastAnswer}.` : "";
  const again = error.status === 401 || gone ? "" : ` Trying again every ${Math.round(pause / 1000)} s.`;
  setText(byId("connection"), `${error.message}${since}${again}`);
  byId("connection").hidden = false;
  return error.status === 401 ? 2 ** 31 - 1 : pause;
}

function connect() {
  window.addEventListener("hashchange", follow);
  document.addEventListener("visibilitychange", () => document.hidden || follow());
  byId("state-filter").addEventListener("change", follow);
  byId("compare-with").addEventListener("change", (event) => open(address().get("job"), event.target.value));
  byId("show-card").addEventListener("click", () => byId("model").value && showCard(byId("model").value));
  byId("model").addEventListener("change", (event) => {
    const model = models.find((entry) => entry.name === event.target.value);
    byId("which-series").hidden = !model || model.chooses_series;
    const takes = model?.channels?.length > 1 ? `takes ${model.channels.join(", ")}` : "";
    setText(byId("intended"), [model?.task, takes, model?.intended_use].filter(Boolean).join("; "));
  });
  byId("delete-button").addEventListener("click", deleteOpened);
}

async function deleteOpened() {
  const job = current;
  if (!(await askDelete(titleOf(job), job.results && job.state !== "done"))) return;
  try {
    await api.remove(job.id);
    open("");
  } catch (error) {
    setText(byId("connection"), error.message);
    byId("connection").hidden = false;
  }
}

api.onTokenNeeded(askToken);
connectDialogs();
showHelp();
connect();
follow();
