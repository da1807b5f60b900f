element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.find) trigger("submit", { find: Number(button.dataset.find) });
  else if (button.dataset.timeline) trigger("click", { timeline: Number(button.dataset.timeline) });
  else if (button.dataset.remove) {
    if (confirm("Remove this crop from the gallery? This cannot be undone here.")) {
      trigger("delete", { remove: Number(button.dataset.remove) });
    }
  } else if (button.dataset.close) mmet.close(trigger);
});
