/**
 * What the page derives from the run of a workflow, whose stages are its nodes and what is within them:
 * everything here is a pure function of its arguments.
 *
 * @import { Span, StageSpan } from "./run-figures.js"
 * @import { RunReport } from "./wire.js"
 */

import { elapsedSeconds, layOut, progressOf } from "./run-figures.js";

/** More nodes than this are folded by class, and the longest so many have a row each. */
const ROWS_AT_MOST = 12;

/** Of a class that is unfolded so many nodes have a row, the longest. */
const MEMBERS_AT_MOST = 50;

/** What took less than this share of the run is summed up in one row. */
const LITTLE = 0.005;

/**
 * A node on the run's clock, with the stages that are a part of it and the nodes that it expanded into.
 * `seconds` is its time, in which theirs is; `ownSeconds` is without that of the nodes.
 *
 * @typedef {Span & {
 *   index: number, stage: StageSpan, seconds: number, ownSeconds: number, parts: StageSpan[], nodes: NodeSpan[]
 * }} NodeSpan
 */

/**
 * A row of the timeline: a node, those of one class, or what is left.
 *
 * @typedef {object} Row
 * @property {string} key What it is called where somebody unfolds it.
 * @property {"node" | "class" | "rest"} kind
 * @property {NodeSpan[]} nodes
 * @property {number} seconds
 * @property {number} depth
 * @property {boolean | null} open Null where there is nothing to unfold.
 */

/** Whether the run is of a workflow. @param {RunReport} run */
export function isWorkflow(run) {
  return run.nodes_total != null || run.stages.some((stage) => stage.node) || !!run.cached_nodes?.length;
}

/**
 * A workflow's run laid out in time: the seconds so far, those of the whole picture, and the nodes that no other
 * expanded into, each with what is in it.
 *
 * @typedef {{ elapsed: number, whole: number, nodes: NodeSpan[] }} Layout
 *
 * @param {RunReport} run
 * @param {number} nowUnixSeconds
 * @param {number | null} etaSeconds What the running stage has still to go.
 * @param {number | null} runEtaSeconds What the whole run has.
 * @returns {Layout}
 */
export function layOutWorkflow(run, nowUnixSeconds, etaSeconds, runEtaSeconds) {
  const { seconds, stages } = layOut(run, nowUnixSeconds, etaSeconds);
  const elapsed = elapsedSeconds(run, nowUnixSeconds);
  return { elapsed, whole: Math.max(seconds, elapsed + (runEtaSeconds ?? 0)), nodes: nodesOf(stages) };
}

/** @param {readonly StageSpan[]} stages All of the run's, in their order. @returns {NodeSpan[]} */
function nodesOf(stages) {
  /** @type {(NodeSpan | null)[]} By the stage's position: the node that it is, or is a part of. */
  const owners = [];
  /** @type {NodeSpan[]} */
  const outermost = [];
  stages.forEach((stage, index) => {
    const { parent, node } = stage.report;
    const within = parent == null ? null : (owners[parent] ?? null);
    if (within && !node) {
      within.parts.push(stage);
      owners[index] = within;
      return;
    }
    const { start, end, report } = stage;
    const seconds = report.seconds ?? end - start;
    const span = { index, stage, start, end, seconds, ownSeconds: seconds, parts: [], nodes: [] };
    owners[index] = span;
    (within?.nodes ?? outermost).push(span);
    if (!within) return;
    within.ownSeconds = Math.max(0, within.ownSeconds - seconds);
    within.end = Math.max(within.end, end);
  });
  return outermost;
}

/** These nodes and all that they expanded into. @param {readonly NodeSpan[]} nodes @returns {NodeSpan[]} */
export function withExpanded(nodes) {
  return nodes.flatMap((node) => [node, ...withExpanded(node.nodes)]);
}

/**
 * The rows of the timeline: one a node, or, where there are many, one a class. What took next to nothing, and
 * what is not among the longest, is in the last one.
 *
 * @param {readonly NodeSpan[]} nodes
 * @param {number} wholeSeconds
 * @param {ReadonlySet<string>} opened The keys of those that are unfolded.
 * @param {number} [depth]
 * @param {string} [within]
 * @returns {Row[]}
 */
export function rowsOf(nodes, wholeSeconds, opened, depth = 0, within = "") {
  const groups = nodes.length > ROWS_AT_MOST ? byClass(nodes) : nodes.map((node) => [node]);
  const [shown, rest] = apart(groups, wholeSeconds * LITTLE, ROWS_AT_MOST);
  const rows = shown.flatMap((group) => groupRows(group, wholeSeconds, opened, depth, within));
  const others = rest.flat();
  if (!others.length) return rows;
  return [...rows, ...foldedRows("rest", `${within}/rest`, others, wholeSeconds, opened, depth)];
}

