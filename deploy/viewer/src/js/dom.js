// Elements made of text nodes only: what comes from a study or a server is never read as HTML.

export const byId = (id) => document.getElementById(id);

/** An element; `on` holds listeners, other entries are attributes (true = present, false or null = absent). */
export function make(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function fill(parent, ...children) {
  parent.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** Change a text only where it differs, so that nothing is announced twice or loses its selection. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
