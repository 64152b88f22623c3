// Sending images to the server.
import * as api from "./api.js";
import { Channels } from "./channels.js";
import { byId, fill, make, setText } from "./dom.js";
import { bytes, percent, plural } from "./format.js";
import { remember } from "./titles.js";

export class Upload {
  #files = [];
  #models = [];
  #channels = new Channels(() => this.#update());
  #sent;

  /** `onSent` is called with the id of the accepted job. */
  constructor(onSent) {
    this.#sent = onSent;
    byId("choose-files").addEventListener("change", (event) => this.#choose([...event.target.files]));
    byId("choose-folder").addEventListener("change", (event) => this.#choose([...event.target.files]));
    byId("model").addEventListener("change", () => this.#ask());
    byId("upload").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#acceptDrops(byId("upload"));
  }

  showModels(models) {
    const chosen = byId("model").value;
    this.#models = models;
    fill(byId("model"), ...models.map((model) => make("option", { value: model.name }, `${model.name}`)));
    if (models.some((model) => model.name === chosen)) byId("model").value = chosen;
    byId("model").dispatchEvent(new Event("change"));
  }

  #choose(files) {
    this.#files = files;
    const total = files.reduce((sum, file) => sum + file.size, 0);
    setText(byId("chosen"), files.length ? `${this.#title()}, ${bytes(total)}` : "Nothing chosen.");
    this.#ask();
  }

  #ask() {
    const model = this.#models.find(({ name }) => name === byId("model").value);
    this.#channels.ask(
      this.#files.map(({ name }) => name),
      model?.channels ?? [],
    );
  }

  #title() {
    const [{ name, webkitRelativePath: path }] = this.#files;
    if (this.#files.length === 1) return name;
    return [path?.split("/")[0], plural(this.#files.length, "file")].filter(Boolean).join(": ");
  }

  #series() {
    return byId("which-series").hidden ? "" : byId("series").value.trim();
  }

  #update() {
    const ready = this.#files.length > 0 && byId("model").value && !this.#channels.told().wrong;
    byId("send").disabled = !ready;
  }

  #acceptDrops(form) {
    const over = (event) => {
      event.preventDefault();
      form.classList.add("over");
    };
    form.addEventListener("dragenter", over);
    form.addEventListener("dragover", over);
    form.addEventListener("dragleave", () => form.classList.remove("over"));
    form.addEventListener("drop", (event) => {
      event.preventDefault();
      form.classList.remove("over");
      this.#choose([...event.dataTransfer.files]);
    });
  }

  async #send() {
    const bar = byId("sending");
    const said = byId("upload-said");
    byId("send").disabled = true;
    bar.hidden = false;
    bar.value = 0;
    said.className = "";
    setText(said, "Sending …");
    try {
      const channels = this.#channels.told().field;
      const fields = { model: byId("model").value, series: this.#series(), channels };
      const { id } = await api.submit(this.#files, fields, (share) => {
        bar.value = share;
        bar.textContent = percent(share);
      });
      setText(said, "Accepted: the study is in the list.");
      remember(id, this.#title());
      this.#choose([]);
      byId("choose-files").value = byId("choose-folder").value = byId("series").value = "";
      this.#sent(id);
    } catch (error) {
      said.className = "bad";
      setText(said, error.message);
      this.#update();
    }
    bar.hidden = true;
  }
}
