// What the page does without the server: links, files to save, keys, and where the focus goes.
window.mmet = {
  isNarrow: () => window.matchMedia("(max-width: 900px)").matches,
  arrive: (visit, link) => [visit, window.location.hash.slice(1)],
  remember: (link) => {
    const place = window.location.pathname + window.location.search + (link ? "#" + link : "");
    window.history.replaceState(null, "", place);
    if (link && mmet.isNarrow()) document.querySelector("#mm-main").scrollIntoView({ behavior: "smooth" });
    return [];
  },
  save: (content, name, type) => {
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(new Blob([content], { type }));
    anchor.download = name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
    return [""];
  },
  saveCSV: (content) => mmet.save(content, "people.csv", "text/csv"),
  saveHTML: (content) => mmet.save(content, "people.html", "text/html"),
  copyLink: async () => {
    const button = document.querySelector("#mm-copy");
    try {
      await navigator.clipboard.writeText(window.location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy it from the address bar";
    }
    setTimeout(() => (button.textContent = "Copy link"), 2000);
    return [];
  },
  open: () => {
    if (mmet.isNarrow()) {
      setTimeout(() => document.querySelector("#mm-right").scrollIntoView({ behavior: "smooth" }), 150);
    }
  },
  showTimeline: () => {
    const timeline = document.querySelector("#mm-when section");
    timeline?.scrollIntoView({ behavior: "smooth", block: "nearest" });
    timeline?.focus({ preventScroll: true });
    return [];
  },
  close: (trigger) => {
    const card = document.querySelector("#mm-results .is-open");
    trigger("clear");
    if (card) {
      card.classList.remove("is-open");
      card.focus();
    }
  },
};
window.addEventListener("hashchange", () => window.location.reload());
document.addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "Escape") document.querySelector("#mm-detail .mm-close")?.click();
  else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    document.querySelector("#mm-text textarea, #mm-text input")?.focus();
  }
});
