// Elements. Texts enter the page as text only: names of runs may hold anything.

/** An element; `props` are its properties, but for `class`, `data` and attributes with a dash. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  fill(element, children);
  return element;
}

/** Replace all children; null and undefined are none. */
export function fill(element, children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

/** An SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Put children in their order, and move only those that are not there yet: focus stays. */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}

/** Set a text only where it changed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
