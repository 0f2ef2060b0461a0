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

self.addEventListener("fetch", (event) => {
  const { cache, mode, url } = event.request;
  if (new URL(url).origin === self.location.origin && !(cache === "only-if-cached" && mode !== "same-origin")) {
    event.respondWith(isolated(event.request));
  }
});
