// ?video=<url> → the picture over which the emojis float, or a sentence that says why there is none.

const HLS = "application/vnd.apple.mpegurl";

/** Put the picture first in `footer`. If `plays`, it starts by itself, without sound, because no browser allows more. */
export function showPicture(footer, url, plays) {
  const picture = document.createElement("div");
  picture.className = "picture";
  footer.prepend(picture);

  const say = (sentence) => {
    const reason = Object.assign(document.createElement("p"), { textContent: sentence, className: "no-picture" });
    reason.setAttribute("role", "status");
    picture.textContent = "";
    picture.append(reason);
  };

  const player = Object.assign(document.createElement("video"), {
    id: "player",
    controls: true,
    playsInline: true,
    muted: true,
    autoplay: plays,
  });
  player.setAttribute("aria-label", "The picture");
  if (/\.m3u8$/i.test(new URL(url).pathname) && !player.canPlayType(HLS)) {
    say("This browser cannot play HLS. Safari can, and every browser plays an .mp4 file.");
    return;
  }
  player.addEventListener("error", () => say("The picture cannot be played: it is not there, or of a kind that this browser does not know."));
  player.src = url;
  picture.append(player);
}
