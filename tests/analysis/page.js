// A document just large enough for the page's script: node page.js SCRIPT PAGE prints what rows show, as JSON.
"use strict";
const fs = require("fs");
const [script, page] = process.argv.slice(2).map(file => fs.readFileSync(file, "utf8"));

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], attributes: {}, listeners: {}, className: "", id: "", value: "" });
    Object.assign(this, { checked: false, hidden: false, type: "", colSpan: 1, innerHTML: undefined, parent: null });
  }
  get textContent() { return this.children.map(c => typeof c === "string" ? c : c.textContent).join(""); }
  set textContent(text) { this.children = [String(text)]; }
  append(...children) {
    for (const child of children) if (child instanceof Element) child.parent = this;
    this.children.push(...children.map(c => c instanceof Element ? c : String(c)));
  }
  replaceChildren(...children) { this.children = []; this.append(...children); }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  after(other) {
    other.parent = this.parent;
    this.parent.children.splice(this.parent.children.indexOf(this) + 1, 0, other);
  }
  get nextSibling() { return this.parent.children[this.parent.children.indexOf(this) + 1]; }
  remove() { this.parent.children.splice(this.parent.children.indexOf(this), 1); }
  all(tag) { return this.children.flatMap(c => c instanceof Element ? [...(c.tag === tag ? [c] : []), ...c.all(tag)] : []); }
  querySelector(tag) { return this.all(tag)[0]; }
  scrollIntoView() { this.seen = true; }
  focus() { this.focused = true; }
}

const byId = {};
for (const [, id] of page.matchAll(/ id="([\w-]+)"/g)) byId[id] = new Element(id);
for (const [, id, text] of page.matchAll(/<script type="application\/json" id="(\w+)">([^]*?)<\/script>/g)) {
  byId[id].textContent = text;
}
globalThis.document = {
  createElement: tag => new Element(tag),
  createElementNS: (space, tag) => new Element(tag),
  getElementById: id => byId[id] ?? byId.body.children.find(row => row.id === id),
};
(0, eval)(script);

const lines = () => byId.body.children.filter(row => row.className !== "opened");
const cells = () => lines().map(row => row.children.map(cell => cell.textContent));
const set = (id, value) => {
  byId[id][typeof value === "boolean" ? "checked" : "value"] = value;
  byId[id].listeners.input();
};
const press = button => button.listeners.click();
const head = name => byId.head.children.find(th => th.textContent === name);
const found = { all: cells(), shown: byId.shown.textContent };
set("search", "GELU");
found.searched = cells();
set("search", "");
set("outside", true);
found.outside = cells();
set("outside", false);
set("kind", "weight");
set("scheme", "0");
found.weights = cells();
set("kind", "");
set("scheme", "");
press(head("scale").children[0]);
found.up = cells();
found.sorted = [head("scale").attributes["aria-sort"], head("tensor").attributes["aria-sort"]];
press(head("scale").children[0]);
found.down = cells();
const opened = lines().map(row => {
  press(row.querySelector("button"));
  const below = row.nextSibling;
  const result = {
    bars: below.all("rect").map(bar => bar.textContent),
    heights: below.all("rect").map(bar => Number(bar.attributes.height)), text: below.textContent,
    uses: below.all("li").map(use => use.textContent), links: below.all("li").map(use => use.all("button").length),
  };
  press(row.querySelector("button"));
  return result;
});
found.opened = opened;
found.closed = byId.body.children.length === lines().length;
const linked = lines().find(row => {
  press(row.querySelector("button"));
  const link = row.nextSibling.all("li")[0]?.querySelector("button");
  if (link) press(link);
  return link;
});
found.followed = linked && lines().filter(row => row.seen).map(row => row.children[0].textContent);
console.log(JSON.stringify(found));
