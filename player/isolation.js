/*
 * A service worker that adds the two headers with which browsers let a page share memory between threads, for servers
 * that do not send them. Without threads, the decoder uses one core.
 */
"use strict";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

const isolated = async (request) => {
  const answer = await fetch(request);
  if (answer.status === 0 || answer.status === 304) {
    return answer;
  }
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
};

/* Where the player lies. Other pages below it, as on a server whose root it is, are left alone. */
const folder = new URL("./", self.location.href);
const page = (url) => url.origin === folder.origin && [folder.pathname, `${folder.pathname}index.html`].includes(url.pathname);
const within = (url) => url.origin === folder.origin && url.pathname.startsWith(folder.pathname);

/* Where the player lay, another site may lie by now. */
const isThere = () => fetch(new URL("vtok-player.js", folder), { method: "HEAD" }).then((answer) => answer.ok, () => true);

const isolatedPage = async (request) => {
  if (await isThere()) {
    return isolated(request);
  }
  await self.registration.unregister();
  return fetch(request);
};

self.addEventListener("fetch", (event) => {
  const { destination, mode, url } = event.request;
  const asked = new URL(url);
  if (mode === "navigate" ? page(asked) : destination === "worker" && within(asked)) {
    event.respondWith(mode === "navigate" ? isolatedPage(event.request) : isolated(event.request));
  }
});
