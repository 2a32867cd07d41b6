const every = 5000, patience = 10000;
const scrolled = () => [...document.querySelectorAll("main .scroll")];
async function update() {
  const reach = document.getElementById("reach");
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(patience) });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = fresh.querySelector("main");
    if (!answer.ok || !main) throw new Error("not this page: a proxy's, say");
    // Where the reader is stays as it is.
    const places = scrolled().map((each) => each.scrollLeft);
    const open = document.getElementById("more")?.open;
    document.querySelector("main").replaceWith(main);
    scrolled().forEach((each, place) => (each.scrollLeft = places[place] ?? 0));
    if (open) document.getElementById("more")?.setAttribute("open", "");
    document.title = fresh.title;
    reach.textContent = "";
  } catch {
    reach.textContent = "This page cannot be reached any more; the numbers are old.";
  }
  setTimeout(update, every);
}
setTimeout(update, every);
