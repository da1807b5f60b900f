element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.rank) {
    element.querySelectorAll(".is-open").forEach((card) => card.classList.remove("is-open"));
    button.classList.add("is-open");
    trigger("select", { rank: Number(button.dataset.rank) });
  } else if (button.dataset.text) trigger("click", { text: button.dataset.text });
  else if (button.dataset.sample) trigger("click", { sample: Number(button.dataset.sample) });
});