/**
 * Those that have a row, in their order, and those that have none. One that would be alone among the latter
 * has a row too.
 *
 * @param {NodeSpan[][]} groups
 * @param {number} littleSeconds
 * @param {number} most
 * @returns {[shown: NodeSpan[][], rest: NodeSpan[][]]}
 */
function apart(groups, littleSeconds, most) {
  const seconds = (/** @type {NodeSpan[]} */ group) => sum(group);
  const telling = (/** @type {NodeSpan[]} */ group) => group.some((node) => !succeeded(node));
  const weighed = groups.map((group) => ({ group, weight: telling(group) ? Infinity : seconds(group) }));
  const longest = weighed
    .filter(({ weight }) => weight >= littleSeconds)
    .sort((a, b) => Number(b.weight > a.weight) - Number(a.weight > b.weight));
  const shown = new Set(longest.slice(0, most).map(({ group }) => group));
  if (groups.length - shown.size === 1) return [groups, []];
  return [groups.filter((group) => shown.has(group)), groups.filter((group) => !shown.has(group))];
}

/** @param {NodeSpan} node */
function succeeded({ stage }) {
  return stage.report.status === "succeeded";
}

/**
 * @param {NodeSpan[]} group
 * @param {number} wholeSeconds
 * @param {ReadonlySet<string>} opened
 * @param {number} depth
 * @param {string} within
 * @returns {Row[]}
 */
function groupRows(group, wholeSeconds, opened, depth, within) {
  const [node] = group;
  if (!node) return [];
  if (group.length > 1) {
    return foldedRows("class", `${within}/${classOf(node)}`, group, wholeSeconds, opened, depth);
  }
  const key = `${within}/#${node.index}`;
  const open = node.nodes.length ? opened.has(key) : null;
  const inner = open ? rowsOf(node.nodes, wholeSeconds, opened, depth + 1, key) : [];
  return [{ key, kind: "node", nodes: group, seconds: node.seconds, depth, open }, ...inner];
}

/**
 * One row for all of these nodes, and where it is unfolded one for each of them.
 *
 * @param {"class" | "rest"} kind
 * @param {string} key
 * @param {NodeSpan[]} nodes
 * @param {number} wholeSeconds
 * @param {ReadonlySet<string>} opened
 * @param {number} depth
 * @returns {Row[]}
 */
function foldedRows(kind, key, nodes, wholeSeconds, opened, depth) {
  const open = opened.has(key);
  const row = { key, kind, nodes, seconds: sum(nodes), depth, open };
  if (!open) return [row];
  const each = nodes.map((node) => [node]);
  const [shown, rest] = apart(each, 0, MEMBERS_AT_MOST);
  const members = shown.flatMap((group) => groupRows(group, wholeSeconds, opened, depth + 1, key));
  const others = rest.flat();
  if (!others.length) return [row, ...members];
  const left = { key: `${key}/rest`, nodes: others, seconds: sum(others), depth: depth + 1, open: null };
  return [row, ...members, { ...left, kind: "rest" }];
}

/** @param {readonly NodeSpan[]} nodes */
function sum(nodes) {
  return nodes.reduce((total, node) => total + node.seconds, 0);
}

/** @param {NodeSpan} node */
function classOf({ stage }) {
  return stage.report.component ?? stage.report.name;
}

/** @param {readonly NodeSpan[]} nodes @returns {NodeSpan[][]} */
function byClass(nodes) {
  /** @type {Map<string, NodeSpan[]>} */
  const classes = new Map();
  for (const node of nodes) {
    const those = classes.get(classOf(node));
    if (those) those.push(node);
    else classes.set(classOf(node), [node]);
  }
  return [...classes.values()];
}

/**
 * How often each class is there: "CLIPTextEncode × 4, VAELoader".
 *
 * @param {readonly string[]} classes
 * @param {number} most So many are named.
 */
export function countedClasses(classes, most) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const name of classes) counts.set(name, (counts.get(name) ?? 0) + 1);
  const named = [...counts].map(([name, count]) => (count > 1 ? `${name} × ${count}` : name));
  const more = named.length - most;
  return [...named.slice(0, most), ...(more > 0 ? [`${more} more`] : [])].join(", ");
}

/**
 * How many of the workflow's nodes are done, those in cache included and the part of each running one by its
 * own steps; `total` is null where that is not known.
 *
 * @param {RunReport} run
 */
export function nodesDone(run) {
  const cached = run.cached_nodes?.length ?? 0;
  let done = cached;
  let part = 0;
  for (const stage of run.stages) {
    if (!stage.node || stage.parent != null) continue;
    if (stage.status !== "running") done += 1;
    else part += partOf(progressOf(stage));
  }
  const total = run.nodes_total ?? null;
  return { done, cached, total, ratio: total ? Math.min(1, (done + part) / total) : null };
}

/** @param {ReturnType<typeof progressOf>} progress */
function partOf(progress) {
  return progress ? Math.min(1, progress.done / progress.total) : 0;
}
