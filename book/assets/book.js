// Tables that are wider than a phone scroll by themselves; the keyboard must reach them too.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".bd-article table, .bd-article div.math")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
});

// A search result quotes the page's text, where a formula is still TeX: show its symbols, leave out its brackets.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const quoted = Search.htmlToText;
  Search.htmlToText = (html, anchor) => quoted(html, anchor).replace(/\\\[[^]*?\\\]/g, " … ").replace(/\\[()]/g, "");
});
