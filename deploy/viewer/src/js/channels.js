// Which file is which channel of a model, as the person says; what is left open the server reads from the files' names.
import { byId, fill, make, setText } from "./dom.js";

const IMAGE = /\.(nii|nii\.gz|nrrd|mha|png|jpe?g|tiff?)$/i;

/** Whether files can be told apart here: images of their own each, one for each of several channels with names to say. */
export function areChannels(names, channels) {
  const sayable = new Set(channels).size === channels.length && !channels.some((name) => name.includes(","));
  const fitting = channels.length > 1 && names.length === channels.length;
  return sayable && fitting && names.every((name) => IMAGE.test(name));
}

/** What the choices amount to: `field` for the server, or `wrong`, what is still amiss in them. */
export function told(chosen, channels) {
  if (chosen.every((name) => !name)) return { field: "", wrong: "" };
  const open = channels.filter((name) => !chosen.includes(name));
  if (open.length) return { field: "", wrong: `Each channel once: ${open.join(", ")} is not chosen yet.` };
  return { field: chosen.join(","), wrong: "" };
}

export class Channels {
  #channels = [];
  #changed;

  /** `onChange` is called when a channel was chosen. */
  constructor(onChange) {
    this.#changed = onChange;
  }

  /** Ask for the channel of each file, where there are several. */
  ask(names, channels) {
    const asked = areChannels(names, channels);
    this.#channels = asked ? channels : [];
    byId("which-channels").hidden = !asked;
    fill(byId("channels"), ...(asked ? names : []).map((name) => make("label", {}, name, this.#choice())));
    this.#say();
  }

  #choice() {
    const options = this.#channels.map((name) => make("option", { value: name }, name));
    const on = { change: () => this.#say() };
    return make("select", { on }, make("option", { value: "" }, "as its name says"), ...options);
  }

  #chosen() {
    return [...byId("channels").querySelectorAll("select")].map((select) => select.value);
  }

  #say() {
    setText(byId("channels-said"), this.told().wrong);
    this.#changed();
  }

  told() {
    return told(this.#chosen(), this.#channels);
  }
}
