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

// The theme says these few things in English on every page, to a mouse that waits and to a screen reader.
const CHINESE = {
  "Main": "全书目录", "Page": "本页目录", "light/dark": "明暗模式", "Version warning": "版本提示",
  "next page": "下一页", "previous page": "上一页",
  "Toggle primary sidebar": "显示或隐藏全书目录", "Toggle secondary sidebar": "显示或隐藏本页目录",
};
document.addEventListener("DOMContentLoaded", () => {
  if (!document.documentElement.lang.startsWith("zh")) return;
  for (const name of ["title", "aria-label", "data-bs-original-title"])
    for (const part of document.querySelectorAll(`[${name}]`)) {
      const chinese = CHINESE[part.getAttribute(name)];
      if (chinese) part.setAttribute(name, chinese);
    }
});
