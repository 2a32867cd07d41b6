const every = 5000;
async function update() {
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    document.getElementById("reach").textContent = "";
  } catch {
    document.getElementById("reach").textContent = "This page cannot be reached any more; the numbers are old.";
  }
  setTimeout(update, every);
}
setTimeout(update, every);
