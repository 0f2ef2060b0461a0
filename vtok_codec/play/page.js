"use strict";

/* The page of `vtok play`. The server sends video from any time on, as it decodes; to seek is to ask again. */

const part = (id) => document.getElementById(id);
const video = part("video");
const source = part("source");
const timeline = part("timeline");

let about = null;
/** Seconds of the file at which the video that is shown begins. */
let start = 0;
let ended = false;

const clock = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

const now = () => Math.min(about.seconds, start + video.currentTime);

/** Return the group of pictures in which a time lies. */
const gopAt = (seconds) => {
  const later = about.gops.findIndex((gop) => gop.start_s > seconds + 1e-6);
  return about.gops[later < 0 ? about.gops.length - 1 : Math.max(0, later - 1)];
};

const say = (text) => {
  part("message").textContent = text;
};

/** Say why the server sends no video, which a video element cannot tell. */
const explain = async (address) => {
  const answer = await fetch(address).catch(() => null);
  if (!answer) {
    say("vtok does not answer any more.");
  } else if (answer.ok) {
    answer.body.cancel();
    say("The browser cannot show this video.");
  } else {
    say(await answer.text());
  }
};

/** Show the file from some time on, with the tokens and the decoder that are chosen. */
const show = (seconds, playing) => {
  start = seconds;
  ended = false;
  say("");
  const query = new URLSearchParams({
    start: String(seconds),
    tokens: part("tokens").value,
    decoder: part("decoder").value,
  });
  video.src = `video?${query}`;
  if (about.source) {
    source.src = `source?start=${seconds}`;
  }
  if (playing) {
    begin();
  }
};

const begin = async () => {
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "NotAllowedError") {
      return;
    }
    // Browsers play sound only after a click on the page.
    video.muted = true;
    part("volume").value = "0";
    await video.play().catch(() => {});
  }
};

const follow = () => {
  if (!about.source) {
    return;
  }
  if (video.paused) {
    source.pause();
    return;
  }
  if (Math.abs(source.currentTime - video.currentTime) > 0.08 && source.readyState > 1) {
    source.currentTime = video.currentTime;
  }
  source.play().catch(() => {});
};

/** Draw the rate of each group of pictures, the damaged parts, and where the video is. */
const draw = () => {
  const ratio = window.devicePixelRatio || 1;
  const width = timeline.clientWidth;
  const height = timeline.clientHeight;
  timeline.width = width * ratio;
  timeline.height = height * ratio;
  const pen = timeline.getContext("2d");
  pen.scale(ratio, ratio);
  const x = (seconds) => (seconds / (about.seconds || 1)) * width;
  const rates = about.gops.map((gop) => (8 * gop.token_bytes) / 1000 / Math.max(1e-3, gop.end_s - gop.start_s));
  const most = Math.max(...rates, 1e-9);
  about.gops.forEach((gop, number) => {
    const top = height - 14 - (rates[number] / most) * (height - 30);
    pen.fillStyle = gop.start_s <= now() ? "#1e88e5" : "#90a4ae";
    pen.fillRect(x(gop.start_s), top, Math.max(1, x(gop.end_s) - x(gop.start_s) - 1), height - 14 - top);
  });
  pen.fillStyle = "#c62828";
  for (const lost of about.damage) {
    const end = lost.end_s ?? about.seconds;
    pen.fillRect(x(lost.start_s) - 1, 0, Math.max(3, x(end) - x(lost.start_s)), height - 10);
  }
  pen.fillStyle = getComputedStyle(timeline).color;
  pen.font = "11px system-ui, sans-serif";
  pen.fillText(`${most.toFixed(0)} kbit/s`, 2, 11);
  pen.fillRect(x(now()) - 1, 0, 2, height - 10);
};

const tick = () => {
  part("time").textContent = `${clock(now())} / ${clock(about.seconds)}`;
  part("play").textContent = video.paused || ended ? "Play" : "Pause";
  draw();
  follow();
};

const toggle = () => {
  if (ended) {
    show(0, true);
  } else if (video.paused) {
    begin();
  } else {
    video.pause();
  }
};

const seek = (seconds) => show(gopAt(Math.min(Math.max(0, seconds), about.seconds)).start_s, !video.paused || ended);

const listen = () => {
  part("play").addEventListener("click", toggle);
  part("tokens").addEventListener("input", () => {
    part("count").textContent = part("tokens").value;
  });
  for (const id of ["tokens", "decoder"]) {
    part(id).addEventListener("change", () => show(gopAt(now()).start_s, !video.paused));
  }
  part("volume").addEventListener("input", () => {
    video.volume = Number(part("volume").value);
    video.muted = video.volume === 0;
  });
  timeline.addEventListener("click", (event) => seek((event.offsetX / timeline.clientWidth) * about.seconds));
  timeline.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
    if (step) {
      event.preventDefault();
      seek(now() + step);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && event.target === document.body) {
      event.preventDefault();
      toggle();
    }
  });
  video.addEventListener("ended", () => {
    ended = true;
  });
  for (const each of [video, source]) {
    each.addEventListener("error", () => explain(each.currentSrc));
  }
  window.setInterval(tick, 100);
};

const describe = () => {
  document.title = about.name;
  part("name").textContent = about.name;
  const rate = about.rate ? `${Number(about.rate.toFixed(3))} frames/s` : "still picture";
  part("facts").textContent =
    `${about.width}×${about.height}, ${rate}, ${clock(about.seconds)}, ${about.tokens} tokens per position, ${about.model}`;
  const tokens = part("tokens");
  tokens.max = String(about.tokens);
  tokens.value = tokens.max;
  part("count").textContent = tokens.value;
  for (const name of about.decoders) {
    part("decoder").append(new Option(name, name));
  }
  part("volume-label").hidden = !about.sound;
  part("source-figure").hidden = !about.source;
  for (const lost of about.damage) {
    const item = document.createElement("li");
    const end = lost.end_s === null ? "the end" : `${lost.end_s.toFixed(2)} s`;
    item.textContent = `Damaged from ${lost.start_s.toFixed(2)} s to ${end}: ${lost.reason}`;
    part("damage").append(item);
  }
};

const main = async () => {
  const answer = await fetch("about.json");
  about = await answer.json();
  describe();
  listen();
  show(0, true);
};

main().catch((error) => say(`The player has lost vtok: ${error.message}`));
