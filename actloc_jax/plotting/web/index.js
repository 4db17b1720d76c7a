// The page of many videos: a strip of colours for each row of a video's timeline.
// data: classes, strips by video: [[row name, [[first bin, bins, class], ...]], ...], bins of a whole strip.

for (const node of document.querySelectorAll(".strips")) {
  for (const [name, runs] of data.strips[node.dataset.video]) {
    const strip = element("div", { class: "strip", title: name });
    for (const [first, bins, label] of runs) {
      const entry = data.classes[label];
      strip.append(element("i", {
        title: `${entry.name} (${name})`,
        style: {
          left: `${(100 * first) / data.bins}%`, width: `${(100 * bins) / data.bins}%`,
          background: entry.background ? "var(--rest)" : entry.colour,
        },
      }));
    }
    node.append(strip);
  }
}
byId("legend").append(...data.classes.map((entry) => element("span", {}, swatch(entry), entry.name)));
