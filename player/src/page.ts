/** The page of the player: it takes a file that is dropped or chosen, or the address in `?src=`. */

import type { VtokPlayer } from "./player/element.ts";

await isolate();
await import("./player/element.ts");

const player = document.querySelector<VtokPlayer>("vtok-player")!;
const chooser = document.querySelector<HTMLInputElement>("#file")!;
const address = document.querySelector<HTMLFormElement>("#address")!;

chooser.onchange = () => {
  if (chooser.files?.length) {
    player.file = chooser.files[0];
  }
};
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) {
    player.file = file;
  }
};
address.onsubmit = (event) => {
  event.preventDefault();
  player.setAttribute("src", new FormData(address).get("src") as string);
};

const source = new URLSearchParams(location.search).get("src") || "example.vtk";
if (URL.canParse(source, location.href) && /^https?:$/.test(new URL(source, location.href).protocol)) {
  player.setAttribute("src", source);
} else {
  player.failed("?src= takes an http or https address");
}

/**
 * Reload the page with the headers that allow threads, if the server does not send them. A browser that ignores them
 * all the same is not asked twice.
 */
async function isolate(): Promise<void> {
  const asked = "vtok-isolation";
  try {
    // Browsers that keep no data of a page throw here.
    if (globalThis.crossOriginIsolated || !navigator.serviceWorker || sessionStorage.getItem(asked)) {
      return;
    }
    sessionStorage.setItem(asked, "1");
    await navigator.serviceWorker.register("isolation.js");
    await navigator.serviceWorker.ready;
    location.reload();
    await new Promise(() => {});
  } catch (error) {
    console.warn("The decoder uses one core:", error);
  }
}
