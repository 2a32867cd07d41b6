const intervalMs = 5000, timeoutMs = 10000;
const scrollBoxes = () => [...document.querySelectorAll("main .scroll")];
async function update() {
  const connection = document.getElementById("connection");
  try {
    const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(timeoutMs) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const main = page.querySelector("main");
    if (!response.ok || !main) throw new Error("not this page, for example the error page of a proxy");
    // Keep scroll positions and the expanded table.
    const positions = scrollBoxes().map((box) => box.scrollLeft);
    const open = document.getElementById("more")?.open;
    document.querySelector("main").replaceWith(main);
    scrollBoxes().forEach((box, index) => (box.scrollLeft = positions[index] ?? 0));
    if (open) document.getElementById("more")?.setAttribute("open", "");
    document.title = page.title;
    connection.textContent = "";
  } catch {
    connection.textContent = "The server cannot be reached; this page is out of date.";
  }
  setTimeout(update, intervalMs);
}
setTimeout(update, intervalMs);
