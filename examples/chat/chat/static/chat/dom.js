// Making elements. What people wrote is only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, className = "", ...content) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content); // strings become text
  return made;
}

/** Text that somebody else wrote: its direction of writing is its own. */
export function written(tag, className, text) {
  const made = element(tag, className, text);
  made.dir = "auto";
  return made;
}

/** A round picture with the first letters of a name. */
export function avatar(name) {
  const initials = name.split(/\s+/).map((word) => [...word][0]).slice(0, 2).join("");
  const made = element("span", "avatar", initials.toUpperCase());
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** A colour for a name, as an angle; the style sheet makes it light or dark enough. */
export function hue(name) {
  let sum = 7;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

/** Change a text only if it differs, so that nothing is read out twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
