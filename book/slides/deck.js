// A deck: reveal.js for the slides, MathJax for the formulas, and a size at which the fullest slide still fits.
"use strict";

const deck = new Reveal({
  width: 1280, height: 720, margin: 0.05, center: false, hash: true, slideNumber: "c/t",
  transition: "none", plugins: [RevealNotes],
});

// Give the figures the room that the text leaves them, then shrink what is still higher or wider than the slide. A hidden
// slide has no size, so each is measured when it is shown.
function fit() {
  const box = deck.getCurrentSlide()?.querySelector(".fit");
  if (!box) return;
  const { width, height } = deck.getConfig();
  box.style.zoom = 1;
  const figures = box.querySelectorAll(":scope > img, :scope > .fragment > img");
  for (const figure of figures) figure.style.height = 0;
  const room = (height - 20 - box.scrollHeight) / figures.length - 20;
  for (const figure of figures) {
    const large = Math.min(room, (width * figure.naturalHeight) / figure.naturalWidth);
    figure.style.height = `${Math.max(large, Math.min(240, figure.naturalHeight))}px`;
  }
  box.style.zoom = Math.min(1, (height - 20) / box.scrollHeight, width / box.scrollWidth);
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
