/** Colours that several components have alike. */

/** Of how a run ended; see `outcome`. */
export const OUTCOME_COLOURS = `
  .outcome { color: var(--crystools-muted); }
  .outcome[data-level="running"] { color: var(--crystools-hbm); }
  .outcome[data-level="good"] { color: var(--crystools-good); }
  .outcome[data-level="warning"] { color: var(--crystools-warning); }
  .outcome[data-level="critical"] { color: var(--crystools-critical); }
`;

/** The colour of each kind of stage, the same in the timeline and the table. */
export const STAGE_COLOURS = `
  [data-kind="download"], [data-kind="load"], [data-kind="save"] { --color: var(--crystools-host); }
  [data-kind="text_encode"], [data-kind="image_encode"] { --color: var(--crystools-duty); }
  [data-kind="node"] { --color: var(--crystools-node); }
  [data-kind="denoise"] { --color: var(--crystools-hbm); }
  [data-kind="vae_encode"], [data-kind="vae_decode"] { --color: var(--crystools-tensorcore); }
`;
