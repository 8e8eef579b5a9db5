// A deck: reveal.js for the slides, MathJax for the formulas, and a size at which the fullest slide still fits.
"use strict";

const deck = new Reveal({
  width: 1280, height: 720, margin: 0.05, center: false, hash: true, slideNumber: "c/t",
  transition: "none", plugins: [RevealNotes],
});

// Shrink what is higher or wider than the slide. A hidden slide has no size, so each is measured when it is shown.
function fit() {
  const box = deck.getCurrentSlide()?.querySelector(".fit");
  if (!box) return;
  box.style.zoom = 1;
  const room = deck.getConfig();
  const zoom = Math.min(1, (room.height - 20) / box.scrollHeight, room.width / box.scrollWidth);
  box.style.zoom = zoom;
}

window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEnvironments: true },
  chtml: { matchFontHeight: false },
  options: { ignoreHtmlClass: "reveal", processHtmlClass: "math" },
  startup: {
    pageReady: async () => {
      await deck.initialize();
      await MathJax.startup.defaultPageReady();
      await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
      deck.on("slidechanged", fit);
      deck.layout();
      fit();
      document.body.dataset.ready = "yes"; // for whoever waits for the formulas
    },
  },
};
