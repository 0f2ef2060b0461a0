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
/** kbit/s of each group of pictures, and the largest of them. */
let rates = [];
let most = 1e-9;

const clock = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

const now = () => Math.min(about.seconds, start + video.currentTime);

/** Return the number of the group of pictures in which a time lies. */
const gopAt = (seconds) => {
  const later = about.gops.findIndex((gop) => gop.start_s > seconds + 1e-6);
  return later < 0 ? about.gops.length - 1 : Math.max(0, later - 1);
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
  if (source.ended) {
    // To play on would begin it anew.
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
  let drawn = -1;
  about.gops.forEach((gop, number) => {
    // A file may have more groups than the screen has pixels.
    if (x(gop.end_s) <= drawn) {
      return;
    }
    drawn = Math.max(x(gop.end_s), Math.floor(x(gop.start_s)) + 1);
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
  timeline.ariaValueNow = String(Math.floor(now()));
  timeline.ariaValueText = clock(now());
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

/** Show the file from the start of a group of pictures on. */
const seekTo = (gop) => show(about.gops[Math.min(Math.max(0, gop), about.gops.length - 1)].start_s, !video.paused || ended);

const seek = (seconds) => seekTo(gopAt(seconds));

/** Go on or back by so many seconds, and by a group of pictures at least. */
const step = (seconds) => {
  const here = gopAt(now());
  const aim = gopAt(now() + seconds);
  seekTo(seconds > 0 ? Math.max(aim, here + 1) : Math.min(aim, video.currentTime > 1 ? here : here - 1));
};

/** Say why a video ended before its time. */
const ask = async () => {
  if (now() < about.seconds - 0.5) {
    const answer = await fetch("problem.txt").catch(() => null);
    const problem = answer?.ok ? await answer.text() : "vtok does not answer any more.";
    say(problem ? `The video breaks off: ${problem}` : "");
  }
};

const listen = () => {
  part("play").addEventListener("click", toggle);
  part("tokens").addEventListener("input", () => {
    part("count").textContent = part("tokens").value;
  });
  for (const id of ["tokens", "decoder"]) {
    part(id).addEventListener("change", () => show(about.gops[gopAt(now())].start_s, !video.paused));
  }
  part("volume").addEventListener("input", () => {
    video.volume = Number(part("volume").value);
    video.muted = video.volume === 0;
  });
  timeline.addEventListener("click", (event) => seek((event.offsetX / timeline.clientWidth) * about.seconds));
  timeline.addEventListener("keydown", (event) => {
    const seconds = { ArrowLeft: -5, ArrowRight: 5, Home: -Infinity, End: Infinity }[event.key];
    if (seconds) {
      event.preventDefault();
      step(seconds);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && !event.target.closest("button, input, select")) {
      event.preventDefault();
      toggle();
    }
  });
  video.addEventListener("ended", () => {
    ended = true;
    ask();
  });
  for (const each of [video, source]) {
    each.addEventListener("error", () => explain(each.currentSrc));
  }
  window.setInterval(tick, 100);
};

const describe = () => {
  rates = about.gops.map((gop) => (8 * gop.token_bytes) / 1000 / Math.max(1e-3, gop.end_s - gop.start_s));
  most = rates.reduce((one, other) => Math.max(one, other), most);
  timeline.ariaValueMin = "0";
  timeline.ariaValueMax = String(Math.floor(about.seconds));
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
