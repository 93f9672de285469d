// Filters and orders the crops. Pure functions without access to the page.

export const FILTERS = [
  ["unlabelled", "Unlabelled", (crop) => crop.label === null],
  ["all", "All", () => true],
  ["OK", "OK", (crop) => crop.label === "OK"],
  ["NOK", "NOK", (crop) => crop.label === "NOK"],
  ["skip", "Skipped", (crop) => crop.label === "skip"],
  ["untyped", "NOK without defect type", (crop) => crop.label === "NOK" && crop.defect === null],
  ["unmasked", "NOK without mask", (crop) => crop.label === "NOK" && crop.mask === null],
];

export const ORDERS = [
  ["given", "As listed"],
  ["suspicious", "Most anomalous first"],
  ["harmless", "Least anomalous first"],
];

export const defectName = (defect) => defect.replaceAll("_", " ");

export function allFilters(defects) {
  return [...FILTERS, ...defects.map((defect) => [
    `defect:${defect}`, defectName(defect), (crop) => crop.label === "NOK" && crop.defect === defect,
  ])];
}

// Returns the crops that pass the filter, in order. The queue stays fixed until the next choice of a filter, so that
// an answered crop keeps its place and can be revisited.
export function arrange(crops, matches, order) {
  const queue = crops.filter(matches);
  if (order === "given") return queue;
  const sign = order === "suspicious" ? -1 : 1;
  const last = Infinity; // crops without a score come last
  return queue
    .map((crop, place) => [crop.score === null ? last : sign * crop.score, place, crop])
    .sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] - b[0]))
    .map((entry) => entry[2]);
}

// Returns the index of the next crop that passes the filter, or -1. With `wraps`, crops skipped with the arrow keys
// come at the end.
export function afterAnswer(queue, index, matches, wraps) {
  const ahead = queue.findIndex((crop, place) => place > index && matches(crop));
  return ahead < 0 && wraps ? queue.findIndex(matches) : ahead;
}

export function count(crops) {
  const of = (label) => crops.filter((crop) => crop.label === label).length;
  return { total: crops.length, OK: of("OK"), NOK: of("NOK"), skip: of("skip"), left: of(null) };
}
