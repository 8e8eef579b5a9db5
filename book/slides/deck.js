// A deck: reveal.js for the slides, MathJax for the formulas, and the size at which each slide is filled and not overfull.
"use strict";

const ROOT_STYLE = getComputedStyle(document.documentElement);
const [SANS, MONO] = ["--book-sans", "--book-mono"].map((name) => ROOT_STYLE.getPropertyValue(name));
const TEXT = 30; // pixels of a slide's 720: the size that is meant
const LARGEST = 1.3; // times TEXT, where there is little to say
const SMALLEST = 0.4;
const LEAST_FIGURE = 240; // pixels high, or as high as it was drawn

// A wide slide for a projector; on a phone held upright a tall one, whose text is then large enough to read.
function shape() {
  const upright = window.innerWidth < window.innerHeight;
  return upright ? { width: 560, height: Math.round((560 * window.innerHeight) / window.innerWidth) } : { width: 1280, height: 720 };
}

const deck = new Reveal({
  ...shape(), margin: 0.05, center: false, hash: true, slideNumber: "c/t", transition: "none", plugins: [RevealNotes],
  scrollActivationWidth: 0, // on a phone too, a slide is a slide
  pdfMaxPagesPerSlide: 1, pdfSeparateFragments: false, // one page a slide
});

// The largest text that fits, beside figures that take what room is left. What remains free goes, for a good part, above. A hidden
// slide has no size, so each is measured when it is shown.
function fit(slide = deck.getCurrentSlide()) {
  const box = slide.querySelector(".fit");
  const figures = [...box.querySelectorAll(":scope > img, :scope > .fragment > img, .pair > img")];
  const height = deck.getConfig().height - 20;
  box.style.paddingTop = 0;
  let times = figures.length ? 1 : LARGEST;
  while (!fitsAt(box, figures, times, height) && times > SMALLEST) times -= 0.02;
  box.style.paddingTop = `${Math.max(0, (height - box.scrollHeight) * 0.4)}px`;
}

// Set the text to `times` its size, and the figures to the height that is left. Is it enough for all?
function fitsAt(box, figures, times, height) {
  const { width } = deck.getConfig();
  box.style.fontSize = `${TEXT * times}px`;
  for (const figure of figures) figure.style.height = 0;
  for (const formula of box.querySelectorAll('mjx-container[display="true"]')) narrow(formula);
  const pairs = box.querySelector(".pairs");
  const columns = pairs ? getComputedStyle(pairs).gridTemplateColumns.split(" ").length : 1;
  const room = (height - box.scrollHeight) / Math.ceil(figures.length / columns) - 20;
  for (const figure of figures) {
    const wide = figure.parentElement.clientWidth;
    const large = Math.min(room, (wide * figure.naturalHeight) / figure.naturalWidth);
    figure.style.height = `${Math.max(large, Math.min(LEAST_FIGURE, figure.naturalHeight))}px`;
  }
  return box.scrollHeight <= height && box.scrollWidth <= width;
}

// A formula that is wider than the slide becomes smaller by itself, and leaves the text as it is.
function narrow(formula) {
  formula.style.fontSize = "";
  const parent = formula.parentElement;
  const share = parent.clientWidth / formula.scrollWidth;
  if (share < 1) formula.style.fontSize = `${100 * share}%`;
}

// Sizes can be measured only in the fonts that the slides are set in, and a browser loads none for a slide that is hidden.
async function loadFonts() {
  const text = document.querySelector(".slides").textContent;
  const ours = ["", "italic ", "bold "].flatMap((style) => [`${style}30px ${SANS}`, `${style}30px ${MONO}`]);
  const formulas = [...document.fonts].filter((face) => face.family.includes("MJX"));
  await Promise.all([...ours.map((font) => document.fonts.load(font, text)), ...formulas.map((face) => face.load())]);
}

window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEnvironments: true },
  chtml: { matchFontHeight: false, unknownFamily: "var(--book-sans)" }, // Chinese in a formula
  options: { ignoreHtmlClass: "reveal", processHtmlClass: "math" },
  startup: {
    pageReady: async () => {
      const laidOut = new Promise((resolve) => deck.on("pdf-ready", resolve)); // in the print view alone
      await deck.initialize();
      await MathJax.startup.defaultPageReady();
      await loadFonts();
      await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
      if (deck.isPrintView()) await laidOut;
      deck.on("slidechanged", () => fit());
      window.addEventListener("resize", () => {
        deck.configure(shape());
        fit();
      });
      deck.layout();
      for (const slide of deck.isPrintView() ? deck.getSlides() : [deck.getCurrentSlide()]) fit(slide);
      document.body.dataset.ready = "yes"; // for whoever waits for the formulas
    },
  },
};
