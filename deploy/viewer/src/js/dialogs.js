// The page's dialogs: keyboard help, model card, access token, and the question before something is deleted.
import * as api from "./api.js";
import { byId, setText } from "./dom.js";

/** Buttons with `data-opens` open a dialog, those with `data-closes` close theirs; Escape closes by itself. */
export function connectDialogs() {
  for (const button of document.querySelectorAll("[data-opens]")) {
    button.addEventListener("click", () => byId(button.dataset.opens).showModal());
  }
  for (const button of document.querySelectorAll("[data-closes]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
}

export async function showCard(name) {
  setText(byId("card-title"), `Model card: ${name}`);
  setText(byId("card-text"), "Loading …");
  byId("card").showModal();
  try {
    setText(byId("card-text"), await api.modelCard(name));
  } catch (error) {
    setText(byId("card-text"), error.message);
  }
}

/** Ask for the token; resolves to null where the dialog is closed without one. */
export function askToken(refused) {
  const dialog = byId("token");
  const field = byId("token-field");
  setText(byId("token-refused"), refused ? "The server refused that token." : "");
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "enter" ? field.value.trim() || null : null),
      { once: true },
    );
    dialog.returnValue = "";
  });
}

/** Ask before a study is deleted; `onlyCopies` where no archive has its results. */
export function askDelete(study, onlyCopies) {
  const dialog = byId("delete");
  setText(byId("delete-study"), study);
  byId("delete-only-copies").hidden = !onlyCopies;
  // what is hidden would be read out too
  dialog.setAttribute("aria-describedby", onlyCopies ? "delete-said delete-only-copies" : "delete-said");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "delete"), { once: true });
  });
}
